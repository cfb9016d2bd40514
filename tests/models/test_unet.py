import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models.convolution import convolve
from dfgan_jax.models.unet import DoubleConv, UNet, UpConv, max_pool_2x2
from dfgan_jax.porting import torch_layout
from tests.models.drawn import drawn
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


RECIPE = {"output": "difference", "add_image": False, "open_gates": True}


def test_an_untrained_network_of_the_difference_gives_back_its_input():
    qdct = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    network = UNet(width=2, attention=True, **RECIPE)
    variables = run_once(lambda: network.init(jax.random.key(0), qdct, train=False))
    for train in (False, True):
        denoised = run_once(lambda v, x, train=train: network.apply(
            v, x, train=train, mutable=["batch_stats"])[0], variables, qdct)
        np.testing.assert_array_equal(denoised, qdct)


def test_the_difference_is_what_the_same_weights_give_as_an_image():
    qdct = jax.random.normal(jax.random.key(1), (1, 32, 32, 1))
    image = UNet(width=2)
    variables = drawn(jax.eval_shape(lambda: image.init(jax.random.key(0), qdct, train=False)))

    def both(v, x):
        return (image.apply(v, x, train=False),
                image.clone(output="difference").apply(v, x, train=False))
    as_image, denoised = run_once(both, variables, qdct)
    assert np.abs(as_image).max() > 0.1
    np.testing.assert_allclose(denoised, qdct + as_image, rtol=1e-5, atol=1e-6)


def test_the_difference_is_added_in_float32():
    network = UNet(width=2, output="difference", dtype="bfloat16")
    x = jnp.full((1, 16, 16, 1), 1.001)  # no number of bfloat16
    denoised, _ = run_once(lambda: network.init_with_output(jax.random.key(0), x, train=False))
    np.testing.assert_array_equal(denoised, x)


def test_without_the_image_features_depend_on_it_through_the_first_stage_alone():
    network = UNet(width=2, add_image=False)
    x = jax.random.normal(jax.random.key(1), (1, 32, 32, 1))
    variables = drawn(jax.eval_shape(lambda: network.init(jax.random.key(0), x, train=False)))
    assert not [name for name in variables["params"] if name.startswith("size_down")]
    variables["params"]["inc"]["conv1"]["kernel"] *= 0
    outputs = [run_once(lambda v, y: network.apply(v, y, train=False), variables, y)
               for y in (x, 2 * x + 1)]
    np.testing.assert_array_equal(*outputs)


def test_gates_start_open_where_they_are_asked_to():
    x = jnp.zeros((1, 16, 16, 1))
    params = run_once(lambda: UNet(width=2, attention=True, open_gates=True).init(
        jax.random.key(0), x, train=False))["params"]
    for stage in ("down1", "up4"):
        gates = params[f"{stage}_cbam"]
        np.testing.assert_array_equal(gates["channel_gate"]["out"]["bias"], 1.5)
        np.testing.assert_array_equal(gates["spatial_gate"]["norm"]["bias"], 3.0)
        np.testing.assert_array_equal(gates["channel_gate"]["hidden"]["bias"], 0.0)


def test_windows_of_the_gates_halve_with_the_image():
    """Windows as large as the image, at each stage, change nothing; smaller ones do."""
    x = jax.random.normal(jax.random.key(1), (1, 32, 32, 1))
    network = UNet(width=2, attention=True)
    variables = drawn(jax.eval_shape(lambda: network.init(jax.random.key(0), x, train=False)))
    whole, as_large, smaller = (run_once(
        lambda v, y, window=window: network.clone(gate_window=window).apply(v, y, train=False),
        variables, x) for window in (0, 32, 16))
    np.testing.assert_array_equal(as_large, whole)
    assert np.abs(smaller - whole).max() > 1e-6


@pytest.mark.parametrize("normalization", ["group", "none"])
def test_other_normalisations_keep_no_statistics_and_treat_images_apart(normalization):
    network = UNet(width=4, normalization=normalization)
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    variables = drawn(jax.eval_shape(lambda: network.init(jax.random.key(0), x, train=True)))
    assert "batch_stats" not in variables
    together, alone = (run_once(lambda v, y: network.apply(v, y, train=True), variables, y)
                       for y in (x, x[:1]))
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_group_normalisation_is_over_four_channels_and_all_pixels():
    module = DoubleConv(8, normalization="group")
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 3))
    params = run_once(lambda: module.init(jax.random.key(0), x, train=False))["params"]
    y = np.asarray(x)
    for number in (1, 2):
        y = np.asarray(convolve(jnp.array(y), params[f"conv{number}"]["kernel"], stride=1,
                                padding=1), np.float64)
        groups = y.reshape(16, 2, 4)
        groups = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(
            groups.var((0, 2), keepdims=True) + 1e-5)
        y = np.maximum(groups.reshape(1, 4, 4, 8), 0).astype(np.float32)
    np.testing.assert_allclose(run_once(lambda v, z: module.apply(v, z, train=False),
                                        {"params": params}, x), y, rtol=1e-3, atol=1e-4)


def test_momentum_is_the_share_that_running_statistics_keep():
    x = 5 + jax.random.normal(jax.random.key(1), (1, 16, 16, 1))
    module = DoubleConv(2, momentum=0.75)
    variables = run_once(lambda: module.init(jax.random.key(0), x, train=False))
    _, updates = run_once(lambda v, y: module.apply(v, y, train=True, mutable=["batch_stats"]),
                          variables, x)
    after = convolve(x, variables["params"]["conv1"]["kernel"], stride=1, padding=1)
    np.testing.assert_allclose(updates["batch_stats"]["norm1"]["mean"],
                               0.25 * np.asarray(after).mean((0, 1, 2)), rtol=1e-4)
