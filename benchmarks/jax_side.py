"""This project's side of `benchmarks.against_torch`, on JAX's first device."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.workload import (
    COMPARED_SLICES,
    Arrays,
    Run,
    Side,
    filled,
    slices_hu,
    training_batch,
)
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices.parallel import Parallelism, inference
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.unet import UNet
from dfgan_jax.porting import torch_layout
from dfgan_jax.porting.torch_layout import Layout
from dfgan_jax.scans import hounsfield
from dfgan_jax.training import steps
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers, TrainState, create_state

# The weights of the published code, as in configs/attn.py:published.
WEIGHTS = LossOptions(image=1.0, difference=1.0, gradient_image=1.0, gradient_difference=1.0,
                      adversarial=0.05)
GENERATOR_LEARNING_RATE, DISCRIMINATOR_LEARNING_RATE = 2e-4, 2e-5


def describe() -> dict[str, Any]:
    device = jax.devices()[0]
    return {"framework": f"JAX {jax.__version__}", "device": device.device_kind,
            "is_gpu": device.platform == "gpu"}


def settings(side: Side) -> contextlib.AbstractContextManager:
    """How a side is compiled and run."""
    return jax.default_matmul_precision("highest" if side.exact else None)


def rest() -> None:
    """Does nothing between measurements: JAX keeps its memory for the next one."""


def build(side: Side) -> Run:
    return _training(side) if side.task == "training" else _inference(side)


def _variables(layout: Layout) -> dict[str, Any]:
    shapes = {key: entry.shape for key, entry in layout.items()}
    variables = torch_layout.from_state_dict(filled(shapes), layout)
    variables.pop(torch_layout.COUNTS, None)
    return variables


def _generator(side: Side) -> UNet:
    return UNet(width=side.width, attention=True, dtype=side.dtype)


def _generator_variables(side: Side) -> dict[str, Any]:
    return _variables(torch_layout.generator_layout(attention=True, width=side.width))


def training_step(side: Side) -> tuple[Callable[..., Any], TrainState, dict[str, np.ndarray]]:
    """The pure training step of a side, with its state and a batch."""
    networks = Networks(_generator(side),
                        PatchDiscriminator(width=side.discriminator_width, dtype=side.dtype),
                        "joint")
    optimizers = Optimizers(optax.adam(GENERATOR_LEARNING_RATE),
                            optax.adam(DISCRIMINATOR_LEARNING_RATE))
    state = jax.jit(functools.partial(create_state, networks=networks, optimizers=optimizers))(
        jax.random.key(0))
    discriminator = _variables(torch_layout.discriminator_layout(width=side.discriminator_width))
    state = dataclasses.replace(
        state, generator=jax.tree.map(jnp.asarray, _generator_variables(side)),
        discriminators={"joint": jax.tree.map(jnp.asarray, discriminator)})
    ndct, qdct = training_batch(side.batch, side.size)
    return (functools.partial(steps.train_step, networks=networks, optimizers=optimizers,
                              loss=WEIGHTS),
            state, {"ndct": ndct[..., None], "qdct": qdct[..., None]})


def inference_step(side: Side) -> tuple[Callable[..., Any], dict[str, Any], np.ndarray]:
    """The pure inference of a side, with its variables and normalised slices."""
    return (functools.partial(_generator(side).apply, train=False), _generator_variables(side),
            hounsfield.normalise(slices_hu(side.batch, side.size))[..., None])


def _training(side: Side) -> Run:
    step_function, state, batch = training_step(side)
    devices = Parallelism("auto", global_batch_size=side.batch, devices=jax.devices()[:1])
    update, state = devices.train(step_function), devices.place(state)

    def step():
        nonlocal state
        state, metrics = update(state, batch)
        return state, metrics

    def result(handle: Any) -> Arrays:
        return {name: np.asarray(handle[1][name])
                for name in ("generator_loss", "discriminator_loss")}

    return Run(step, jax.block_until_ready, result)


def _inference(side: Side) -> Run:
    if side.task == "inference":
        hu = slices_hu(side.batch, side.size)
        denoiser = Denoiser(_generator(side), _generator_variables(side))
        return Run(lambda: denoiser(hu, batch_size=side.batch), lambda denoised: denoised,
                   lambda denoised: {"denoised": denoised[:COMPARED_SLICES]})
    function, *arguments = inference_step(side)
    variables, qdct = jax.device_put(tuple(arguments))
    apply = inference(function, dtype=side.dtype)
    return Run(lambda: apply(variables, qdct), jax.block_until_ready,
               lambda denoised: {"denoised": np.asarray(denoised[:COMPARED_SLICES, ..., 0],
                                                        np.float32)})
