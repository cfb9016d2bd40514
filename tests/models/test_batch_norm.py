import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.models.batch_norm import BatchNorm


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(3.0, 2.0, (4, 2, 3, 5)).astype(np.float32)


def apply(module, x, *, variables=None):
    x = jnp.asarray(x)
    variables = variables or module.init(jax.random.key(0), x)
    return module.apply(variables, x, mutable=["batch_stats"])


def test_normalises_by_the_biased_and_remembers_the_unbiased_variance(x):
    y, updates = apply(BatchNorm(5, momentum=0.9), x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    unbiased = x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * unbiased, rtol=1e-5)


def test_running_statistics_normalise_as_gain_and_offset(x):
    variables = {"params": {"scale": jnp.full(5, 3.0), "bias": jnp.full(5, 7.0)},
                 "batch_stats": {"mean": jnp.full(5, 1.0), "var": jnp.full(5, 4.0)}}
    gain, offset = BatchNorm(5, epsilon=0.0).apply(variables, method="running_affine")
    np.testing.assert_allclose(x * gain + offset, 3.0 * (x - 1.0) / 2.0 + 7.0, rtol=1e-5)


def test_output_equals_flax(x):
    ours, _ = apply(BatchNorm(5), x)
    flax = nn.BatchNorm(use_running_average=False, epsilon=1e-5)
    theirs, _ = flax.apply(flax.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_statistics_over_devices_are_those_of_the_whole_batch(x):
    module = BatchNorm(5)
    variables = module.init(jax.random.key(0), jnp.asarray(x))
    whole, whole_updates = apply(module, x, variables=variables)
    shared, updates = jax.pmap(
        lambda part: apply(module.clone(axis_name="batch"), part, variables=variables),
        axis_name="batch")(x.reshape(4, 1, *x.shape[1:]))
    np.testing.assert_allclose(shared.reshape(x.shape), whole, atol=1e-5)
    for device in range(4):
        jax.tree.map(lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-5),
                     updates, whole_updates)
