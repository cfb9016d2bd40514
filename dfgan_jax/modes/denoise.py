"""`--mode=denoise`: denoises the slices of a file."""

import pathlib

import numpy as np

from dfgan_jax.errors import InputError
from dfgan_jax.files import refuse_existing, written_whole
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
    refuse_existing(output)
    qdct = _read(source)
    denoiser = Denoiser.load(checkpoint_path)
    with written_whole(output) as temporary:
        denoised = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32,
                                             shape=qdct.shape)
        slices = 1 if qdct.ndim == 2 else len(qdct)
        with progress("denoising", total=slices, unit="slices") as bar:
            try:
                denoiser(qdct, out=denoised, progress=bar)
            except InputError as error:
                raise InputError(f"{source}: {error}") from error
        denoised.flush()
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
