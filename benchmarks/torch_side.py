"""PyTorch's side of `benchmarks.against_torch`: the published networks and loop."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.workload import (
    COMPARED_SLICES,
    Run,
    Side,
    filled,
    slices_hu,
    training_batch,
)
from dfgan_jax.scans import hounsfield
from tests.parity.published import losses
from tests.parity.published.loop import (
    DISCRIMINATOR_LEARNING_RATE,
    GENERATOR_LEARNING_RATE,
    Loop,
)
from tests.parity.published.networks import PatchDiscriminator, UNet

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe() -> dict[str, Any]:
    on_gpu = DEVICE.type == "cuda"
    return {"framework": f"PyTorch {torch.__version__}", "is_gpu": on_gpu,
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "threads": torch.get_num_threads()}


@contextlib.contextmanager
def settings(side: Side) -> Iterator[None]:
    """Global switches: PyTorch's defaults for `eager`, the fastest for the other variants."""
    as_published = side.variant == "eager"
    # It may narrow float32 on a CPU as well, where all variants are compared in float32.
    narrow = DEVICE.type == "cuda" and not as_published
    torch.set_float32_matmul_precision("high" if narrow else "highest")
    torch.backends.cudnn.allow_tf32 = not side.exact
    torch.backends.cudnn.benchmark = not as_published
    yield


def rest() -> None:
    """Leaves the device's memory to the other framework."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def release() -> None:
    """Frees the compiled programs of dropped sides."""
    torch._dynamo.reset()
    rest()


def build(side: Side) -> Run:
    if side.task != "training":
        return _inference(side)
    return _published_training(side) if side.variant == "eager" else _fast_training(side)


def _wait(_handle: Any) -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _filled(network: nn.Module, side: Side) -> nn.Module:
    network.load_state_dict({key: torch.from_numpy(value) for key, value in filled(
        {key: tuple(value.shape) for key, value in network.state_dict().items()}).items()})
    network = network.to(DEVICE)
    return network if side.variant == "eager" else network.to(memory_format=torch.channels_last)


def _loop(side: Side) -> Loop:
    return Loop(_filled(UNet(attention=True, width=side.width), side),
                {"joint": _filled(PatchDiscriminator(2, side.discriminator_width), side)},
                losses.CODE)


def _published_training(side: Side) -> Run:
    loop = _loop(side)
    ndct, qdct = (torch.from_numpy(images[:, None])
                  for images in training_batch(side.batch, side.size))
    return Run(lambda: loop.step(ndct.to(DEVICE), qdct.to(DEVICE)), _wait,
               lambda values: {name: np.asarray(value) for name, value in values.items()})


def _autocast(side: Side) -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=side.dtype == "bfloat16")


def _compiled(function: Callable, side: Side) -> Callable:
    return torch.compile(function, mode=side.variant, dynamic=False) if side.compiled else function


def _fast_training(side: Side) -> Run:
    """The published step without its waits for losses and its unused gradients."""
    loop = _loop(side)
    generator_optimizer = torch.optim.Adam(
        loop.generator.parameters(), lr=GENERATOR_LEARNING_RATE, fused=True)
    discriminator_optimizer = torch.optim.Adam(
        loop.discriminators.parameters(), lr=DISCRIMINATOR_LEARNING_RATE, fused=True)
    host = [torch.from_numpy(images[:, None])
            for images in training_batch(side.batch, side.size)]
    if DEVICE.type == "cuda":
        host = [images.pin_memory() for images in host]  # as a DataLoader does in the background

    def generator_objective(ndct, qdct):
        with _autocast(side):
            denoised = loop.generator(qdct).float()
            return loop.generator_loss(denoised, ndct, qdct), denoised

    def discriminator_objective(denoised, ndct, qdct):
        with _autocast(side):
            return loop.discriminator_loss(denoised, ndct, qdct)

    generator_objective = _compiled(generator_objective, side)
    discriminator_objective = _compiled(discriminator_objective, side)
    loop.generator.train()

    def step():
        # CUDA graphs reuse their memory from here on.
        torch.compiler.cudagraph_mark_step_begin()
        ndct, qdct = (images.to(DEVICE, non_blocking=True, memory_format=torch.channels_last)
                      for images in host)
        generator_optimizer.zero_grad()
        loop.discriminators.requires_grad_(False)
        generator_loss, denoised = generator_objective(ndct, qdct)
        generator_loss.backward()
        generator_optimizer.step()

        loop.discriminators.requires_grad_(True)
        discriminator_optimizer.zero_grad()
        discriminator_loss = discriminator_objective(denoised.detach(), ndct, qdct)
        discriminator_loss.backward()
        discriminator_optimizer.step()
        return {"generator_loss": generator_loss, "discriminator_loss": discriminator_loss}

    return Run(step, _wait, lambda values: {name: value.detach().float().cpu().numpy()
                                            for name, value in values.items()})


def _inference(side: Side) -> Run:
    network = _filled(UNet(attention=True, width=side.width), side).eval()
    apply = _compiled(network, side)
    memory_format = torch.contiguous_format if side.variant == "eager" else torch.channels_last
    hu = slices_hu(side.batch, side.size)

    def placed() -> torch.Tensor:
        return torch.from_numpy(hounsfield.normalise(hu)[:, None]).to(
            DEVICE, memory_format=memory_format)

    def denoise(qdct: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode(), _autocast(side):
            return apply(qdct)

    def to_host(denoised: torch.Tensor) -> np.ndarray:
        return denoised[:, 0].float().cpu().numpy()

    if side.task == "inference":
        return Run(lambda: hounsfield.denormalise(to_host(denoise(placed()))), _wait,
                   lambda denoised: {"denoised": denoised[:COMPARED_SLICES]})
    qdct = placed()
    return Run(lambda: denoise(qdct), _wait,
               lambda denoised: {"denoised": to_host(denoised[:COMPARED_SLICES])})
