"""Compares the results of this machine's accelerator with its CPU's.

  python -m benchmarks.device_agreement --json=FILE

One forward pass and one training step (SGD, so that gradients show) of AttnDFGAN with the
joint discriminator, at the published width, on random images of 64².
"""

import functools
import sys

import jax
import numpy as np
import optax
from absl import app, flags

from benchmarks.jax_side import WEIGHTS
from benchmarks.json_file import write_json
from dfgan_jax.devices import backend
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.unet import UNet
from dfgan_jax.training import steps
from dfgan_jax.training.state import Networks, Optimizers, create_state

_JSON = flags.DEFINE_string("json", None, "File to write.", required=True)

# The accelerator's float32 modes of matrix units, and the dtype of the networks.
_FORMS = {"float32, highest precision": ("highest", "float32"),
          "float32, default precision (TF32 on a GPU)": ("default", "float32"),
          "bfloat16": ("default", "bfloat16")}


def main(arguments: list[str]) -> None:
    if jax.default_backend() == "cpu":
        sys.exit("error: JAX found no accelerator to compare with the CPU")
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(0.5, 1, (2, 64, 64, 1)).astype(np.float32)
             for name in ("ndct", "qdct")}
    expected = _compute(jax.devices("cpu")[0], batch, precision="highest", dtype="float32")
    forms = {}
    for name, (precision, dtype) in _FORMS.items():
        actual = _compute(jax.devices()[0], batch, precision=precision, dtype=dtype)
        forms[name] = {quantity: _difference(actual[quantity], expected[quantity])
                       for quantity in expected}
    write_json(_JSON.value, {"device": backend.describe_devices(), "jax": jax.__version__,
                             "difference_from_cpu": forms})
    for name, differences in forms.items():
        print(name)
        for quantity, value in differences.items():
            print(f"  {quantity:32s} {value:.1e}")


def _compute(device: jax.Device, batch: dict[str, np.ndarray], *, precision: str, dtype: str
             ) -> dict[str, list[np.ndarray]]:
    """Quantity → its arrays, computed on a device."""
    networks = Networks(UNet(attention=True, dtype=dtype), PatchDiscriminator(dtype=dtype), "joint")
    optimizers = Optimizers(optax.sgd(1.0), optax.sgd(1.0))
    with jax.default_device(device), jax.default_matmul_precision(precision):
        state = jax.jit(functools.partial(create_state, networks=networks, optimizers=optimizers))(
            jax.random.key(0))
        denoised = jax.jit(lambda v, x: networks.generator.apply(v, x, train=False))(
            state.generator, batch["qdct"])
        after, metrics = jax.jit(functools.partial(
            steps.train_step, networks=networks, optimizers=optimizers, loss=WEIGHTS))(
                state, batch)
        changes = {name: jax.tree.map(np.subtract, *jax.device_get((b, a)))
                   for name, a, b in (
                       ("generator gradients", state.generator["params"],
                        after.generator["params"]),
                       ("discriminator gradients", state.discriminators, after.discriminators))}
        losses = [metrics["generator_loss"], metrics["discriminator_loss"]]
    return {"denoised": [np.asarray(denoised, np.float32)],
            "losses": [np.stack(jax.device_get(losses))]} | {
                name: jax.tree.leaves(tree) for name, tree in changes.items()}


def _difference(actual: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """‖actual − expected‖ / ‖expected‖ over all arrays together."""
    error = sum(np.sum(np.square(a - b, dtype=np.float64)) for a, b in
                zip(actual, expected, strict=True))
    return float(np.sqrt(error / sum(np.sum(np.square(b, dtype=np.float64)) for b in expected)))


if __name__ == "__main__":
    app.run(main)
