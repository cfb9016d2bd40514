import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dfgan_jax.devices import parallel
from dfgan_jax.models import convolution
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.unet import UNet
from dfgan_jax.porting import torch_layout
from dfgan_jax.training import losses, steps
from dfgan_jax.training.anatomy import removed_anatomy
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers, TrainState, create_state
from tests.reference import load
from tests.reference.fill import image
from tests.training.initial import drawn_state
from tests.training.recording import recording
from tests.training.small_generator import SmallGenerator

PUBLISHED_CODE = LossOptions(gradient_image=1.0, gradient_difference=1.0)


def published_batch(step):
    ndct = image(f"ndct{step}", (2, 1, 64, 64), load.SEED)
    noise = image(f"noise{step}", (2, 1, 64, 64), load.SEED)
    qdct = (ndct + 0.2 * (noise - 0.5)).astype(np.float32)
    return {"ndct": load.nhwc(ndct), "qdct": load.nhwc(qdct)}


def published_state(optimizers, *, attention):
    generator = load.generator_variables(attention=attention)
    discriminators = {"joint": load.discriminator_variables()}
    return TrainState(
        step=jnp.int32(0), key=jnp.zeros(2, jnp.uint32), generator=generator,
        generator_opt_state=optimizers.generator.init(generator["params"]),
        discriminators=discriminators,
        discriminator_opt_state=optimizers.discriminator.init(discriminators))


@pytest.mark.parametrize(("attention", "variant", "loss"), [
    (False, "slides", LossOptions()), (False, "code", PUBLISHED_CODE),
    (True, "slides", LossOptions()), (True, "code", PUBLISHED_CODE)])
def test_five_steps_agree_with_the_published_loop(attention, variant, loss):
    reference = load.numbers(f"training_{'attn_unet' if attention else 'unet'}_{variant}")
    networks = Networks(UNet(attention=attention), PatchDiscriminator(), "joint")
    optimizers = Optimizers(recording(optax.adam(2e-4)), recording(optax.adam(2e-5)))
    state = published_state(optimizers, attention=attention)
    step = jax.jit(functools.partial(steps.train_step, networks=networks, optimizers=optimizers,
                                     loss=loss))
    # Adam divides by tiny numbers: trajectories drift apart, so later steps get room. How far
    # depends on the processor: 1.5e-3 and 2.04e-3 were seen (in float64, 1e-12: tests/parity).
    for index, tolerance in enumerate([1e-6, 3e-3, 3e-3, 3e-3, 3e-3]):
        state, metrics = step(state, published_batch(index))
        for name in ("generator_loss", "discriminator_loss"):
            assert float(metrics[name]) == pytest.approx(reference[name][index], rel=tolerance)
        if index == 0:
            for prefix, name in (("grad_norm/", "generator"), ("grad_norm_d/", "discriminator")):
                norms = [v for key, v in reference.items() if key.startswith(prefix)]
                assert float(metrics[f"{name}_gradient_norm"]) == pytest.approx(
                    np.sqrt(np.sum(np.square(norms))), rel=5e-4)
            assert_gradients_agree(state.generator_opt_state[1], "grad_norm/", reference,
                                   torch_layout.generator_layout(attention=attention))
            assert_gradients_agree(state.discriminator_opt_state[1]["joint"]["params"],
                                   "grad_norm_d/", reference, torch_layout.discriminator_layout())

    layout = torch_layout.generator_layout(attention=attention)
    after = torch_layout.to_state_dict(state.generator, layout)
    for key, value in after.items():
        assert np.linalg.norm(value) == pytest.approx(float(reference[f"norm/{key}"]), rel=1e-2)
    after = torch_layout.to_state_dict(state.discriminators["joint"],
                                       torch_layout.discriminator_layout())
    for key, value in after.items():
        assert np.linalg.norm(value) == pytest.approx(float(reference[f"norm_d/{key}"]), rel=1e-2)

    denoised = jax.jit(functools.partial(networks.generator.apply, train=False))(
        state.generator, load.images("generator", (2, 1, 64, 64)))
    expected = load.nhwc(reference["output_eval_after"])
    error = np.asarray(denoised) - expected
    assert np.sqrt(np.mean(error**2)) / expected.std() < 3e-2


def assert_gradients_agree(gradients, prefix, reference, layout):
    """Of every tensor, in its norm."""
    norms = {key: np.linalg.norm(value) for key, value in torch_layout.to_state_dict(
        {"params": gradients}, layout).items()}
    assert len(norms) == sum(key.startswith(prefix) for key in reference)
    # The gradient of a bias before a norm is a sum that cancels almost to nothing:
    # its error is that of the gradients around it.
    total = float(np.sqrt(np.sum(np.square(list(norms.values())))))
    for key, norm in norms.items():
        assert norm == pytest.approx(float(reference[prefix + key]), rel=2e-3, abs=3e-5 * total)


def small(discriminators):
    networks = Networks(SmallGenerator(), PatchDiscriminator(width=2), discriminators)
    optimizers = Optimizers(optax.sgd(0.01), optax.sgd(0.02))
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(0.5, 1, (2, 32, 32, 1)).astype(np.float32)
             for name in ("ndct", "qdct")}
    return networks, optimizers, drawn_state(networks, optimizers), batch


def initial_state(seed, networks, optimizers):
    return parallel.run_once(functools.partial(
        create_state, networks=networks, optimizers=optimizers), jax.random.key(seed))


def train_once(networks, optimizers, state, batch, loss=LossOptions()):  # noqa: B008
    return jax.jit(functools.partial(steps.train_step, networks=networks, optimizers=optimizers,
                                     loss=loss))(state, batch)


def test_pair_averages_its_two_discriminators():
    networks, optimizers, state, batch = small("pair")
    assert set(state.discriminators) == {"image", "difference"}
    after, metrics = train_once(networks, optimizers, state, batch)
    denoised, _ = parallel.run_once(functools.partial(
        networks.generator.apply, train=True, mutable=["batch_stats"]),
        state.generator, batch["qdct"])
    score = jax.jit(networks.discriminator.apply)
    adversarial, discriminator = [], []
    for name, shift in (("image", 0.0), ("difference", batch["qdct"])):
        fake = score(state.discriminators[name], denoised - shift)
        real = score(state.discriminators[name], batch["ndct"] - shift)
        fake, real = np.asarray(fake), np.asarray(real)
        adversarial.append(np.mean(0.5 * (fake - 1) ** 2))
        discriminator.append(np.mean(0.5 * (real - 1) ** 2) + np.mean(0.5 * fake**2))
    intensity = np.mean((np.asarray(denoised) - batch["ndct"]) ** 2)
    assert float(metrics["adversarial_loss"]) == pytest.approx(np.mean(adversarial), rel=1e-5)
    assert float(metrics["discriminator_loss"]) == pytest.approx(np.mean(discriminator), rel=1e-5)
    assert float(metrics["generator_loss"]) == pytest.approx(
        2 * intensity + 0.05 * np.mean(adversarial), rel=1e-5)
    assert int(after.step) == 1


def test_the_generator_does_not_learn_from_the_discriminators_loss():
    """Both updates use the parameters from before the step, whatever the other's rate."""
    state, batch = small_state(), small_batch([0, 1, 2, 3])
    still = copy.deepcopy(state)
    still.discriminator_opt_state.hyperparams["learning_rate"] = jnp.float32(0)
    moved, _ = small_step()(state, batch)
    held, _ = small_step()(still, batch)
    jax.tree.map(np.testing.assert_array_equal, held.discriminators, state.discriminators)
    jax.tree.map(np.testing.assert_array_equal, moved.generator["params"], held.generator["params"])
    changed = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), moved.discriminators,
                           state.discriminators)
    assert max(jax.tree.leaves(changed)) > 0


def test_without_discriminators_only_the_intensity_is_left():
    networks, optimizers, state, batch = small("none")
    _, metrics = train_once(networks, optimizers, state, batch,
                            LossOptions(image=0.5, difference=0.25))
    assert set(metrics) == {"generator_loss", "intensity_loss", "generator_gradient_norm"}
    assert float(metrics["generator_loss"]) == pytest.approx(
        0.75 * float(metrics["intensity_loss"]), rel=1e-6)


def test_evaluation_losses_are_per_image_and_leave_the_state_alone():
    networks, _, state, batch = small("pair")
    loss = LossOptions(gradient_image=1.0, gradient_difference=1.0)
    denoised, terms = parallel.run_once(functools.partial(
        steps.evaluation_step, networks=networks, loss=loss), state, batch)
    expected = parallel.run_once(functools.partial(networks.generator.apply, train=False),
                                 state.generator, batch["qdct"])
    np.testing.assert_allclose(denoised, expected, atol=1e-6)
    for i in range(2):
        assert float(terms["intensity_loss"][i]) == pytest.approx(
            float(losses.intensity(expected[i], batch["ndct"][i])), rel=1e-5)
        assert float(terms["gradient_image_loss"][i]) == pytest.approx(
            float(losses.gradient(expected[i], batch["ndct"][i])), rel=1e-5)


def test_scores_are_compared_in_float32_whatever_the_networks_compute_in():
    networks = Networks(SmallGenerator(dtype="bfloat16"),
                        PatchDiscriminator(width=2, dtype="bfloat16"), "pair")
    _, optimizers, state, batch = small("pair")
    _, metrics = jax.eval_shape(functools.partial(
        steps.train_step, networks=networks, optimizers=optimizers, loss=LossOptions()),
        state, batch)
    assert {value.dtype for value in metrics.values()} == {jnp.dtype("float32")}


def test_batch_statistics_validation_moves_the_running_ones_only():
    networks, _, state, batch = small("pair")
    after, terms = parallel.run_once(functools.partial(
        steps.batch_statistics_step, networks=networks, loss=LossOptions()), state, batch)
    denoised, updates = parallel.run_once(functools.partial(
        networks.generator.apply, train=True, mutable=["batch_stats"]),
        state.generator, batch["qdct"])
    assert float(terms["intensity_loss"]) == pytest.approx(
        float(losses.intensity(denoised, batch["ndct"])), rel=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
                 after.generator["batch_stats"], updates["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, after.generator["params"],
                 state.generator["params"])


def test_initial_state_is_a_function_of_the_key():
    networks, optimizers, _, _ = small("pair")
    state, again = (initial_state(0, networks, optimizers) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, state, again)
    other = initial_state(1, networks, optimizers)
    kernel = ("params", "inc", "conv1", "kernel")
    pick = lambda tree: functools.reduce(lambda node, part: node[part], kernel, tree)
    assert not np.array_equal(pick(state.generator), pick(other.generator))
    first, second = (state.discriminators[name]["params"]["conv2"]["kernel"]
                     for name in ("image", "difference"))
    assert not np.array_equal(first, second)


SMALL = Networks(SmallGenerator(), PatchDiscriminator(width=2), "joint")
# SGD, since Adam would hide a gradient of the wrong scale.
SGD = Optimizers(optax.sgd(0.01), optax.inject_hyperparams(optax.sgd)(learning_rate=0.02))


@functools.cache
def small_step(**options):
    return jax.jit(functools.partial(steps.train_step, networks=SMALL, optimizers=SGD,
                                     loss=PUBLISHED_CODE, **options))


def small_state(*, norm_scale=1.0):
    state = drawn_state(SMALL, SGD)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x * norm_scale if "scale" in jax.tree_util.keystr(path) else x, state)


def small_batch(order, *, size=32):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(4, size, size, 1)).astype(np.float32)[order]
            for name in ("ndct", "qdct")}


def assert_close(actual, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
                 actual, expected)


def test_remat_changes_no_number_and_takes_less_memory():
    networks = Networks(UNet(width=8), PatchDiscriminator(width=2), "none")
    state = drawn_state(networks, SGD)
    batch = small_batch([0, 1, 2, 3], size=64)
    results, memory = [], []
    for remat in (True, False):
        step = jax.jit(functools.partial(steps.train_step, networks=networks, optimizers=SGD,
                                         loss=PUBLISHED_CODE, remat=remat)
                       ).lower(state, batch).compile()
        results.append(step(state, batch))
        memory.append(step.memory_analysis().temp_size_in_bytes)
    assert_close(*results)
    assert memory[0] < 0.8 * memory[1]


def test_parts_of_a_batch_that_are_alike_give_the_step_of_the_whole():
    # Every second image makes a part: both parts are images 0 and 1.
    state, batch = small_state(), small_batch([0, 0, 1, 1])
    actual, actual_metrics = small_step(accumulate=2)(state, batch)
    expected, expected_metrics = small_step()(state, batch)
    assert_close(actual_metrics, expected_metrics)
    # n/(n − 1) of the running variances differs with the size of a part.
    for each in (actual, expected):
        each.generator["batch_stats"] = None
    assert_close(actual, expected)


def test_parts_that_differ_give_the_discriminators_the_step_of_the_whole():
    """With a generator that does not normalise, nothing depends on which images share a part."""
    state, batch = small_state(norm_scale=0.0), small_batch([0, 1, 2, 3])
    actual, actual_metrics = small_step(accumulate=4)(state, batch)
    expected, expected_metrics = small_step()(state, batch)
    assert_close(actual.discriminators, expected.discriminators)
    assert actual_metrics["generator_loss"] == pytest.approx(
        float(expected_metrics["generator_loss"]), rel=1e-5)


def loss_of(**changes):
    return LossOptions(**changes)


def test_the_adversarial_term_counts_from_its_step_on():
    networks, optimizers, state, batch = small("pair")
    late = loss_of(adversarial=3.0, adversarial_from_step=1)
    state, before = train_once(networks, optimizers, state, batch, late)
    assert float(before["generator_loss"]) == pytest.approx(2 * float(before["intensity_loss"]))
    assert float(before["discriminator_gradient_norm"]) > 0  # they train from the first
    _, after = train_once(networks, optimizers, state, batch, late)
    assert float(after["generator_loss"]) == pytest.approx(
        2 * float(after["intensity_loss"]) + 3 * float(after["adversarial_loss"]), rel=1e-5)


def test_removed_anatomy_is_added_to_the_error_with_its_weight():
    ndct = image("ndct", (2, 32, 32, 1), 0)
    ndct[:, 8:20, 8:20] += 9
    batch = {"ndct": jnp.asarray(ndct), "qdct": jnp.asarray(image("noise", ndct.shape, 1) + ndct)}
    denoised = jnp.asarray(0.5 * ndct)
    plain, weighted = (steps.generator_terms(denoised, batch, {}, loss_of(anatomy=weight))
                       for weight in (0.0, 3.0))
    anatomy = removed_anatomy(denoised, batch["ndct"], batch["qdct"])
    assert float(anatomy.min()) > 0.01
    assert float(weighted["intensity_loss"]) == pytest.approx(
        float(plain["intensity_loss"] + 3 * anatomy.mean()), rel=1e-5)


def test_r1_is_the_squared_slope_of_the_mean_score_at_the_normal_dose():
    networks, optimizers, state, batch = small("joint")
    _, plain = train_once(networks, optimizers, state, batch)
    _, penalised = train_once(networks, optimizers, state, batch, loss_of(gradient_penalty=8.0))

    def score(image):
        inputs = jnp.concatenate([image, image - batch["qdct"]], axis=-1)
        return networks.discriminator.apply(state.discriminators["joint"], inputs).mean((1, 2, 3))

    slopes = np.asarray(jax.jit(jax.jacobian(score))(batch["ndct"]))  # (image, image, H, W, 1)
    by_hand = np.mean([np.square(slopes[i, i]).sum() for i in range(2)])
    assert by_hand > 1e-8
    assert float(penalised["discriminator_loss"] - plain["discriminator_loss"]) == pytest.approx(
        4.0 * by_hand, rel=1e-2, abs=1e-7)


def test_r1_of_a_pair_is_the_mean_of_both_squared_slopes():
    """Not the slope of the sum, which is twice as large where both slopes agree."""
    networks, _, state, batch = small("pair")
    image, difference = (state.discriminators[name] for name in ("image", "difference"))
    qdct = np.zeros_like(batch["qdct"])  # so that the difference map is the image

    def squared_slope(**discriminators):
        return float(jax.jit(functools.partial(steps._squared_slope, networks))(
            discriminators, batch["ndct"], qdct))

    one = squared_slope(image=image)
    assert squared_slope(image=image, difference=image) == pytest.approx(one, rel=1e-5)
    assert squared_slope(image=image, difference=difference) == pytest.approx(
        (one + squared_slope(difference=difference)) / 2, rel=1e-5)


def test_a_step_is_the_same_in_winograds_form(monkeypatch):
    networks, optimizers, state, batch = small("joint")
    penalised = loss_of(gradient_penalty=8.0)
    expected, _ = train_once(networks, optimizers, state, batch, penalised)
    monkeypatch.setattr(convolution, "_WINOGRAD_CHANNELS", dict.fromkeys((2, 3, 4), 1))
    monkeypatch.setattr(convolution, "_WINOGRAD_PIXELS", (1, 256**2))
    actual, _ = train_once(networks, optimizers, state, batch, penalised)

    def moved(after):
        return [np.asarray(new - old) for new, old in zip(
            *(jax.tree.leaves((each.generator["params"], each.discriminators))
              for each in (after, state)), strict=True)]

    assert any((one != other).any() for one, other in zip(moved(actual), moved(expected),
                                                          strict=True))
    for one, other in zip(moved(actual), moved(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4 * abs(other).max() + 1e-7)


def test_the_average_follows_the_weights_and_is_what_is_evaluated():
    networks, optimizers, _, batch = small("none")
    optimizers = optimizers._replace(average_decay=0.5)
    state = drawn_state(networks, optimizers)
    jax.tree.map(np.testing.assert_array_equal, state.average, state.generator)
    states = [state]
    for _ in range(2):
        states.append(train_once(networks, optimizers, states[-1], batch)[0])
    # Of the first update it keeps 1/10, of the second 2/11: less than its decay.
    expected = states[0].generator
    for keep, each in ((1 / 10, states[1]), (2 / 11, states[2])):
        expected = jax.tree.map(lambda old, new, keep=keep: keep * old + (1 - keep) * new, expected,
                                each.generator)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
                 states[2].average, expected)
    denoised, _ = parallel.run_once(functools.partial(
        steps.evaluation_step, networks=networks, loss=LossOptions()), states[2], batch)
    by_average = parallel.run_once(functools.partial(networks.generator.apply, train=False),
                                   states[2].average, batch["qdct"])
    np.testing.assert_allclose(denoised, by_average, rtol=1e-5, atol=1e-6)
    newest = parallel.run_once(functools.partial(networks.generator.apply, train=False),
                               states[2].generator, batch["qdct"])
    assert np.abs(denoised - newest).max() > 1e-4


def test_late_in_training_the_average_keeps_its_decay():
    networks, optimizers, _, batch = small("none")
    optimizers = optimizers._replace(average_decay=0.5)
    state = drawn_state(networks, optimizers)
    state = dataclasses.replace(state, step=jnp.int32(1000))
    after, _ = train_once(networks, optimizers, state, batch)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after.average,
                 jax.tree.map(lambda old, new: (old + new) / 2, state.average, after.generator))


def trained_statistics(state):
    """The state with running statistics that no batch has, as those of a checkpoint are."""
    rng = np.random.default_rng(1)
    generator = {**state.generator, "batch_stats": jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype),
        state.generator["batch_stats"])}
    return dataclasses.replace(state, generator=generator,
                               average=jax.tree.map(jnp.copy, generator) if state.average else {})


@pytest.mark.parametrize("accumulate", [1, 3])
def test_frozen_running_statistics_stay_the_same_bits_while_the_parameters_train(accumulate):
    networks, optimizers, _, _ = small("none")
    optimizers = optimizers._replace(average_decay=0.5, freezes_batch_stats=True)
    first = trained_statistics(drawn_state(networks, optimizers))
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(0.5, 1, (3, 32, 32, 1)).astype(np.float32)
             for name in ("ndct", "qdct")}
    step = jax.jit(functools.partial(steps.train_step, networks=networks, optimizers=optimizers,
                                     loss=LossOptions(), accumulate=accumulate))
    state = first
    for _ in range(3):
        state, _ = step(state, batch)
    for variables in (state.generator, state.average):
        jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"],
                     first.generator["batch_stats"])
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), variables["params"],
                             first.generator["params"])
        assert min(jax.tree.leaves(moved["inc"])) > 0


@pytest.mark.parametrize("remat", [False, True])
def test_a_step_with_frozen_statistics_is_the_gradient_of_the_evaluated_network(remat):
    networks, optimizers, state, batch = small("none")
    state = trained_statistics(state)
    after, metrics = jax.jit(functools.partial(
        steps.train_step, networks=networks, remat=remat, loss=LossOptions(),
        optimizers=optimizers._replace(freezes_batch_stats=True)))(state, batch)

    def squared_error(params):
        denoised = networks.generator.apply({**state.generator, "params": params},
                                            jnp.asarray(batch["qdct"]), train=False)
        return 2 * jnp.square(denoised - batch["ndct"]).mean()

    error, gradients = jax.jit(jax.value_and_grad(squared_error))(state.generator["params"])
    assert float(metrics["generator_loss"]) == pytest.approx(float(error), rel=1e-5)
    assert_close(after.generator["params"], jax.tree.map(
        lambda value, gradient: value - 0.01 * gradient, state.generator["params"], gradients))
    # By the batch's own statistics, the step is another.
    other, _ = train_once(networks, optimizers, state, batch)
    changed = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after.generator["params"],
                           other.generator["params"])
    assert max(jax.tree.leaves(changed)) > 1e-3
