"""ONNX files of generators, for programs without Python or JAX."""

import os
import pathlib

import numpy as np
from jaxtyping import Float, Num

from dfgan_jax.porting.weights import Weights, file_metadata
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import written_whole
from dfgan_jax.support.types import JsonObject

SUFFIX = ".onnx"

NOTE = "Research software, not a medical device."


def has_suffix(path: str | os.PathLike[str]) -> bool:
    """Whether a path ends like an ONNX file."""
    return str(path).lower().endswith(SUFFIX)


def write_onnx(path: str | os.PathLike[str], weights: Weights, *, name: str, meta: JsonObject
               ) -> None:
    """Writes a generator; see `onnx_graph.build_onnx` for its input and output.

    Args:
      path: of the file.
      weights: of the generator.
      name: of the model.
      meta: of its checkpoint; the file's metadata have the name, the options that no weight shows,
        `trained_on`, and `NOTE`.

    Raises:
      InputError: the package onnx is not installed.
    """
    try:
        from dfgan_jax.porting.onnx_graph import build_onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise InputError(f"{path}: writing ONNX needs the package onnx: pip install onnx"
                         ) from None
    model = build_onnx(weights, name=name, metadata={
        "model": name, **file_metadata(weights.unseen, meta), "note": NOTE})
    with written_whole(pathlib.Path(path)) as temporary:
        temporary.write_bytes(model.SerializeToString())


def run_onnx(path: str | os.PathLike[str], qdct_hu: Num[np.ndarray, "n h w"]
             ) -> Float[np.ndarray, "n h w"]:
    """Denoises slices with an ONNX file, by ONNX Runtime on the CPU.

    Args:
      path: of a file of `write_onnx`.
      qdct_hu: (N, H, W), HU.

    Returns:
      The same shape, float32, HU.

    Raises:
      InputError: the package onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise InputError(f"{path}: running ONNX needs the package onnxruntime: pip install "
                         "onnxruntime") from None
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    denoised: np.ndarray
    (denoised,) = session.run(None, {
        session.get_inputs()[0].name: np.asarray(qdct_hu, np.float32)[:, None]})
    return denoised[:, 0]
