import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dfgan_jax.devices.parallel import Parallelism
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.unet import UNet
from dfgan_jax.support.errors import InputError
from dfgan_jax.training import steps
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers
from tests.training.initial import drawn_state
from tests.training.small_generator import SmallGenerator

# SGD, since Adam would hide a gradient of the wrong scale.
OPTIMIZERS = Optimizers(optax.sgd(0.01), optax.sgd(0.01))
# With one discriminator, which compiles faster; those of a pair are alike for the devices, and
# tests/devices/test_processes.py trains with them.
NETWORKS = {"gan": Networks(SmallGenerator(attention=True), PatchDiscriminator(width=2), "joint"),
            "unet": Networks(UNet(width=2), PatchDiscriminator(width=2), "none")}
RNG = np.random.default_rng(0)
BATCHES = [{name: RNG.normal(0.5, 1, (4, 32, 32, 1)).astype(np.float32)
            for name in ("ndct", "qdct")} for _ in range(3)]


@functools.cache
def initial_state(networks):
    return drawn_state(NETWORKS[networks], OPTIMIZERS)


@functools.cache
def train(networks, parallel, device_count):
    devices = Parallelism(parallel, global_batch_size=4, devices=jax.devices()[:device_count])
    step = devices.train(functools.partial(
        steps.train_step, networks=NETWORKS[networks], optimizers=OPTIMIZERS,
        loss=LossOptions()))
    evaluate = devices.evaluate(functools.partial(
        steps.evaluation_step, networks=NETWORKS[networks], loss=LossOptions()))
    state = devices.place(initial_state(networks))
    history = []
    for batch in BATCHES:
        state, metrics = step(state, batch)
        history.append({name: float(value) for name, value in metrics.items()})
    return jax.device_get((state, history, evaluate(state, BATCHES[0])))


@pytest.mark.parametrize(("parallel", "device_count"), [("jit", 4), ("pmap", 4)])
def test_devices_do_not_change_the_result(parallel, device_count):
    expected = train("gan", "jit", 1)
    actual = train("gan", parallel, device_count)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
                 actual, expected)


@pytest.mark.parametrize(("parallel", "device_count"), [("jit", 1), ("jit", 4), ("pmap", 4)])
def test_many_updates_in_one_call_are_the_same_updates(parallel, device_count):
    devices = Parallelism(parallel, global_batch_size=4, devices=jax.devices()[:device_count])
    update = devices.train_many(functools.partial(
        steps.train_step, networks=NETWORKS["unet"], optimizers=OPTIMIZERS,
        loss=LossOptions()), take=lambda pairs, views: jax.tree.map(
            lambda images: jnp.take(images, views["rows"], axis=0), pairs))
    # The batches' slices in another order, and a fourth batch that is not asked for.
    order = np.random.default_rng(1).permutation(12)
    pairs = {name: np.concatenate([batch[name] for batch in BATCHES])[order]
             for name in ("ndct", "qdct")}
    indices = np.append(np.argsort(order).reshape(3, 4), [[0, 0, 0, 0]], axis=0).astype(np.int32)
    state, metrics = update(devices.place(initial_state("unet")), devices.place(pairs),
                            {"rows": indices}, np.int32(3))
    expected_state, expected_history, _ = train("unet", "jit", 1)
    actual_history = [{name: float(values[i]) for name, values in metrics.items()}
                      for i in range(3)]
    assert all(values[3] == 0 for values in metrics.values())
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
                 (jax.device_get(state), actual_history), (expected_state, expected_history))


@pytest.mark.parametrize(("parallel", "device_count"), [("jit", 4), ("pmap", 4)])
def test_a_whole_evaluation_in_one_call_keeps_the_order_of_images(parallel, device_count):
    devices = Parallelism(parallel, global_batch_size=4, devices=jax.devices()[:device_count])
    score = devices.evaluate_many(
        lambda state, batch: {"sum": state + batch["ndct"].sum((1, 2, 3))})
    images = np.arange(10, dtype=np.float32)[:, None, None, None] * np.ones((2, 2, 1), np.float32)
    indices = np.array([[9, 0, 1, 5], [2, 2, 8, 3]], np.int32)
    scores = score(devices.place(np.float32(100)), devices.place({"ndct": images}), indices)
    np.testing.assert_array_equal(scores["sum"], 100 + 4 * indices.ravel())


def test_nothing_is_kept_on_a_cpu():
    assert not Parallelism("jit", global_batch_size=4).fits(1)


@pytest.mark.parametrize("networks", NETWORKS)
def test_three_steps_moved_the_parameters(networks):
    """Without this, devices that all do nothing would agree."""
    state, history, _ = train(networks, "jit", 1)
    before = initial_state(networks)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.generator["params"],
                         before.generator["params"])
    assert min(jax.tree.leaves(moved["inc"])) > 1e-5
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert history[0] != history[1]


def test_auto_is_jit_unshared_and_pmap_on_several():
    assert Parallelism("auto", global_batch_size=4, devices=jax.devices()[:1]).name == "jit"
    assert Parallelism("auto", global_batch_size=4, devices=jax.devices()[:4]).name == "pmap"


def test_auto_takes_as_many_devices_as_the_batch_divides_among():
    devices = Parallelism("auto", global_batch_size=6, devices=jax.devices()[:4])
    assert (devices.name, devices.device_count, devices.available_count) == ("pmap", 3, 4)


def test_refuses_a_batch_that_does_not_divide():
    with pytest.raises(InputError, match="batch_size is 6: expected a multiple of the 4 devices"):
        Parallelism("pmap", global_batch_size=6, devices=jax.devices()[:4])


def test_the_batch_of_a_message_is_that_of_the_configuration():
    with pytest.raises(InputError, match=r"batch_size is 12: expected a multiple of the 4 devices, "
                                         r"times accumulate \(2\), such as 16"):
        Parallelism("pmap", global_batch_size=6, parts=2, devices=jax.devices()[:4])
