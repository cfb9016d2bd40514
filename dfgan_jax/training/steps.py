"""One training step and one evaluation step, as pure functions of state and batch.

They know nothing of devices but `axis_name`; `parallel.py` runs them under jit or
pmap. A batch is {"ndct": …, "qdct": …}, each (N, H, W, 1) float32, normalised HU.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dfgan_jax.models.architecture import STAGE
from dfgan_jax.training import losses
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers, TrainState

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


def _scores(networks: Networks, discriminators: Mapping[str, Any], image: jax.Array,
            qdct: jax.Array) -> dict[str, Any]:
    """Each discriminator's scores of an image and of its difference map."""
    difference = image - qdct
    inputs = {"image": image, "difference": difference}
    if "joint" in discriminators:
        inputs["joint"] = jnp.concatenate([image, difference], axis=-1)
    # The losses square differences of scores: bfloat16 would keep two digits of them.
    scores: dict[str, Any] = {name: networks.discriminator.apply(variables, inputs[name])
                              for name, variables in discriminators.items()}
    return {name: each.astype(image.dtype) for name, each in scores.items()}


def _squared_slope(networks: Networks, discriminators: Mapping[str, Any], ndct: jax.Array,
                   qdct: jax.Array) -> jax.Array:
    """R1's ‖∇D‖² at the normal dose, of each image's mean score; the mean over both."""
    def mean_scores(image):
        return sum(scores.mean((1, 2, 3)).sum() for scores in
                   _scores(networks, discriminators, image, qdct).values())

    slope = jax.grad(mean_scores)(ndct)
    return jnp.square(slope).sum((1, 2, 3)).mean() / len(discriminators)


def generator_terms(denoised: jax.Array, batch: Batch, scores: Mapping[str, jax.Array],
                    loss: LossOptions, step: jax.Array | int | None = None) -> Metrics:
    """The generator's loss and its parts.

    Args:
      denoised: (..., H, W, 1), normalised HU.
      batch: `ndct` and `qdct` of the same shape.
      scores: of the denoised images, by discriminator.
      loss: weights and forms of the terms; those that weigh nothing are not computed.
      step: updates made; None for all that there will be.

    Returns:
      name → scalar; `generator_loss` is the weighted sum of the others, whose
      adversarial part is the mean over the discriminators.
    """
    ndct, qdct = batch["ndct"], batch["qdct"]
    terms = {"intensity_loss": losses.intensity(denoised, ndct, form=loss.intensity,
                                                soft_tissue=loss.soft_tissue)}
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
    """What a batch, or a part of one, says of the next update."""

    generator: Any
    discriminators: Any
    batch_stats: Any
    metrics: Metrics


def _gradients(state: TrainState, batch: Batch, *, networks: Networks, loss: LossOptions,
               remat: bool, axis_name: str | None) -> _Gradients:
    """The gradients of both objectives at one prediction."""
    generator = networks.generator.clone(axis_name=axis_name)
    ndct, qdct = batch["ndct"], batch["qdct"]

    def denoise(params):
        return generator.apply({**state.generator, "params": params}, qdct, train=True,
                               mutable=["batch_stats"])

    if remat:
        denoise = jax.checkpoint(
            denoise, policy=jax.checkpoint_policies.save_only_these_names(STAGE))

    def generator_objective(params):
        denoised, updates = denoise(params)
        denoised = denoised.astype(ndct.dtype)
        scores = _scores(networks, state.discriminators, denoised, qdct)
        terms = generator_terms(denoised, batch, scores, loss, step=state.step)
        return terms["generator_loss"], (denoised, updates["batch_stats"], terms)

    gradients, (denoised, batch_stats, metrics) = jax.grad(
        generator_objective, has_aux=True)(state.generator["params"])
    denoised = jax.lax.stop_gradient(denoised)

    def discriminator_objective(discriminators):
        # The scores of the denoised batch are those of the generator's objective:
        # same inputs, same parameters, so XLA computes the forward pass once.
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

    discriminator_gradients: Any = {}
    if state.discriminators:
        metrics["discriminator_loss"], discriminator_gradients = jax.value_and_grad(
            discriminator_objective)(state.discriminators)
    return _Gradients(gradients, discriminator_gradients, batch_stats, metrics)


def _mean_over_parts(gradients_of: Callable[[Batch], _Gradients], batch: Batch, count: int
                     ) -> _Gradients:
    """The mean of what equal parts of a batch say, one after another."""
    def split(x):
        # Every `count`-th image, so that each device has its share of each part.
        return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradients_of(part)), None

    parts = {name: split(x) for name, x in batch.items()}
    shapes = jax.eval_shape(gradients_of, {name: x[0] for name, x in parts.items()})
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, nothing, parts)
    return jax.tree.map(lambda x: x / count, total)


def train_step(state: TrainState, batch: Batch, *, networks: Networks, optimizers: Optimizers,
               loss: LossOptions, accumulate: int = 1, remat: bool = False,
               axis_name: str | None = None) -> tuple[TrainState, Metrics]:
    """Updates the generator and every discriminator once.

    Both updates use the same prediction, made before either; the discriminators
    see it with the gradient stopped.

    Args:
      state: before the step.
      batch: `ndct` and `qdct`; this device's share under `axis_name`.
      networks: the modules and the layout of the discriminators.
      optimizers: of the generator and of the discriminators.
      loss: weights and forms of the loss terms.
      accumulate: parts that the batch is taken in, one after another, for less memory.
        Gradients, metrics and running statistics are their mean. Each part is normalised
        by its own statistics, as a smaller batch would be.
      remat: keep only what the generator's stages give, and compute the rest again for the
        gradient: less memory, more time, the same numbers.
      axis_name: mapped axis over which gradients, metrics and batch statistics
        are averaged; None when the whole batch is at hand.

    Returns:
      The state after the step, and scalar metrics: the losses and the global
      norms of the gradients.
    """
    gradients_of = functools.partial(_gradients, state, networks=networks, loss=loss,
                                     remat=remat, axis_name=axis_name)
    found = (gradients_of(batch) if accumulate == 1 else
             _mean_over_parts(gradients_of, batch, accumulate))
    gradients, discriminator_gradients, batch_stats, metrics = found
    if axis_name is not None:
        gradients, discriminator_gradients, metrics = jax.lax.pmean(
            (gradients, discriminator_gradients, metrics), axis_name)
    metrics["generator_gradient_norm"] = optax.tree.norm(gradients)
    if state.discriminators:
        metrics["discriminator_gradient_norm"] = optax.tree.norm(discriminator_gradients)

    updates, generator_opt_state = optimizers.generator.update(
        gradients, state.generator_opt_state, state.generator["params"])
    params = optax.apply_updates(state.generator["params"], updates)
    updates, discriminator_opt_state = optimizers.discriminator.update(
        discriminator_gradients, state.discriminator_opt_state, state.discriminators)
    generator = {"params": params, "batch_stats": batch_stats}
    return dataclasses.replace(
        state,
        step=state.step + 1,
        generator=generator,
        average=_moved_average(state, generator, decay=optimizers.average_decay),
        generator_opt_state=generator_opt_state,
        discriminators=optax.apply_updates(state.discriminators, updates),
        discriminator_opt_state=discriminator_opt_state), metrics


def _moved_average(state: TrainState, generator: Any, *, decay: float) -> Any:
    """The average of the weights and running statistics after an update.

    At first it forgets faster, so that the random initial weights do not stay in it: the
    decay is at most (1 + step) / (10 + step), as TensorFlow's average has it.
    """
    if not decay:
        return {}
    step = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda average, new: keep * average + (1 - keep) * new,
                        state.average, generator)


def evaluation_step(state: TrainState, batch: Batch, *, networks: Networks,
                    loss: LossOptions) -> tuple[jax.Array, Metrics]:
    """Denoises a batch with the running statistics.

    Returns:
      The denoised images, (N, H, W, 1) float32, and each loss *per image*, (N,),
      so that images that only pad a batch can be left out of a mean.
    """
    denoised: Any = networks.generator.apply(state.model, batch["qdct"], train=False)
    denoised = denoised.astype(jnp.float32)
    scores = _scores(networks, state.discriminators, denoised, batch["qdct"])
    terms = jax.vmap(functools.partial(generator_terms, loss=loss))(
        denoised, dict(batch), scores)
    return denoised, terms


def batch_statistics_step(state: TrainState, batch: Batch, *, networks: Networks,
                          loss: LossOptions) -> tuple[TrainState, Metrics]:
    """Validates a batch as the published code did: a quirk kept for parity.

    It normalises by the batch's own statistics, and moves the running ones. For states
    without an average of the weights.

    Returns:
      The state with its running statistics moved, and the batch's losses.
    """
    denoised, updates = networks.generator.apply(
        state.generator, batch["qdct"], train=True, mutable=["batch_stats"])
    denoised = denoised.astype(jnp.float32)
    scores = _scores(networks, state.discriminators, denoised, batch["qdct"])
    generator = {**state.generator, "batch_stats": updates["batch_stats"]}
    return (dataclasses.replace(state, generator=generator),
            generator_terms(denoised, batch, scores, loss))
