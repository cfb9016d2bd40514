"""A trained generator, from HU to HU."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from dfgan_jax.ct import hounsfield
from dfgan_jax.errors import InputError
from dfgan_jax.models.unet import SIZE_MULTIPLE, UNet
from dfgan_jax.porting.weights import read_weights
from dfgan_jax.progress import Progress
from dfgan_jax.training import checkpoints, parallel


class Denoiser:
    """Denoises slices of any size with a trained generator and its running statistics.

    Args:
      generator: the module.
      variables: {"params": …, "batch_stats": …}.
      meta: what the checkpoint holds beside them: `config`, `step`, `epoch`.
      path: of the checkpoint.

    Attributes:
      meta: as given.
      path: as given; None where there is no checkpoint.
    """

    def __init__(self, generator: UNet, variables: Any, *, meta: dict[str, Any] | None = None,
                 path: str | os.PathLike | None = None):
        self.meta = meta or {}
        self.path = None if path is None else pathlib.Path(path)
        self._variables = jax.device_put(variables)
        self._apply = parallel.inference(
            lambda variables, qdct: generator.apply(variables, qdct, train=False),
            dtype=generator.dtype)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Denoiser":
        """Loads the generator of a checkpoint.

        Args:
          path: a workdir (its best checkpoint is taken), the folder of one checkpoint,
            or a file of weights: PyTorch's (`.pth`, `.pt`, `.pth.tar`; PyTorch is not
            needed) or `.safetensors`.

        Raises:
          InputError: there is no checkpoint, it is broken or refused, or it is not that
            of a generator of DFGAN.
        """
        if pathlib.Path(path).is_file():
            return cls._load_file(path)
        folder = checkpoints.locate(path)
        meta = checkpoints.read_meta(folder)
        generator = _generator(folder, meta)
        like = jax.eval_shape(lambda: generator.init(
            jax.random.key(0), np.zeros((1, SIZE_MULTIPLE, SIZE_MULTIPLE, 1), np.float32),
            train=False))
        return cls(generator, checkpoints.restore_generator(folder, like), meta=meta, path=folder)

    @classmethod
    def _load_file(cls, path: str | os.PathLike) -> "Denoiser":
        read = read_weights([path])
        return cls(_generator(path, read.meta), read.weights.generator_variables, meta=read.meta,
                   path=path)

    def __call__(self, qdct_hu: np.ndarray, *, batch_size: int = 16,
                 out: np.ndarray | None = None, progress: Progress | None = None) -> np.ndarray:
        """Denoises slices.

        Heights and widths that are no multiples of 16 are padded by reflection, and
        cropped afterwards.

        Args:
          qdct_hu: (H, W) or (N, H, W), HU.
          batch_size: slices at a time.
          out: float32 of the same shape, to put the result into: with memory-mapped
            arrays, no more than a batch is in memory.
          progress: advanced by each slice.

        Returns:
          The same shape, float32, HU.

        Raises:
          InputError: the shape is another, a slice has a NaN or an infinity, or the
            model's output has one.
        """
        qdct_hu = np.asarray(qdct_hu)
        if qdct_hu.ndim not in (2, 3) or 0 in qdct_hu.shape:
            raise InputError(f"qdct_hu has shape {qdct_hu.shape}; expected (H, W) or (N, H, W)")
        slices = qdct_hu.reshape(-1, *qdct_hu.shape[-2:])
        height, width = slices.shape[1:]
        padding = [(0, 0), (0, -height % SIZE_MULTIPLE), (0, -width % SIZE_MULTIPLE)]
        batch_size = min(batch_size, len(slices))
        denoised = np.empty(qdct_hu.shape, np.float32) if out is None else out
        denoised_slices = denoised.reshape(slices.shape)
        for start in range(0, len(slices), batch_size):
            batch = hounsfield.normalise(slices[start:start + batch_size].astype(np.float32))
            count = len(batch)
            broken = np.flatnonzero(~np.isfinite(batch).all((1, 2)))
            if len(broken):
                raise InputError(f"slice {start + broken[0]} has a NaN or an infinity")
            batch = np.pad(batch, padding, mode="symmetric")
            # The last batch is filled, so that one shape is compiled.
            batch = np.pad(batch, [(0, batch_size - count), (0, 0), (0, 0)], mode="edge")
            output = np.asarray(self._apply(self._variables, batch[..., None]), np.float32)
            if not np.isfinite(output).all():
                raise InputError(f"{self.path or 'the model'}: its output is not finite")
            denoised_slices[start:start + count] = hounsfield.denormalise(
                output[:count, :height, :width, 0])
            if progress is not None:
                progress.advance(count)
        return denoised


def _generator(path: str | os.PathLike, meta: dict[str, Any]) -> UNet:
    """The module that a checkpoint's metadata tell of."""
    try:
        options = meta["config"]["generator"]
        return UNet(width=options["width"], attention=options["attention"],
                    dtype=meta["config"]["dtype"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: its configuration names no generator ({error!r})") from error
