import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.models.unet import UNet, UpConv, max_pool_2x2
from dfgan_jax.porting import torch_layout
from dfgan_jax.training.parallel import run_once
from tests.reference import load


def relative_error(actual, expected):
    """Largest difference over the expected values' standard deviation."""
    return np.abs(np.asarray(actual) - expected).max() / expected.std()


@pytest.mark.parametrize(("attention", "parameters"), [(False, 7_762_808), (True, 7_819_538)])
def test_parameter_count_is_the_published_one(attention, parameters):
    variables = jax.eval_shape(lambda: UNet(attention=attention).init(
        jax.random.key(0), jnp.zeros((1, 32, 32, 1)), train=False))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize("attention", [False, True])
def test_agrees_with_the_published_network(attention):
    reference = load.numbers("attn_unet" if attention else "unet")
    variables = load.generator_variables(attention=attention)
    qdct = load.images("generator", (2, 1, 64, 64))
    network = UNet(attention=attention)

    denoised = run_once(lambda v, x: network.apply(v, x, train=False), variables, qdct)
    assert relative_error(denoised, load.nhwc(reference["output_eval"])) < 2e-5

    denoised, updates = run_once(lambda v, x: network.apply(
        v, x, train=True, mutable=["batch_stats"]), variables, qdct)
    assert relative_error(denoised, load.nhwc(reference["output_train"])) < 2e-5

    after = torch_layout.to_state_dict(updates, torch_layout.generator_layout(attention=attention))
    assert len(after) == (52 if attention else 36)
    for key, value in after.items():
        np.testing.assert_allclose(value, reference[f"after/{key}"], atol=1e-6, rtol=1e-6)


def test_parameters_do_not_depend_on_the_image_size():
    shapes = [jax.tree.map(jnp.shape, jax.eval_shape(lambda s=size: UNet(width=2).init(
        jax.random.key(0), jnp.zeros((1, s, 2 * s, 1)), train=False))) for size in (16, 48)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("shape", [(1, 40, 32, 1), (1, 32, 32, 2), (32, 32, 1)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="multiples of 16"):
        UNet(width=2).init(jax.random.key(0), jnp.zeros(shape), train=False)


def test_max_pool_is_the_windowed_maximum():
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32)
    np.random.default_rng(0).shuffle(x)
    x = x.reshape(2, 4, 6, 3)
    pooled = max_pool_2x2(jnp.array(x))
    for i, j in np.ndindex(2, 3):
        window = x[:, 2 * i:2 * i + 2, 2 * j:2 * j + 2].max((1, 2))
        np.testing.assert_array_equal(pooled[:, i, j], window)


def test_up_conv_places_each_kernel_at_its_own_window():
    x = jax.random.normal(jax.random.key(0), (1, 2, 3, 2))
    module = UpConv(features=2)
    params = module.init(jax.random.key(1), x)["params"]
    up = module.apply({"params": params}, x)
    assert up.shape == (1, 4, 6, 2)
    x, up, params = jax.tree.map(np.asarray, (x, up, params))
    for i, j, a, b in np.ndindex(2, 3, 2, 2):
        expected = x[0, i, j] @ params["kernel"][:, a, b] + params["bias"]
        np.testing.assert_allclose(up[0, 2 * i + a, 2 * j + b], expected, rtol=1e-5, atol=1e-6)


def test_up_conv_starts_within_pytorchs_default_bounds():
    params = UpConv(features=32).init(jax.random.key(0), jnp.zeros((1, 1, 1, 64)))["params"]
    bound = 1 / np.sqrt(32 * 2 * 2)
    for values in (params["kernel"], params["bias"]):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound  # of that order, not merely small
    # The variance of a uniform distribution is bound² / 3.
    assert np.var(params["kernel"]) == pytest.approx(bound**2 / 3, rel=0.05)


def test_convolutions_start_kaiming_uniform_and_without_bias():
    params = run_once(lambda: UNet(width=8).init(
        jax.random.key(0), jnp.zeros((1, 16, 16, 1)), train=False))["params"]
    kernel = params["down2"]["conv2"]["kernel"]
    assert np.var(kernel) == pytest.approx(2 / (9 * 32), rel=0.05)  # ReLU gain over fan-in
    assert np.abs(kernel).max() <= np.sqrt(6 / (9 * 32))
    assert "bias" not in params["down2"]["conv2"]
    np.testing.assert_array_equal(params["outc"]["bias"], 0)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    network = UNet(width=2, attention=True, dtype="bfloat16")
    x = jnp.ones((1, 16, 16, 1))
    denoised, variables = jax.eval_shape(
        lambda: network.init_with_output(jax.random.key(0), x, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert denoised.dtype == jnp.bfloat16
