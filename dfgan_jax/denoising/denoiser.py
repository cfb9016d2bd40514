"""A trained generator, from HU to HU."""

import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from dfgan_jax import pretrained
from dfgan_jax.checkpoints.folder import locate, read_meta, restore_generator, workdir_of
from dfgan_jax.data.domain import Domain
from dfgan_jax.devices import agreement, parallel
from dfgan_jax.models.architecture import Generator
from dfgan_jax.models.generators import architecture_of, build_generator, initial_variables
from dfgan_jax.porting.weights import read_weights
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.digests import named_arrays_digest
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import Progress

MAX_BATCH_PIXELS = 16 * 512 ** 2
"""Pixels of slices that are denoised at a time, by default: about 3 GB of activations."""

MAX_STRENGTH = 1.5
"""Beyond it the difference map, and all that it wrongly removes, is exaggerated."""


class Denoiser:
    """Denoises slices of any size with a trained generator and its running statistics.

    Args:
      generator: the module.
      variables: {"params": …, "batch_stats": …}; the second is empty for a generator that
        normalises nothing.
      meta: what the checkpoint holds beside them: `config`, `step`, `epoch`.
      path: of the checkpoint.
      strength: the result is input + strength · (denoised − input): 0 gives the input back, 1
        is the model's own result, the default; at most `MAX_STRENGTH`.

    Raises:
      InputError: the strength is another.

    Attributes:
      meta: as given.
      path: as given; None where there is no checkpoint.
      strength: as given.
    """

    def __init__(self, generator: Generator, variables: Any, *,
                 meta: dict[str, Any] | None = None, path: str | os.PathLike | None = None,
                 strength: float = 1.0):
        if not 0 <= strength <= MAX_STRENGTH:
            raise InputError(f"strength is {strength}; expected 0 to {MAX_STRENGTH}")
        self.strength = strength
        self.meta = meta or {}
        self.path = None if path is None else pathlib.Path(path)
        self._variables = jax.device_put(variables)
        self._architecture = architecture_of(generator)
        self._apply = parallel.inference(
            lambda variables, qdct: generator.apply(variables, qdct, train=False),
            dtype=generator.dtype)

    @classmethod
    def load(cls, path: str | os.PathLike = pretrained.DEFAULT, *, strength: float = 1.0
             ) -> "Denoiser":
        """Loads the generator of a checkpoint.

        Args:
          path: the name of pretrained weights (docs/weights.md), a workdir (its best
            checkpoint is taken), the folder of one checkpoint, or a file of weights: PyTorch's
            (`.pth`, `.pt`, `.pth.tar`; PyTorch is not needed) or `.safetensors`.
          strength: see `Denoiser`.

        Raises:
          InputError: there is no checkpoint, it is broken or refused, it is not that
            of a known generator, or the strength is none.
        """
        path = pretrained.resolve(path)
        if path.is_file():
            return cls._load_file(path, strength=strength)
        folder = locate(path)
        meta = read_meta(folder)
        generator = _generator(folder, meta)
        variables = restore_generator(folder, _shapes(generator))
        return cls(generator, variables, meta=meta, path=folder, strength=strength)

    @classmethod
    def load_in_all(cls, path: str | os.PathLike) -> "Denoiser":
        """Loads a checkpoint in process 0 of a run, and has it in every process; see `load`."""
        loaded = cls.load(path) if agreement.is_main() else None
        described: Any = agreement.from_main(
            lambda: loaded and {"meta": loaded.meta, "path": str(loaded.path)})
        if loaded is not None:
            agreement.broadcast(loaded._variables)
            return loaded
        generator = _generator(described["path"], described["meta"])
        return cls(generator, agreement.broadcast(_shapes(generator)), **described)

    @classmethod
    def _load_file(cls, path: str | os.PathLike, *, strength: float) -> "Denoiser":
        read = read_weights([path])
        return cls(_generator(path, read.meta), read.weights.generator_variables, meta=read.meta,
                   path=path, strength=strength)

    @property
    def domain(self) -> Domain | None:
        """The scans that the model was trained on; None where its checkpoint does not say.

        Raises:
          InputError: the checkpoint's metadata hold something else.
        """
        described = self.meta.get("trained_on")
        return None if described is None else Domain.from_json(described)

    @property
    def home(self) -> pathlib.Path:
        """The workdir that the model is from, or the file that it was loaded from."""
        assert self.path is not None
        return self.path if self.path.is_file() else workdir_of(self.path)

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Names the generator's parameters and running statistics, whatever file they are from."""
        return named_arrays_digest((jax.tree_util.keystr(path), leaf) for path, leaf in
                             jax.tree_util.tree_leaves_with_path(self._variables))

    def __call__(self, qdct_hu: np.ndarray, *, batch_size: int | None = None,
                 out: np.ndarray | None = None, progress: Progress | None = None) -> np.ndarray:
        """Denoises slices.

        Heights and widths that the generator does not take (its `Architecture` says which) are
        padded by reflection, and cropped afterwards. Values that no measurement has (below
        `hounsfield.LOWEST_HU`, such as −2000 outside the field of view) stand as they were; the
        network sees air there.

        Args:
          qdct_hu: (H, W) or (N, H, W), HU.
          batch_size: slices at a time; by default as many as `MAX_BATCH_PIXELS` holds, divided
            by the `memory_share` of the generator's `Architecture`.
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
        # By default a power of two, so that the last batches of many calls share few shapes.
        most = batch_size_of(slices.shape[1:]) // self._architecture.memory_share
        batch_size = (min(batch_size, len(slices)) if batch_size else
                      min(max(most, 1), 1 << (len(slices) - 1).bit_length()))
        denoised = np.empty(qdct_hu.shape, np.float32) if out is None else out
        denoised_slices = denoised.reshape(slices.shape)
        for start in range(0, len(slices), batch_size):
            hu = slices[start:start + batch_size].astype(np.float32)
            broken = np.flatnonzero(~np.isfinite(hu).all((1, 2)))
            if len(broken):
                raise InputError(f"slice {start + broken[0]} has a NaN or an infinity")
            denoised_slices[start:start + len(hu)] = self._denoise(hu, batch_size)
            if progress is not None:
                progress.advance(len(hu))
        return denoised

    def _denoise(self, hu: np.ndarray, batch_size: int) -> np.ndarray:
        """Denoises finite slices, float32 (n, H, W) with n at most `batch_size`."""
        count, height, width = hu.shape
        outside = hu < hounsfield.LOWEST_HU
        batch = hounsfield.normalise(np.where(outside, hounsfield.OUTSIDE_HU, hu))
        batch = np.pad(batch, [(0, 0), (0, self._missing(height)), (0, self._missing(width))],
                       mode="symmetric")
        # The last batch is filled, so that one shape is compiled.
        batch = np.pad(batch, [(0, batch_size - count), (0, 0), (0, 0)], mode="edge")
        output = np.asarray(self._apply(self._variables, batch[..., None]), np.float32)
        if not np.isfinite(output).all():
            raise InputError(f"{self.path or 'the model'}: its output is not finite")
        denoised = hounsfield.denormalise(output[:count, :height, :width, 0])
        if self.strength != 1:
            denoised = hu + np.float32(self.strength) * (denoised - hu)
        return np.where(outside, hu, denoised)

    def _missing(self, length: int) -> int:
        """Pixels to add to a height or width, so that the generator takes it."""
        multiple, least = self._architecture.size_multiple, self._architecture.min_size
        return max(-length % multiple, least - length)


def batch_size_of(shape: tuple[int, ...]) -> int:
    """Slices of a height and width that `MAX_BATCH_PIXELS` holds, at least one."""
    return max(MAX_BATCH_PIXELS // max(int(np.prod(shape)), 1), 1)


def _shapes(generator: Generator) -> Any:
    """Those of its variables."""
    return jax.eval_shape(lambda: initial_variables(generator, jax.random.key(0)))


def _generator(path: str | os.PathLike, meta: dict[str, Any]) -> Generator:
    """The module that a checkpoint's metadata tell of."""
    try:
        return build_generator(**meta["config"]["generator"], dtype=meta["config"]["dtype"])
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its configuration names no generator ({error!r})") from error
