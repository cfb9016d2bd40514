"""The cases of `tests.parity.cases`, run with the published networks in PyTorch."""

import functools
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from tests.parity import cases
from tests.parity.cases import Precision, Quantities, Tensors, Training
from tests.parity.published import losses
from tests.parity.published.loop import Loop
from tests.parity.published.networks import PatchDiscriminator, UNet
from tests.reference.fill import tensor
from tests.reference.load import SEED

WEIGHTS = {"slides": losses.SLIDES, "code": losses.CODE}


def filled(module: nn.Module, precision: Precision, prefix: str = "") -> nn.Module:
    """The module with every entry of its state dict filled, drawn by its prefixed name."""
    module.load_state_dict({
        key: torch.from_numpy(tensor(prefix + key, tuple(value.shape), SEED))
        for key, value in module.state_dict().items()})
    return module.to(getattr(torch, precision))


def array(values: torch.Tensor) -> np.ndarray:
    """A copy: training changes tensors in place."""
    return values.detach().numpy().copy()


def parameters(module: nn.Module) -> Tensors:
    return {key: array(value) for key, value in module.named_parameters()}


def gradients(module: nn.Module) -> Tensors:
    return {key: array(value.grad) for key, value in module.named_parameters()
            if value.grad is not None}


def running_statistics(module: nn.Module) -> Tensors:
    return {key: array(value) for key, value in module.state_dict().items() if ".running_" in key}


def record_outputs(module: nn.Module, names: Iterable[str]) -> Callable[[], Tensors]:
    """Watches layers; the result tells their outputs since, those of several calls stacked."""
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def record(name, _module, _arguments, output):
        # A copy: the ReLU behind a norm works in place.
        outputs[name].append(array(output))

    for name in outputs:
        module.get_submodule(name).register_forward_hook(functools.partial(record, name))
    return lambda: {name: each[0] if len(each) == 1 else np.stack(each)
                    for name, each in outputs.items()}


def generator(attention: bool, precision: Precision, layers: Iterable[str]) -> Quantities:
    """The U-Net, and the gradients of Σ output·cotangent with the batch's statistics."""
    network = filled(UNet(attention), precision)
    qdct, cotangent = map(torch.from_numpy, cases.generator_inputs(precision))
    network.eval()
    with torch.no_grad():
        evaluated = network(qdct)
    network.train()
    outputs = record_outputs(network, layers)
    qdct.requires_grad_()
    denoised = network(qdct)
    torch.sum(denoised * cotangent).backward()
    return {"output, running statistics": {"": array(evaluated)},
            "output, batch statistics": {"": array(denoised)},
            "running statistics": running_statistics(network),
            "layers": outputs(),
            "gradients of the parameters": gradients(network),
            "gradient of the input": {"": array(qdct.grad)}}


def discriminator(channels: int, precision: Precision, layers: Iterable[str]) -> Quantities:
    """The patch discriminator, and the gradients of Σ scores·cotangent."""
    network = filled(PatchDiscriminator(channels), precision)
    images, cotangent = map(torch.from_numpy, cases.discriminator_inputs(channels, precision))
    outputs = record_outputs(network, layers)
    images.requires_grad_()
    scores = network(images)
    torch.sum(scores * cotangent).backward()
    return {"scores": {"": array(scores)},
            "layers": outputs(),
            "gradients of the parameters": gradients(network),
            "gradient of the input": {"": array(images.grad)}}


def loss_functions(precision: Precision) -> Quantities:
    """Each loss, and its gradient with respect to each argument."""
    values: Tensors = {}
    slopes: Tensors = {}
    for name, arguments in cases.loss_inputs(precision).items():
        leaves = [torch.from_numpy(each).clone().requires_grad_() for each in arguments]
        value = getattr(losses, name)(*leaves)
        value.backward()
        values[name] = array(value)
        slopes |= {f"{name} {i}": array(leaf.grad) for i, leaf in enumerate(leaves)}
    return {"losses": values, "gradients of the losses": slopes}


def loop(case: Training, precision: Precision) -> Loop:
    """The published loop from filled weights."""
    return Loop(filled(UNet(case.attention, case.width), precision),
                {name: filled(PatchDiscriminator(channels, case.discriminator_width), precision,
                              case.prefix(name)) for name, channels in case.channels.items()},
                WEIGHTS[case.variant])


def training(case: Training, precision: Precision) -> Quantities:
    """The first step's gradients, and where `STEPS` steps lead."""
    run = loop(case, precision)
    before, before_discriminators = parameters(run.generator), parameters(run.discriminators)
    values: Tensors = {}
    first: Quantities = {}
    for index in range(cases.STEPS):
        ndct, qdct = map(torch.from_numpy, cases.training_batch(index, case.size, precision))
        values |= {f"{name} {index}": np.array(value)
                   for name, value in run.step(ndct, qdct).items()}
        if index == 0:
            first = {"losses, first step": dict(values),
                     "generator's gradients, first step": gradients(run.generator),
                     "discriminators' gradients, first step": gradients(run.discriminators)}
    run.generator.eval()
    qdct = torch.from_numpy(
        cases.filled_image("generator", (2, 1, case.size, case.size), precision))
    with torch.no_grad():
        denoised = run.generator(qdct)
    return first | {
        "losses, every step": values,
        "generator's change": {key: value - before[key]
                               for key, value in parameters(run.generator).items()},
        "discriminators' change": {key: value - before_discriminators[key]
                                   for key, value in parameters(run.discriminators).items()},
        "running statistics afterwards": running_statistics(run.generator),
        "output afterwards": {"": array(denoised)}}
