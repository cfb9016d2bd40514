"""`--mode=convert`: weights between PyTorch's files, safetensors and checkpoints; ONNX."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from dfgan_jax.checkpoints.networks import load_weights, save_weights
from dfgan_jax.cli.model_name import model_name
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.models.generators import ARCHITECTURES, build_generator
from dfgan_jax.porting import onnx_file, torch_layout, weight_file
from dfgan_jax.porting.weights import Weights, file_metadata
from dfgan_jax.simulation import low_dose
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import refuse_existing
from dfgan_jax.support.types import JsonObject

VERIFY_SIZE = 256

MAX_ONNX_DIFFERENCE_HU = 0.02
"""Between ONNX Runtime and this package: rounding of float32."""

SAME_RMSE = 0.02
"""Differences of RMSE below this share are not significant. At 256², the pretrained networks,
trained with flips and turns, differ by 0.002 from themselves with exchanged kernels, and these are
the better ones."""

STORAGES = ("float32", "float16")


def run(*, inputs: Sequence[pathlib.Path], output: pathlib.Path, container: str | None = None,
        storage: str = "float32", verify: bool = False) -> None:
    """Converts weights, and prints how each tensor is converted.

    Args:
      inputs: a checkpoint, or one or more files of weights.
      output: a file of weights, by its suffix, for the generator (discriminators are written
        into files beside it); an `.onnx` for the generator alone; or, without a suffix, the
        folder of a checkpoint.
      container: the container of the generator, in a file with several.
      storage: type of the numbers in a file of weights: `float32`, or `float16`, which rounds
        them to three digits and halves the file; statistics of norms stay float32.
      verify: read the output back, and denoise a simulated slice with it.

    Raises:
      InputError: an input cannot be used, the output exists or has another suffix, or float16
        cannot be written into it or cannot hold a number.
    """
    is_file, is_onnx = weight_file.has_suffix(output), onnx_file.has_suffix(output)
    suffixes = [*weight_file.SUFFIXES, onnx_file.SUFFIX]
    # Numbers after a point are those of a date or a version in the name of a folder.
    if not (is_file or is_onnx) and output.suffix.strip(".0123456789"):
        raise InputError(f"--output={output} ends in {output.suffix}; expected a file that ends in "
                         f"{', '.join(suffixes)}, or for a checkpoint's folder a name without a "
                         "suffix")
    if storage not in STORAGES:
        raise InputError(f"--storage is {storage!r}; expected {' or '.join(STORAGES)}")
    if storage != "float32" and not is_file:
        raise InputError(f"--storage={storage} needs an output {', '.join(suffixes[:-2])} or "
                         f"{suffixes[-2]}; {output} is "
                         f"{'an ONNX file' if is_onnx else 'the folder of a checkpoint'}")
    for path in [output, *([_comparison(output)] if verify and not is_onnx else [])]:
        refuse_existing(path)
    loaded = load_weights(inputs, container=container)
    if is_file and loaded.weights.unseen and not weight_file.is_safetensors(output):
        named = ", ".join(f"{name} {value!r}" for name, value in loaded.weights.unseen.items())
        raise InputError(f"{output}: only .safetensors can carry that the generator has {named}; a "
                         "file of PyTorch would be taken for the published network")
    print("\n".join(loaded.explanation))
    if is_onnx:
        onnx_file.write_onnx(output, loaded.weights, name=model_name(loaded.meta["config"]),
                             meta=loaded.meta)
        written = [output]
    elif is_file:
        state_dicts = {name: {key: _stored(array, storage, name=f"{name}'s {key}")
                              for key, array in tensors.items()}
                       for name, tensors in loaded.weights.state_dicts().items()}
        written = _write_files(output, state_dicts, loaded.weights, loaded.meta)
    else:
        save_weights(output, loaded.weights, loaded.meta)
        written = [output]
    kind = "" if is_file or is_onnx else "the checkpoint folder "
    print(f"Wrote {kind}{', '.join(map(str, written))}", flush=True)
    if verify and is_onnx:
        _verify_onnx(loaded.weights, output)
    elif verify:
        _verify(loaded.weights, written, storage=storage)


def _stored(array: np.ndarray, storage: str, *, name: str) -> np.ndarray:
    """A tensor in the stored type; integers, and the few statistics of norms, keep their type.

    Variances are squares: float16 would overflow at 256².
    """
    if array.dtype.kind != "f" or name.endswith(("running_mean", "running_var")):
        return array
    with np.errstate(over="ignore"):
        stored = array.astype(storage)
    if not np.isfinite(stored).all():
        raise InputError(f"--storage is {storage!r}; {name} has {np.abs(array).max():g}, which it "
                         "cannot hold")
    return stored


def _write_files(output: pathlib.Path, state_dicts: Mapping[str, dict[str, np.ndarray]],
                 weights: Weights, meta: JsonObject) -> list[pathlib.Path]:
    """Writes the generator, and each discriminator into a file of its own."""
    length = max(len(suffix) for suffix in weight_file.SUFFIXES
                 if output.name.lower().endswith(suffix))
    stem, suffix = output.name[:-length], output.name[-length:]
    paths = {name: output if name == "generator" else
             output.with_name(f"{stem}.{name}_discriminator{suffix}") for name in state_dicts}
    for path in paths.values():
        refuse_existing(path)
    metadata = {"model": model_name(meta["config"])} | file_metadata(weights.unseen, meta) | {
        name: str(meta[name]) for name in ("step", "epoch") if meta[name] is not None}
    for name, path in paths.items():
        weight_file.write_weight_file(path, state_dicts[name],
                                      metadata={**metadata, "network": name})
    return list(paths.values())


def _comparison(output: pathlib.Path) -> pathlib.Path:
    """The path of the file for a comparison with PyTorch."""
    return output.with_name(f"{output.name}.verify.npz")


def _simulated_slice() -> tuple[np.ndarray, np.ndarray]:
    """Normal and quarter dose of a phantom, (1, size, size), HU."""
    return low_dose.simulate_pairs(1, size=VERIFY_SIZE, split="test", seed=0,
                                   protocol=low_dose.ScanProtocol())


def _verify(weights: Weights, written: Sequence[pathlib.Path], *, storage: str) -> None:
    """Reads the output back, and prints the statistics of a denoised simulated slice."""
    state_dicts = weights.state_dicts()
    again = load_weights(written).weights.state_dicts()
    for name, tensors in state_dicts.items():
        for key, original in tensors.items():
            array = _stored(original, storage, name=key).astype(original.dtype)
            if again.get(name, {}).get(key, np.empty(0)).tobytes() != array.tobytes():
                raise InputError(f"{written[0]}: {name}'s {key} was read back with other values")
    print(f"\nRead back: {sum(map(len, state_dicts.values()))} tensors, equal bit for bit"
          f"{'' if storage == 'float32' else f' to their {storage} values'}.")

    ndct, qdct = _simulated_slice()
    denoised = Denoiser.load(written[0])(qdct)
    exchanged = _with_exchanged_kernels(weights)(qdct)
    rows = {"quarter dose": qdct, "denoised": denoised, "with h and w exchanged": exchanged}
    print(f"A simulated slice, {VERIFY_SIZE}×{VERIFY_SIZE} [HU]\n"
          f"  {'':24}    mean      sd     min      max  RMSE to the normal dose")
    rmse = {}
    for name, image in rows.items():
        rmse[name] = float(np.sqrt(np.mean(np.square(image - ndct))))
        print(f"  {name:24}{image.mean():8.2f}{image.std():8.2f}{image.min():8.1f}"
              f"{image.max():9.1f}{rmse[name]:10.2f}")
    print(_verdict(rmse["quarter dose"], rmse["denoised"], rmse["with h and w exchanged"]), end="")
    path = _comparison(written[0])
    scale = ARCHITECTURES[weights.architecture].scaled
    np.savez(path, qdct=scale(qdct)[:, None], denoised=scale(denoised)[:, None])
    expected = ("denoised − qdct (the difference map)" if weights.unseen.get("output")
                == "difference" else "denoised")
    print(f"  {path}: qdct and denoised, (1, 1, {VERIFY_SIZE}, {VERIFY_SIZE}), normalised: from "
          f"qdct, PyTorch's model.eval() must give {expected}.", flush=True)


def _verdict(quarter_dose: float, denoised: float, exchanged: float) -> str:
    """What the RMSEs say of the generator's kernels, as lines; empty if they are as they should be.

    Args:
      quarter_dose: RMSE of the input.
      denoised: RMSE of the generator's result.
      exchanged: RMSE with height and width of every kernel exchanged.
    """
    if exchanged < denoised * (1 - SAME_RMSE):
        return ("  Warning: the generator does better with height and width of every kernel "
                "exchanged.\n  Were its kernels saved in PyTorch's layout?\n")
    if not denoised < quarter_dose:
        return ("  Warning: the generator's result is no nearer to the normal dose than the "
                "quarter dose is.\n  Was it trained, and were its kernels saved in PyTorch's "
                "layout?\n")
    if exchanged <= denoised * (1 + SAME_RMSE):
        return ("  The order of height and width makes no difference to this network, as to one "
                "trained with flips\n  and turns: the table cannot show whether they were "
                "exchanged.\n")
    return ""


def _verify_onnx(weights: Weights, path: pathlib.Path) -> None:
    """Denoises a simulated slice with ONNX Runtime and here, and shows the largest difference."""
    _, qdct = _simulated_slice()
    ours = Denoiser(build_generator(**weights.options), weights.generator_variables)(qdct)
    difference = float(np.abs(onnx_file.run_onnx(path, qdct) - ours).max())
    print(f"\nONNX Runtime denoises a simulated slice, {VERIFY_SIZE}×{VERIFY_SIZE}, as this "
          f"package does: the largest difference is {difference:.4f} HU.", flush=True)
    if not difference <= MAX_ONNX_DIFFERENCE_HU:
        raise InputError(f"{path}: ONNX Runtime's result differs by {difference:g} HU; expected at "
                         f"most {MAX_ONNX_DIFFERENCE_HU}")


def _with_exchanged_kernels(weights: Weights) -> Denoiser:
    """The same generator with height and width exchanged in every convolution."""
    tensors = {key: np.swapaxes(array, 2, 3) if array.ndim == 4 else array
               for key, array in weights.state_dicts()["generator"].items()}
    variables = torch_layout.from_state_dict(tensors, weights.layouts()["generator"])
    return Denoiser(build_generator(**weights.options),
                    {**weights.generator_variables, "params": variables["params"]})
