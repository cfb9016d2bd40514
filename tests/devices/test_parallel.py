import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dfgan_jax.devices.parallel import Parallelism, run_once
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.unet import UNet
from dfgan_jax.support.errors import InputError
from dfgan_jax.training import steps
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers, create_state
from tests.cli import command

# SGD, since Adam would hide a gradient of the wrong scale.
OPTIMIZERS = Optimizers(optax.sgd(0.01), optax.sgd(0.01))
NETWORKS = {"all": Networks(UNet(width=2, attention=True), PatchDiscriminator(width=2), "pair"),
            # Which compile in a third of the time.
            "unet": Networks(UNet(width=2), PatchDiscriminator(width=2), "none")}
RNG = np.random.default_rng(0)
BATCHES = [{name: RNG.normal(0.5, 1, (4, 32, 32, 1)).astype(np.float32)
            for name in ("ndct", "qdct")} for _ in range(3)]


@functools.cache
def initial_state(networks):
    return jax.device_get(run_once(functools.partial(
        create_state, networks=NETWORKS[networks], optimizers=OPTIMIZERS), jax.random.key(0)))


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
    expected = train("all", "jit", 1)
    actual = train("all", parallel, device_count)
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


KEEPS = """
import jax, jax.numpy as jnp
from dfgan_jax.devices.parallel import keep_compiled
keep_compiled()
jax.jit(lambda x: [jnp.sort(x + i) for i in range(40)])(jnp.zeros(99))  # half a second to compile
"""


@pytest.mark.parametrize("named", [False, True])
def test_programs_are_kept_in_the_users_cache_or_where_jax_is_told(tmp_path, named):
    environment = {k: v for k, v in os.environ.items() if not k.startswith((
        "JAX_COMPILATION_CACHE_", "JAX_PERSISTENT_CACHE_"))}  # those of the tests
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    if named:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "named")
    subprocess.run([sys.executable, "-c", KEEPS], check=True, cwd=command.ROOT, env=environment)
    folder = tmp_path / "named" if named else tmp_path / "cache" / "dfgan_jax" / "compiled"
    assert any(folder.iterdir())
    assert {p.name for p in tmp_path.iterdir()} == {"named" if named else "cache"}


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
    assert (devices.name, devices.device_count) == ("pmap", 3)


def test_refuses_a_batch_that_does_not_divide():
    with pytest.raises(InputError, match="batch_size is 6: expected a multiple of the 4 devices"):
        Parallelism("pmap", global_batch_size=6, devices=jax.devices()[:4])
