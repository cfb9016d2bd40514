"""The cases of `tests.parity.cases`, run with this package in JAX."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import dfgan
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.evaluation.protocols import PUBLISHED
from dfgan_jax.models.architecture import Generator
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.unet import UNet
from dfgan_jax.porting import torch_layout
from dfgan_jax.porting.torch_layout import Layout
from dfgan_jax.training import losses, steps
from dfgan_jax.training.state import Networks, Optimizers, TrainState
from tests.parity import cases
from tests.parity.cases import Precision, Quantities, Tensors, Training
from tests.reference.fill import tensor
from tests.reference.load import SEED, nhwc
from tests.training.recording import recording

CONFIG_VARIANTS = {"slides": "slides", "code": "published"}


def in_precision(precision: Precision):
    """JAX computes in float64 only where it is allowed to."""
    return jax.enable_x64(precision == "float64")


def array(values: Any, precision: Precision) -> np.ndarray:
    """In PyTorch's axes; refuses what was not computed in the precision."""
    values = np.asarray(values)
    if values.dtype != precision:
        raise AssertionError(f"computed in {values.dtype}, expected {precision}")
    return values.transpose(0, 3, 1, 2) if values.ndim == 4 else values


def filled_variables(layout: Layout, precision: Precision, prefix: str = "") -> dict[str, Any]:
    """Flax variables from the fills of a state dict, drawn by their prefixed names."""
    variables = torch_layout.from_state_dict(
        {key: tensor(prefix + key, entry.shape, SEED) for key, entry in layout.items()}, layout)
    variables.pop(torch_layout.COUNTS, None)
    return jax.tree.map(lambda leaf: leaf.astype(precision), variables)


def state_dict(variables: Any, layout: Layout, precision: Precision) -> Tensors:
    """PyTorch's names and axes of variables; refuses those of another precision."""
    for leaf in jax.tree.leaves(variables):
        if leaf.dtype != precision:
            raise AssertionError(f"computed in {leaf.dtype}, expected {precision}")
    return torch_layout.to_state_dict(variables, layout)


def plain_generator(network: Generator, layout: Layout, precision: Precision, prefix: str = ""
                    ) -> Quantities:
    """A generator that normalises nothing, and the gradients of Σ output·cotangent."""
    @jax.jit
    def run(variables, qdct, cotangent):
        def objective(variables, qdct):
            denoised = network.apply(variables, qdct, train=True)
            return jnp.sum(denoised * cotangent), denoised

        return jax.grad(objective, argnums=(0, 1), has_aux=True)(variables, qdct)

    with in_precision(precision):
        (gradients, qdct_gradient), denoised = run(
            filled_variables(layout, precision, prefix),
            *map(nhwc, cases.generator_inputs(precision)))
    return {"output": {"": array(denoised, precision)},
            "gradients of the parameters": state_dict(gradients, layout, precision),
            "gradient of the input": {"": array(qdct_gradient, precision)}}


def generator_layers(*, attention: bool) -> dict[str, str]:
    """Published module → path of ours: every layer with weights, every stage and every gate."""
    names = layers_with_weights(torch_layout.generator_layout(attention=attention))
    names["inc.conv"] = "inc"
    for i in (1, 2, 3, 4):
        names |= {f"down{i}.mpconv": f"down{i}", f"up{i}.conv": f"up{i}"}
        for stage in (f"down{i}", f"up{i}") if attention else ():
            names |= {f"{stage}.attn": f"{stage}_cbam",
                      f"{stage}.attn.ChannelGate": f"{stage}_cbam/channel_gate",
                      f"{stage}.attn.SpatialGate": f"{stage}_cbam/spatial_gate"}
    return names


def discriminator_layers() -> dict[str, str]:
    """Published module → path of ours."""
    return layers_with_weights(torch_layout.discriminator_layout())


def layers_with_weights(layout: Layout) -> dict[str, str]:
    return {key.removesuffix(".weight"): "/".join(entry.path.split("/")[1:-1])
            for key, entry in layout.items() if key.endswith(".weight")}


def outputs(intermediates: Any, layers: dict[str, str], precision: Precision) -> Tensors:
    """Published module → what our layer gave."""
    result = {}
    for name, path in layers.items():
        layer = functools.reduce(lambda node, part: node[part], path.split("/"), intermediates)
        value, = layer["__call__"]
        result[name] = array(value, precision)
    return result


def generator(attention: bool, precision: Precision) -> Quantities:
    """The U-Net, and the gradients of Σ output·cotangent with the batch's statistics."""
    network = UNet(attention=attention)

    @jax.jit
    def run(variables, qdct, cotangent):
        def objective(params, qdct):
            denoised, updates = network.apply(
                {**variables, "params": params}, qdct, train=True,
                mutable=["batch_stats", "intermediates"], capture_intermediates=True)
            return jnp.sum(denoised * cotangent), (denoised, updates)

        gradients, (denoised, updates) = jax.grad(objective, argnums=(0, 1), has_aux=True)(
            variables["params"], qdct)
        return network.apply(variables, qdct, train=False), denoised, updates, gradients

    layout = torch_layout.generator_layout(attention=attention)
    with in_precision(precision):
        evaluated, denoised, updates, (gradients, qdct_gradient) = run(
            filled_variables(layout, precision), *map(nhwc, cases.generator_inputs(precision)))
    return {"output, running statistics": {"": array(evaluated, precision)},
            "output, batch statistics": {"": array(denoised, precision)},
            "running statistics": state_dict(
                {"batch_stats": updates["batch_stats"]}, layout, precision),
            "layers": outputs(updates["intermediates"], generator_layers(attention=attention),
                              precision),
            "gradients of the parameters": state_dict({"params": gradients}, layout, precision),
            "gradient of the input": {"": array(qdct_gradient, precision)}}


def discriminator(channels: int, precision: Precision) -> Quantities:
    """The patch discriminator, and the gradients of Σ scores·cotangent."""
    network = PatchDiscriminator()

    @jax.jit
    def run(variables, images, cotangent):
        def objective(variables, images):
            scores, updates = network.apply(variables, images, mutable=["intermediates"],
                                            capture_intermediates=True)
            return jnp.sum(scores * cotangent), (scores, updates["intermediates"])

        return jax.grad(objective, argnums=(0, 1), has_aux=True)(variables, images)

    layout = torch_layout.discriminator_layout(channels=channels)
    with in_precision(precision):
        (gradients, images_gradient), (scores, intermediates) = run(
            filled_variables(layout, precision),
            *map(nhwc, cases.discriminator_inputs(channels, precision)))
    return {"scores": {"": array(scores, precision)},
            "layers": outputs(intermediates, discriminator_layers(), precision),
            "gradients of the parameters": state_dict(gradients, layout, precision),
            "gradient of the input": {"": array(images_gradient, precision)}}


def loss_functions(precision: Precision) -> Quantities:
    """Each loss, and its gradient with respect to each argument."""
    values: Tensors = {}
    slopes: Tensors = {}
    for name, arguments in cases.loss_inputs(precision).items():
        with in_precision(precision):
            value, gradients = jax.value_and_grad(
                getattr(losses, name), argnums=tuple(range(len(arguments))))(
                    *map(nhwc, arguments))
        values[name] = array(value, precision)
        slopes |= {f"{name} {i}": array(each, precision) for i, each in enumerate(gradients)}
    return {"losses": values, "gradients of the losses": slopes}


def training(case: Training, precision: Precision) -> Quantities:
    """The first step's gradients, and where `STEPS` steps lead.

    Optimizers and loss weights are those of the configuration files.
    """
    options = RunOptions.of(dfgan.get_config(CONFIG_VARIANTS[case.variant]))
    built = options.optimizer.build(total_steps=cases.STEPS)
    optimizers = Optimizers(recording(built.generator), recording(built.discriminator))
    assert built.average_decay == 0
    networks = Networks(UNet(width=case.width, attention=case.attention),
                        PatchDiscriminator(width=case.discriminator_width), case.discriminators)
    step = jax.jit(functools.partial(
        steps.train_step, networks=networks, optimizers=optimizers,
        loss=options.loss))
    layout = torch_layout.generator_layout(attention=case.attention, width=case.width)
    layouts = {name: torch_layout.discriminator_layout(channels=channels,
                                                       width=case.discriminator_width)
               for name, channels in case.channels.items()}

    def of_generator(params):
        return state_dict({"params": params}, layout, precision)

    def of_discriminators(variables):
        return {f"{name}.{key}": value for name, each in layouts.items()
                for key, value in state_dict(variables[name], each, precision).items()}

    before = filled_variables(layout, precision)
    before_discriminators = {name: filled_variables(each, precision, case.prefix(name))
                             for name, each in layouts.items()}
    values: Tensors = {}
    first: Quantities = {}
    with in_precision(precision):
        state = TrainState(
            step=jnp.int32(0), key=jnp.zeros(2, jnp.uint32), generator=before,
            generator_opt_state=optimizers.generator.init(before["params"]),
            discriminators=before_discriminators,
            discriminator_opt_state=optimizers.discriminator.init(before_discriminators))
        for index in range(cases.STEPS):
            ndct, qdct = map(nhwc, cases.training_batch(index, case.size, precision))
            state, metrics = step(state, {"ndct": ndct, "qdct": qdct})
            values |= {f"{name} {index}": array(metrics[name], precision)
                       for name in ("generator_loss", "discriminator_loss")}
            if index == 0:
                first = {"losses, first step": dict(values),
                         "generator's gradients, first step": of_generator(
                             state.generator_opt_state[1]),
                         "discriminators' gradients, first step": of_discriminators(
                             state.discriminator_opt_state[1])}
        qdct = nhwc(cases.filled_image("generator", (2, 1, case.size, case.size), precision))
        denoised = jax.jit(functools.partial(networks.generator.apply, train=False))(
            state.generator, qdct)
    change, discriminators_change = jax.tree.map(
        lambda after, before: np.asarray(after) - before,
        (state.generator["params"], state.discriminators),
        (before["params"], before_discriminators))
    return first | {
        "losses, every step": values,
        "generator's change": of_generator(change),
        "discriminators' change": of_discriminators(discriminators_change),
        "running statistics afterwards": state_dict(
            {"batch_stats": state.generator["batch_stats"]}, layout, precision),
        "output afterwards": {"": array(denoised, precision)}}


def metrics(images: np.ndarray, ndct: np.ndarray, precision: Precision) -> dict[str, float]:
    """`psnr` [dB] and `ssim` of (N, 1, H, W) images in HU, under the protocol `published`."""
    with in_precision(precision):
        means = PUBLISHED.mean(PUBLISHED.score(images[:, 0], ndct[:, 0]))
    return {name: means[name] for name in ("psnr", "ssim")}
