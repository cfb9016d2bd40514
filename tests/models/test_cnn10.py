import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.signal import correlate

from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models.cnn10 import CNN10, CNN10Options
from dfgan_jax.models.generators import initial_variables
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers, create_state
from dfgan_jax.training.steps import train_step

WIDTH = 4

MEAN_HU, SD_HU = 481.45419786099086 - 1024, 502.18507379395044


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: initial_variables(CNN10(width=WIDTH), jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.15, leaf.shape).astype(np.float32), shapes)


def denoise(variables, hu):
    normalised = jnp.asarray((hu + 500) / 500, jnp.float32)
    denoised = run_once(functools.partial(CNN10(width=WIDTH).apply, train=False), variables,
                        normalised)
    return np.asarray(denoised, np.float64) * 500 - 500


def by_scipy(params, hu):
    """The network on one image (H, W, 1), plane by plane."""
    x = (hu - MEAN_HU) / SD_HU
    for i in (1, 2, 3):
        kernel, bias = (np.asarray(params[f"conv{i}"][name], np.float64)
                        for name in ("kernel", "bias"))
        channels, features = kernel.shape[2:]
        x = np.stack([bias[f] + sum(correlate(x[..., c], kernel[..., c, f], mode="same")
                                    for c in range(channels)) for f in range(features)], axis=-1)
        if i < 3:
            x = np.maximum(x, 0)
    return x * SD_HU + MEAN_HU


def test_parameter_count_is_that_of_its_layers():
    params = jax.eval_shape(lambda: initial_variables(CNN10(), jax.random.key(0)))["params"]
    expected = (9 * 9 * 1 * 64 + 64) + (3 * 3 * 64 * 32 + 32) + (5 * 5 * 32 * 1 + 1)
    assert sum(x.size for x in jax.tree.leaves(params)) == expected == 24_513


@pytest.mark.parametrize("shape", [(2, 24, 29, 1), (1, 7, 16, 1)])
def test_agrees_with_scipy_at_any_size(variables, shape):
    """The second image is smaller than the first kernel."""
    hu = np.random.default_rng(1).uniform(-1000, 2000, shape)
    expected = np.stack([by_scipy(variables["params"], each) for each in hu])
    assert np.abs(expected - hu).max() > 100
    np.testing.assert_allclose(denoise(variables, hu), expected, atol=0.02)


def test_kernels_start_as_in_pytorch():
    params = run_once(lambda: initial_variables(CNN10(width=16), jax.random.key(0)))["params"]
    for name, fan_in in (("conv1", 81), ("conv2", 9 * 16), ("conv3", 25 * 8)):
        kernel = np.asarray(params[name]["kernel"])
        assert 0.95 / fan_in**0.5 < np.abs(kernel).max() < 1 / fan_in**0.5
        assert np.var(kernel) == pytest.approx(1 / (3 * fan_in), rel=0.2)
        assert not params[name]["bias"].any()


@pytest.mark.parametrize("shape", [(1, 32, 32, 2), (32, 32, 1)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"expected \(N, H, W, 1\)"):
        CNN10(width=2).init(jax.random.key(0), jnp.zeros(shape), train=False)


@pytest.mark.parametrize("width", [0, -2, 3])
def test_widths_that_have_no_half_are_refused(width):
    with pytest.raises(InputError, match=rf"width is {width}; expected an even number, more than"):
        CNN10Options(width=width)


def test_the_convolutions_are_of_the_dtype_and_the_result_is_float32(variables):
    network = CNN10(width=WIDTH, dtype="bfloat16")
    denoised, layers = jax.eval_shape(lambda: network.apply(
        variables, jnp.ones((1, 32, 32, 1)), train=True, capture_intermediates=True,
        mutable=["intermediates"]))
    assert denoised.dtype == jnp.float32
    outputs = [each["__call__"][0].dtype for name, each in layers["intermediates"].items()
               if name != "__call__"]
    assert outputs == [jnp.dtype("bfloat16")] * 3


def test_training_lowers_the_loss_and_remat_changes_no_number():
    networks = Networks(CNN10(width=4), PatchDiscriminator(width=2), "none")
    optimizers = Optimizers(optax.adam(3e-3), optax.adam(3e-3))
    rng = np.random.default_rng(0)
    ndct = jnp.array(np.kron(rng.uniform(-1, 3, (4, 3, 3, 1)), np.ones((1, 8, 8, 1))), jnp.float32)
    batch = {"ndct": ndct, "qdct": ndct + jnp.array(rng.normal(0, 0.3, ndct.shape), jnp.float32)}

    def losses(*, remat):
        def step(state, _):
            return train_step(state, batch, networks=networks, optimizers=optimizers,
                              loss=LossOptions(), remat=remat)

        _, metrics = run_once(lambda key: jax.lax.scan(
            step, create_state(key, networks, optimizers), length=60), jax.random.key(0))
        return np.asarray(metrics["generator_loss"])

    kept = losses(remat=False)
    assert kept[-1] < 0.5 * kept[0]
    np.testing.assert_allclose(losses(remat=True)[:20], kept[:20], rtol=1e-3)
