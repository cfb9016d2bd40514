"""One training step and one evaluation step, as pure functions of state and batch.

They are independent of devices but for `axis_name`; `parallel.py` runs them under jit or
pmap. A batch is {"ndct": …, "qdct": …}, each (N, H, W, 1) float32, normalised HU.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from dfgan_jax.models.architecture import STAGE
from dfgan_jax.support.jax_functions import pmean
from dfgan_jax.training import losses
from dfgan_jax.training.anatomy import removed_anatomy
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers, TrainState

Batch: TypeAlias = Mapping[str, Float[Array, "n h w 1"]]
Metrics: TypeAlias = dict[str, Float[Array, "..."]]


def _scores(networks: Networks, discriminators: Mapping[str, PyTree], image: jax.Array,
            qdct: jax.Array) -> dict[str, jax.Array]:
    """Each discriminator's scores of an image and of its difference map."""
    difference = image - qdct
    inputs = {"image": image, "difference": difference}
    if "joint" in discriminators:
        inputs["joint"] = jnp.concatenate([image, difference], axis=-1)
    scores: dict[str, PyTree] = {name: networks.discriminator.apply(variables, inputs[name])
                                 for name, variables in discriminators.items()}
    # The losses square differences of scores: bfloat16 would keep two digits of them.
    return {name: each.astype(image.dtype) for name, each in scores.items()}


def _squared_slope(networks: Networks, discriminators: Mapping[str, PyTree], ndct: jax.Array,
                   qdct: jax.Array) -> jax.Array:
    """R1's ‖∇D‖² of each image's mean score at the normal dose; mean over images and D."""
    def mean_score(image: jax.Array, name: str) -> jax.Array:
        scores = _scores(networks, {name: discriminators[name]}, image, qdct)
        return scores[name].mean((1, 2, 3)).sum()

    # The slope of the sum would hold the product of both slopes, too.
    slopes = [jax.grad(mean_score)(ndct, name) for name in discriminators]
    return jnp.mean(jnp.stack([jnp.square(each).sum((1, 2, 3)).mean() for each in slopes]))


def generator_terms(denoised: Float[Array, "*n h w 1"],
                    batch: Mapping[str, Float[Array, "*n h w 1"]],
                    scores: Mapping[str, Float[Array, "..."]], loss: LossOptions,
                    step: Int[Array | np.ndarray, ""] | int | None = None) -> Metrics:
    """The generator's loss and its parts.

    Args:
      denoised: (..., H, W, 1), normalised HU.
      batch: `ndct` and `qdct` of the same shape.
      scores: of the denoised images, by discriminator.
      loss: weights and forms of the terms; gradient terms of weight 0 are left out.
      step: updates made; None adds the adversarial term in any case.

    Returns:
      name → scalar; `generator_loss` is the weighted sum of the others. The adversarial
      part is the mean over the discriminators.
    """
    ndct, qdct = batch["ndct"], batch["qdct"]
    anatomy = loss.anatomy * removed_anatomy(denoised, ndct, qdct) if loss.anatomy else 0.0
    terms = {"intensity_loss": losses.intensity(denoised, ndct, form=loss.intensity,
                                                soft_tissue=loss.soft_tissue, added=anatomy)}
    total = (loss.image + loss.difference) * terms["intensity_loss"]
    if loss.gradient_image:
        terms["gradient_image_loss"] = losses.gradient(denoised, ndct)
        total += loss.gradient_image * terms["gradient_image_loss"]
    if loss.gradient_difference:
        terms["gradient_difference_loss"] = losses.gradient(denoised - qdct, ndct - qdct)
        total += loss.gradient_difference * terms["gradient_difference_loss"]
    if scores:
        adversarial = [losses.adversarial_generator(each) for each in scores.values()]
        terms["adversarial_loss"] = jnp.mean(jnp.stack(adversarial))
        begun = (1.0 if step is None or not loss.adversarial_from_step
                 else jnp.where(step >= loss.adversarial_from_step, 1.0, 0.0))
        total += begun * loss.adversarial * terms["adversarial_loss"]
    return {"generator_loss": total, **terms}


class _Gradients(NamedTuple):
    """Gradients, new running statistics and metrics of a batch, or of a part of it."""

    generator: PyTree
    discriminators: PyTree
    batch_stats: PyTree
    metrics: Metrics


def _gradients(state: TrainState, batch: Batch, *, networks: Networks, loss: LossOptions,
               freezes_batch_stats: bool, remat: bool, axis_name: str | None) -> _Gradients:
    """The gradients of both objectives at one prediction."""
    generator = networks.generator.clone(axis_name=axis_name)
    ndct, qdct = batch["ndct"], batch["qdct"]

    def denoise(params: PyTree) -> PyTree:
        variables = {**state.generator, "params": params}
        if freezes_batch_stats:
            return generator.apply(variables, qdct, train=False), {"batch_stats": {}}
        return generator.apply(variables, qdct, train=True, mutable=["batch_stats"])

    if remat:
        denoise = jax.checkpoint(
            denoise, policy=jax.checkpoint_policies.save_only_these_names(STAGE))

    def generator_objective(params: PyTree) -> tuple[jax.Array, PyTree]:
        denoised, updates = denoise(params)
        denoised = denoised.astype(ndct.dtype)
        scores = _scores(networks, state.discriminators, denoised, qdct)
        terms = generator_terms(denoised, batch, scores, loss, step=state.step)
        return terms["generator_loss"], (denoised, updates["batch_stats"], terms)

    gradients, (denoised, batch_stats, metrics) = jax.grad(
        generator_objective, has_aux=True)(state.generator["params"])
    denoised = jax.lax.stop_gradient(denoised)

    def discriminator_objective(discriminators: PyTree) -> jax.Array:
        # The generator's objective has the same scores of the denoised batch, from the same
        # inputs and parameters, so that XLA computes the forward pass once.
        real = _scores(networks, discriminators, ndct, qdct)
        fake = _scores(networks, discriminators, denoised, qdct)
        terms = [losses.adversarial_discriminator(real[name], fake[name],
                                                  real_label=loss.real_label)
                 for name in discriminators]
        objective = jnp.mean(jnp.stack(terms))
        if loss.gradient_penalty:
            objective += 0.5 * loss.gradient_penalty * _squared_slope(
                networks, discriminators, ndct, qdct)
        return objective

    discriminator_gradients: PyTree = {}
    if state.discriminators:
        metrics["discriminator_loss"], discriminator_gradients = jax.value_and_grad(
            discriminator_objective)(state.discriminators)
    return _Gradients(gradients, discriminator_gradients, batch_stats, metrics)


def _mean_over_parts(gradients_of: Callable[[Batch], _Gradients], batch: Batch, count: int
                     ) -> _Gradients:
    """The mean over equal parts of a batch, computed one after another."""
    def split(x: jax.Array) -> jax.Array:
        # Every `count`-th image, so that each device has its share of each part.
        return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)

    def add(total: _Gradients, part: Batch) -> tuple[_Gradients, None]:
        return jax.tree.map(jnp.add, total, gradients_of(part)), None

    parts = {name: split(x) for name, x in batch.items()}
    shapes = jax.eval_shape(gradients_of, {name: x[0] for name, x in parts.items()})
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, nothing, parts)
    mean: _Gradients = jax.tree.map(lambda x: x / count, total)
    return mean


def train_step(state: TrainState, batch: Batch, *, networks: Networks, optimizers: Optimizers,
               loss: LossOptions, accumulate: int = 1, remat: bool = False,
               axis_name: str | None = None) -> tuple[TrainState, Metrics]:
    """Updates the generator and every discriminator once.

    Both updates use the same prediction, from before the step; its gradient is stopped for the
    discriminators.

    Args:
      state: before the step.
      batch: `ndct` and `qdct`; this device's share under `axis_name`.
      networks: the modules and the layout of the discriminators.
      optimizers: of the generator and of the discriminators; with `freezes_batch_stats`, the
        generator normalises by its running statistics, which stay the same bits.
      loss: weights and forms of the loss terms.
      accumulate: number of parts of the batch, computed one after another to save memory.
        Gradients, metrics and running statistics are the means over the parts. The generator
        normalises each part by its own statistics.
      remat: store only the outputs of the generator's stages, and compute the rest again for the
        gradient: less memory, more time, the same numbers.
      axis_name: mapped axis over which gradients, metrics and batch statistics
        are averaged; None for the whole batch.

    Returns:
      The state after the step, and scalar metrics: the losses and the global
      norms of the gradients.
    """
    frozen = optimizers.freezes_batch_stats
    gradients_of = functools.partial(_gradients, state, networks=networks, loss=loss, remat=remat,
                                     freezes_batch_stats=frozen, axis_name=axis_name)
    found = (gradients_of(batch) if accumulate == 1 else
             _mean_over_parts(gradients_of, batch, accumulate))
    gradients, discriminator_gradients, batch_stats, metrics = found
    if axis_name is not None:
        gradients, discriminator_gradients, metrics = pmean(
            (gradients, discriminator_gradients, metrics), axis_name)
    metrics["generator_gradient_norm"] = optax.tree.norm(gradients)
    if state.discriminators:
        metrics["discriminator_gradient_norm"] = optax.tree.norm(discriminator_gradients)

    updates, generator_opt_state = optimizers.generator.update(
        gradients, state.generator_opt_state, state.generator["params"])
    params = optax.apply_updates(state.generator["params"], updates)
    updates, discriminator_opt_state = optimizers.discriminator.update(
        discriminator_gradients, state.discriminator_opt_state, state.discriminators)
    generator = {"params": params,
                 "batch_stats": state.generator["batch_stats"] if frozen else batch_stats}
    average = _moved_average(state, generator, decay=optimizers.average_decay)
    if frozen and average:  # a mean of equal numbers is rounded
        average["batch_stats"] = state.average["batch_stats"]
    return dataclasses.replace(
        state,
        step=state.step + 1,
        generator=generator,
        average=average,
        generator_opt_state=generator_opt_state,
        discriminators=optax.apply_updates(state.discriminators, updates),
        discriminator_opt_state=discriminator_opt_state), metrics


def _moved_average(state: TrainState, generator: dict[str, PyTree], *, decay: float
                   ) -> dict[str, PyTree]:
    """The average of the weights and running statistics after an update.

    The decay is at most (1 + step) / (10 + step), as in TensorFlow's average, so that the random
    initial weights are soon forgotten.
    """
    if not decay:
        return {}
    step = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + step) / (10 + step))
    average: dict[str, PyTree] = jax.tree.map(
        lambda average, new: keep * average + (1 - keep) * new, state.average, generator)
    return average


def evaluation_step(state: TrainState, batch: Batch, *, networks: Networks,
                    loss: LossOptions) -> tuple[Float[Array, "n h w 1"], Metrics]:
    """Denoises a batch with the running statistics.

    Returns:
      The denoised images, (N, H, W, 1) float32, and each loss *per image*, (N,),
      so that a mean can leave out the images that fill a batch.
    """
    denoised: PyTree = networks.generator.apply(state.model, batch["qdct"], train=False)
    denoised = denoised.astype(jnp.float32)
    scores = _scores(networks, state.discriminators, denoised, batch["qdct"])
    terms = jax.vmap(functools.partial(generator_terms, loss=loss))(
        denoised, dict(batch), scores)
    return denoised, terms


def batch_statistics_step(state: TrainState, batch: Batch, *, networks: Networks,
                          loss: LossOptions) -> tuple[TrainState, Metrics]:
    """Validates a batch as the published code did: a quirk kept for parity.

    It normalises by the batch's own statistics, and updates the running statistics. For states
    without an average of the weights.

    Returns:
      The state with its new running statistics, and the batch's losses.
    """
    denoised, updates = networks.generator.apply(
        state.generator, batch["qdct"], train=True, mutable=["batch_stats"])
    denoised = denoised.astype(jnp.float32)
    scores = _scores(networks, state.discriminators, denoised, batch["qdct"])
    generator = {**state.generator, "batch_stats": updates["batch_stats"]}
    return (dataclasses.replace(state, generator=generator),
            generator_terms(denoised, batch, scores, loss))
