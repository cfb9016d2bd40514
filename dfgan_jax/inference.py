"""A trained generator, from HU to HU."""

import os
from typing import Any

import jax
import numpy as np

from dfgan_jax.ct import hounsfield
from dfgan_jax.errors import InputError
from dfgan_jax.models.unet import SIZE_MULTIPLE, UNet
from dfgan_jax.progress import Progress
from dfgan_jax.training import checkpoints


class Denoiser:
    """Denoises slices of any size with a trained generator and its running statistics.

    Args:
      generator: the module.
      variables: {"params": …, "batch_stats": …}.
      meta: what the checkpoint holds beside them: `config`, `step`, `epoch`.
    """

    def __init__(self, generator: UNet, variables: Any, *, meta: dict[str, Any] | None = None):
        self.meta = meta or {}
        self._variables = jax.device_put(variables)
        self._apply = jax.jit(lambda variables, qdct: generator.apply(variables, qdct, train=False))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Denoiser":
        """Loads the generator of a workdir (its best checkpoint) or of one checkpoint.

        Raises:
          InputError: there is no checkpoint, or it does not fit its configuration.
        """
        folder = checkpoints.locate(path)
        meta = checkpoints.read_meta(folder)
        try:
            options = meta["config"]["generator"]
            generator = UNet(width=options["width"], attention=options["attention"],
                             dtype=meta["config"]["dtype"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder}: its configuration names no generator ({error!r})"
                             ) from error
        like = jax.eval_shape(lambda: generator.init(
            jax.random.key(0), np.zeros((1, SIZE_MULTIPLE, SIZE_MULTIPLE, 1), np.float32),
            train=False))
        return cls(generator, checkpoints.restore_generator(folder, like), meta=meta)

    def __call__(self, qdct_hu: np.ndarray, *, batch_size: int = 16,
                 progress: Progress | None = None) -> np.ndarray:
        """Denoises slices.

        Heights and widths that are no multiples of 16 are padded by reflection, and
        cropped afterwards.

        Args:
          qdct_hu: (H, W) or (N, H, W), HU.
          batch_size: slices at a time.
          progress: advanced by each slice.

        Returns:
          The same shape, float32, HU.

        Raises:
          InputError: the shape is another.
        """
        qdct_hu = np.asarray(qdct_hu)
        if qdct_hu.ndim not in (2, 3) or 0 in qdct_hu.shape:
            raise InputError(f"qdct_hu has shape {qdct_hu.shape}; expected (H, W) or (N, H, W)")
        slices = qdct_hu.reshape(-1, *qdct_hu.shape[-2:])
        height, width = slices.shape[1:]
        padding = [(0, 0), (0, -height % SIZE_MULTIPLE), (0, -width % SIZE_MULTIPLE)]
        batch_size = min(batch_size, len(slices))
        denoised = np.empty(slices.shape, np.float32)
        for start in range(0, len(slices), batch_size):
            batch = hounsfield.normalise(slices[start:start + batch_size].astype(np.float32))
            count = len(batch)
            batch = np.pad(batch, padding, mode="symmetric")
            # The last batch is filled, so that one shape is compiled.
            batch = np.pad(batch, [(0, batch_size - count), (0, 0), (0, 0)], mode="edge")
            output = np.asarray(self._apply(self._variables, batch[..., None]), np.float32)
            denoised[start:start + count] = hounsfield.denormalise(
                output[:count, :height, :width, 0])
            if progress is not None:
                progress.advance(count)
        return denoised.reshape(qdct_hu.shape)
