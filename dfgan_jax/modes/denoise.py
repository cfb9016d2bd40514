"""`--mode=denoise`: denoises the slices of a file."""

import os
import pathlib

import numpy as np

from dfgan_jax.errors import InputError
from dfgan_jax.inference import Denoiser
from dfgan_jax.progress import progress
from dfgan_jax.safe_pickle import reason


def run(*, checkpoint_path: str, source: pathlib.Path, output: pathlib.Path) -> None:
    """Denoises an array of HU, a few slices at a time.

    Args:
      checkpoint_path: what `Denoiser.load` takes.
      source: `.npy` of (H, W) or (N, H, W) numbers, HU.
      output: `.npy` to write, whole or not at all: the same shape, float32, HU.

    Raises:
      InputError: the checkpoint or the input cannot be used, or the output exists.
    """
    if output.suffix != ".npy":
        raise InputError(f"{output}: expected a name that ends in .npy")
    if output.exists():
        raise InputError(f"{output}: exists; choose another --output, or remove it")
    qdct = _read(source)
    denoiser = Denoiser.load(checkpoint_path)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        denoised = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32,
                                             shape=qdct.shape)
        slices = 1 if qdct.ndim == 2 else len(qdct)
        with progress("denoising", total=slices, unit="slices") as bar:
            try:
                denoiser(qdct, out=denoised, progress=bar)
            except InputError as error:
                raise InputError(f"{source}: {error}") from error
        denoised.flush()
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"Wrote {output}: {slices} slices of {qdct.shape[-2]}×{qdct.shape[-1]}, HU", flush=True)


def _read(path: pathlib.Path) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a broken header can raise anything
        raise InputError(f"{path}: expected an .npy of an array in HU ({reason(error)})"
                         ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise InputError(f"{path}: expected an .npy of an array of numbers in HU")
    if array.ndim not in (2, 3):
        raise InputError(f"{path}: has shape {array.shape}; expected (H, W) or (N, H, W)")
    return array
