"""A trained generator, from HU to HU."""

import functools
import math
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, PyTree

from dfgan_jax import pretrained
from dfgan_jax.data.domain import Domain
from dfgan_jax.denoising.strength import check_strength
from dfgan_jax.devices import agreement
from dfgan_jax.devices.backend import has_accelerator
from dfgan_jax.devices.inference import Inference
from dfgan_jax.models.architecture import Generator
from dfgan_jax.models.generators import architecture_of, build_generator, initial_variables
from dfgan_jax.models.idle_stages import idle_stages
from dfgan_jax.porting.weights import read_weights
from dfgan_jax.scans import axes, hounsfield, units
from dfgan_jax.scans.unit_names import UNITS, Unit
from dfgan_jax.support.digests import named_arrays_digest
from dfgan_jax.support.errors import DoubtfulInput, InputError
from dfgan_jax.support.jax_functions import costs_of, shape_struct
from dfgan_jax.support.progress import Progress
from dfgan_jax.support.types import JsonObject

MAX_BATCH_PIXELS = 16 * 512 ** 2
"""Pixels per batch on a GPU or TPU by default, for about 3 GB of activations."""

MAX_BATCH_PIXELS_ON_CPU = 2 * 512 ** 2
"""A larger batch is no faster there, and the first slice of a series would be written later."""


_MAX_LIKELY_HU = 1e6
"""Values beyond are of no scan, metal included, and make a network overflow."""


class _View(NamedTuple):
    """A slice turned by 90° · `quarter_turns`, then flipped from left to right."""

    quarter_turns: int
    flipped: bool


_VIEWS = tuple(_View(turns, flipped) for turns in range(4) for flipped in (False, True))


class Denoiser:
    """Denoises slices of any size with a trained generator and its running statistics.

    Args:
      generator: the module.
      variables: {"params": …, "batch_stats": …}; the second is empty for a generator without
        normalisation.
      meta: the metadata of the checkpoint: `config`, `step`, `epoch`.
      path: of the checkpoint.
      strength: the result is input + strength · (denoised − input): 0 returns the input, 1, the
        default, the model's result; at most `strength.MAX_STRENGTH`.
      self_ensemble: each slice is denoised in its eight flips and quarter turns, and the results
        are averaged (Lim et al., "Enhanced deep residual networks for single image
        super-resolution", CVPR Workshops 2017, section 3.4), in eight times the time.

    Raises:
      InputError: the strength is out of range.

    Attributes:
      meta: see the arguments.
      path: see the arguments; None without a checkpoint.
      strength: see the arguments.
      self_ensemble: see the arguments.
      device_count: number of this process's devices; each takes a part of a batch.
    """

    device_count = 1

    def __init__(self, generator: Generator, variables: PyTree, *,
                 meta: JsonObject | None = None, path: str | os.PathLike[str] | None = None,
                 strength: float = 1.0, self_ensemble: bool = False):
        self.strength, self.self_ensemble = check_strength(strength), self_ensemble
        self.meta: JsonObject = meta or {}
        self.path = None if path is None else pathlib.Path(path)
        self._variables = jax.device_put(variables)
        self._generator = generator
        self._architecture = architecture_of(generator)
        self._function = functools.partial(_between_hu, generator=generator, strength=strength)
        self._apply = Inference(self._function, self._variables, dtype=generator.dtype)
        self.device_count = self._apply.device_count

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, *, strength: float = 1.0,
             self_ensemble: bool = False) -> "Denoiser":
        """Loads the generator of a checkpoint.

        Args:
          path: the name of pretrained weights (docs/weights.md), a workdir (its best
            checkpoint is taken), the folder of one checkpoint, or a file of weights: PyTorch's
            (`.pth`, `.pt`, `.pth.tar`; PyTorch is not needed) or `.safetensors`. None: the
            default pretrained weights.
          strength: see `Denoiser`.
          self_ensemble: see `Denoiser`.

        Raises:
          InputError: there is no checkpoint, it is broken or refused, its generator is unknown,
            or the strength is out of range.
        """
        path = pretrained.resolve(path)
        if path.is_file():
            return cls._load_file(path, strength=strength, self_ensemble=self_ensemble)
        # Here, since files of weights need no orbax, which takes long to import.
        from dfgan_jax.checkpoints.folder import locate, read_meta, restore_generator

        folder = locate(path)
        meta = read_meta(folder)
        generator = _generator(folder, meta)
        _domain(folder, meta)  # refused here, not in the middle of what is made with the model
        variables = restore_generator(folder, _shapes(generator))
        return cls(generator, variables, meta=meta, path=folder, strength=strength,
                   self_ensemble=self_ensemble)

    @classmethod
    def load_in_all(cls, path: str | os.PathLike[str]) -> "Denoiser":
        """Loads a checkpoint in process 0, and sends it to every process; see `load`."""
        loaded = cls.load(path) if agreement.is_main() else None

        def description() -> JsonObject:
            return {"meta": loaded.meta, "path": str(loaded.path)} if loaded else {}

        described = agreement.from_main(description)
        if loaded is not None:
            agreement.broadcast(loaded._variables)
            return loaded
        generator = _generator(described["path"], described["meta"])
        return cls(generator, agreement.broadcast(_shapes(generator)), **described)

    @classmethod
    def _load_file(cls, path: str | os.PathLike[str], **options: Any) -> "Denoiser":
        read = read_weights([path])
        _domain(path, read.meta)
        return cls(_generator(path, read.meta), read.weights.generator_variables, meta=read.meta,
                   path=path, **options)

    def with_settings(self, *, strength: float = 1.0, self_ensemble: bool = False) -> "Denoiser":
        """The same model with another strength, or as a self-ensemble; see `Denoiser`.

        Raises:
          InputError: the strength is out of range.
        """
        return Denoiser(self._generator, self._variables, meta=self.meta, path=self.path,
                        strength=strength, self_ensemble=self_ensemble)

    @property
    def domain(self) -> Domain | None:
        """The scans that the model was trained on; None if its checkpoint has no such metadata.

        Raises:
          InputError: the metadata are invalid.
        """
        return _domain(self.path, self.meta)

    @property
    def home(self) -> pathlib.Path:
        """The workdir of the model's checkpoint, or the file that it was loaded from."""
        assert self.path is not None
        if self.path.is_file():
            return self.path
        from dfgan_jax.checkpoints.folder import workdir_of

        return workdir_of(self.path)

    def idle_stages(self, qdct_hu: Float[np.ndarray, "h w"]) -> list[str]:
        """The stages of a U-Net that take no part in denoising a slice; see `idle_stages`.

        At most the middle 256² of the slice are used.
        """
        multiple = self._architecture.size_multiple
        height, width = (min(length, 256) // multiple * multiple for length in qdct_hu.shape)
        top, left = ((length - kept) // 2
                     for length, kept in zip(qdct_hu.shape, (height, width), strict=True))
        crop = qdct_hu[None, top:top + height, left:left + width, None].astype(np.float32)
        return idle_stages(self._generator, self._variables,
                           jnp.asarray(hounsfield.normalise(crop)))

    @functools.cached_property
    def weights_sha256(self) -> str:
        """The SHA-256 of parameters and running statistics, independent of their file."""
        return named_arrays_digest((jax.tree_util.keystr(path), leaf) for path, leaf in
                             jax.tree_util.tree_leaves_with_path(self._variables))

    def __call__(self, qdct_hu: Num[np.ndarray, "*shape"], *, batch_size: int | None = None,
                 padded_size: tuple[int, int] | None = None,
                 out: Float[np.ndarray, "*shape"] | None = None, progress: Progress | None = None,
                 unit: Unit | None = "hu") -> Float[np.ndarray, "*shape"]:
        """Denoises slices.

        Slices are padded by reflection to a size that the generator takes (see `Architecture`),
        and cropped afterwards. Values below `hounsfield.LOWEST_HU`, such as −2000 outside the
        field of view, are kept; the input of the network has air there.

        Args:
          qdct_hu: (H, W) or (N, H, W), HU, or the given unit.
          batch_size: slices per batch; the last is filled up. By default `slices_per_batch`.
          padded_size: height and width that the slices are padded to, so that slices of several
            sizes share a compiled program: a size that `self.padded_size` keeps. By default
            the `self.padded_size` of their own.
          out: float32 of the same shape, for the result: with memory-mapped arrays, only one
            batch is in memory.
          progress: advanced by each slice.
          unit: of the slices and of the result: `hu`; `mu`, linear attenuation [1/mm]; `redcnn`,
            (HU + 1024) / 4096; `dfgan`, (HU + 500) / 500; `stored`, HU + 1024. None: HU, whose
            values and axes are not checked.

        Returns:
          The same shape, float32, in the same unit.

        Raises:
          InputError: the slices are no numbers, or masked; their shape is neither (H, W) nor
            (N, H, W); `out` cannot take them; the batch size is no positive whole number; slices
            cannot be padded to `padded_size`; a slice or the model's output is not finite; or,
            with a unit, the shape looks like (H, W, N), or values cannot be of the unit.
        """
        if np.ma.is_masked(qdct_hu):  # `asarray` would show what is below the mask
            raise InputError("qdct_hu has masked elements; expected an array without: "
                             "qdct_hu.filled(VALUE) fills them, in HU with "
                             f"{hounsfield.OUTSIDE_HU:g} for air, and qdct_hu.data unmasks them")
        qdct_hu = np.asarray(qdct_hu)
        if qdct_hu.dtype.kind not in "iuf":
            raise InputError(f"qdct_hu is an array of {qdct_hu.dtype}; expected whole numbers, or "
                             "float16, float32 or float64")
        if qdct_hu.ndim not in (2, 3) or 0 in qdct_hu.shape:
            raise InputError(f"qdct_hu has shape {qdct_hu.shape}; expected (H, W) or (N, H, W)")
        slices = qdct_hu.reshape(-1, *qdct_hu.shape[-2:])
        if unit is not None and qdct_hu.ndim == 3 and axes.look_like_hwn(qdct_hu.shape):
            raise InputError(f"qdct_hu has shape {qdct_hu.shape}; expected (N, H, W), and it looks "
                             "like (H, W, N): np.moveaxis(qdct_hu, -1, 0) exchanges the axes, and "
                             "unit=None takes HU as they are")
        if unit is not None and unit not in UNITS:
            raise InputError(f"unit is {unit!r}; expected one of {', '.join(UNITS)}, or None")
        if unit == "hu":
            try:
                units.check_hu(slices, name="qdct_hu")
            except DoubtfulInput as error:
                raise InputError(f"{error}: unit={error.value or None!r} takes them") from error
        if batch_size is None:
            batch_size = self.slices_per_batch(slices.shape[1:], count=len(slices))
        elif (isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer)
              or batch_size < 1):
            raise InputError(f"batch_size is {batch_size!r}; expected a whole number, 1 or more, "
                             "or None")
        size = padded_size or self.padded_size(slices.shape[1:])
        if self.padded_size(size) != size or any(
                padded < own for padded, own in zip(size, slices.shape[1:], strict=True)):
            raise InputError(f"padded_size is {size}; expected at least {slices.shape[1:]}, and a "
                             "size that the generator takes")
        if out is not None:
            _check_out(out, shape=qdct_hu.shape)
        denoised = np.empty(qdct_hu.shape, np.float32) if out is None else out
        denoised_slices = denoised.reshape(slices.shape)
        for start in range(0, len(slices), batch_size):
            hu = slices[start:start + batch_size].astype(np.float32, copy=False)
            broken = np.flatnonzero(~np.isfinite(hu).all((1, 2)))
            if len(broken):
                raise InputError(f"slice {start + broken[0]} has a NaN or an infinity")
            hu = units.to_hu(hu, unit or "hu", name="qdct_hu")
            denoised_slices[start:start + len(hu)] = units.from_hu(
                self._denoise(hu, (batch_size, *size), first=start), unit or "hu")
            if progress is not None:
                progress.advance(len(hu))
        return denoised

    def _denoise(self, hu: Float[np.ndarray, "n h w"], shape: tuple[int, int, int], *, first: int
                 ) -> Float[np.ndarray, "n h w"]:
        """Denoises finite slices, float32, padded to the shape of a batch.

        Args:
          first: index of the first slice, for messages.
        """
        count, height, width = hu.shape
        missing = [(0, padded - length) for padded, length in zip(shape, hu.shape, strict=True)]
        if any(missing[1] + missing[2]):
            hu = np.pad(hu, [(0, 0), *missing[1:]], mode="symmetric")
        if any(missing[0]):  # one shape is compiled, whatever the number of slices
            hu = np.pad(hu, [missing[0], (0, 0), (0, 0)], mode="edge")
        if self.self_ensemble:
            denoised = np.mean([_turned_back(self._denoise_whole(_turned(hu, view), first=first),
                                             view) for view in _VIEWS], axis=0)
        else:
            denoised = self._denoise_whole(hu, first=first)
        return denoised[:count, :height, :width]

    def _denoise_whole(self, hu: Float[np.ndarray, "n h w"], *, first: int
                       ) -> Float[np.ndarray, "n h w"]:
        """Denoises a full batch of a size that the generator takes."""
        denoised, is_finite = self._apply(hu)
        if not np.all(is_finite):
            index = int(np.argmin(is_finite))
            lowest, highest = hu[index].min(), hu[index].max()
            cause = (f"; its values from {lowest:.4g} to {highest:.4g} HU are the likely cause, "
                     f"expected at most {_MAX_LIKELY_HU:g} in magnitude"
                     if max(-lowest, highest) > _MAX_LIKELY_HU else "")
            raise InputError(f"{self.path or 'the model'}: its output is not finite for slice "
                             f"{first + index}{cause}")
        return np.asarray(denoised)

    def slices_per_batch(self, size: tuple[int, ...], *, count: int) -> int:
        """The number of slices in a batch.

        On each device, they have at most `MAX_BATCH_PIXELS` over the `memory_share` of the
        generator's `Architecture`.

        Args:
          size: height and width of the slices.
          count: number of the slices; of few, the next power of two, so that few shapes are
            compiled in many calls.
        """
        pixels = MAX_BATCH_PIXELS if has_accelerator() else MAX_BATCH_PIXELS_ON_CPU
        most = max(pixels // (math.prod(size) * self._architecture.memory_share), 1)
        return min(most * self.device_count, 1 << (count - 1).bit_length())

    def flops(self, size: tuple[int, ...]) -> float:
        """Floating-point operations for a slice of a height and width, by XLA's count.

        A multiplication and an addition are two operations. The program for a TPU counts, before
        XLA optimises it: there a convolution is a sum of products, whatever form this machine
        computes it in.
        """
        views = len(_VIEWS) if self.self_ensemble else 1
        hu = shape_struct((1, *self.padded_size(size)), np.float32)
        program = jax.jit(self._function).trace(self._variables, hu)
        return views * costs_of(program.lower(lowering_platforms=("tpu",)))["flops"]

    def padded_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """The least height and width that the generator takes slices of a size in."""
        multiple, least = self._architecture.size_multiple, self._architecture.min_size
        height, width = (max(length + -length % multiple, least) for length in size)
        return height, width


def _check_out(out: object, *, shape: tuple[int, ...]) -> None:
    """Refuses an `out` that cannot take a result of a shape."""
    if not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (shape, np.float32):
        found = (f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray)
                 else type(out).__name__)
        raise InputError(f"out is {found}; expected an array of float32 of shape {shape}")
    if not out.flags.writeable:
        raise InputError("out is read-only; expected one to write into, such as np.memmap of "
                         "mode='r+'")


def _turned(slices: Float[np.ndarray, "n h w"], view: _View) -> Float[np.ndarray, "n a b"]:
    turned = np.rot90(slices, view.quarter_turns, axes=(1, 2))
    return np.ascontiguousarray(turned[..., ::-1] if view.flipped else turned)


def _turned_back(slices: Float[np.ndarray, "n a b"], view: _View) -> Float[np.ndarray, "n h w"]:
    return np.rot90(slices[..., ::-1] if view.flipped else slices, -view.quarter_turns,
                    axes=(1, 2))


def _between_hu(variables: PyTree, hu: Float[Array, "n h w"], *, generator: Generator,
                strength: float) -> tuple[Float[Array, "n h w"], Bool[Array, " n"]]:
    """Denoises slices of a size that the generator takes.

    Returns:
      HU; and of each slice, whether all of the generator's output is finite.
    """
    outside = hu < hounsfield.LOWEST_HU
    qdct = hounsfield.normalise(jnp.where(outside, hounsfield.OUTSIDE_HU, hu))
    output: PyTree = generator.apply(variables, qdct[..., None], train=False)
    denoised = hounsfield.denormalise(output[..., 0].astype(jnp.float32))
    if strength != 1:
        denoised = hu + strength * (denoised - hu)
    return jnp.where(outside, hu, denoised), jnp.isfinite(denoised).all((1, 2))


def _shapes(generator: Generator) -> dict[str, PyTree]:
    """The shapes of a generator's variables."""
    shapes: dict[str, PyTree] = jax.eval_shape(
        lambda: initial_variables(generator, jax.random.key(0)))
    return shapes


def _domain(path: str | os.PathLike[str] | None, meta: JsonObject) -> Domain | None:
    """The training domain in a checkpoint's metadata; None without one."""
    described = meta.get("trained_on")
    try:
        return None if described is None else Domain.from_json(described)
    except InputError as error:
        raise InputError(f"{path or 'the model'}: its metadata 'trained_on': {error}") from error


def _generator(path: str | os.PathLike[str], meta: JsonObject) -> Generator:
    """Makes the module from a checkpoint's metadata."""
    try:
        return build_generator(**meta["config"]["generator"], dtype=meta["config"]["dtype"])
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its configuration names no generator ({error!r})") from error
