import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models import convolution
from dfgan_jax.models.convolution import convolve
from dfgan_jax.models.generators import build_generator, initial_variables
from dfgan_jax.models.winograd import convolve_winograd
from dfgan_jax.support.jax_functions import costs_of
from tests.models.test_convolution import scipy_convolve

RNG = np.random.default_rng(0)


def arguments(*, size=(32, 32), kernel_size=3, channels=48, features=48, dtype=np.float32):
    kernel = RNG.normal(size=(kernel_size, kernel_size, channels, features))
    return (jnp.array(RNG.normal(size=(1, *size, channels)), dtype), jnp.array(kernel / 20, dtype))


def direct_operations(x, kernel):
    """Of the sum of products, one at each pixel of x."""
    return 2 * kernel.size * x.shape[1] * x.shape[2]


def operations(function, *inputs, platform="cpu"):
    program = jax.jit(function).trace(*inputs).lower(lowering_platforms=(platform,))
    return costs_of(program)["flops"]


def convolve_same(x, kernel):
    return convolve(x, kernel, stride=1, padding=len(kernel) // 2)


def gradients(function, x, kernel, slope):
    return jax.vjp(function, x, kernel)[1](slope)


# Whole tiles; tiles that end beyond the image; an image smaller than a tile.
@pytest.mark.parametrize("size", [(8, 12), (9, 14), (7, 11), (4, 3)])
@pytest.mark.parametrize(("kernel_size", "padding"), [(2, 0), (2, 1), (3, 1), (3, 0), (4, 1)])
def test_it_is_the_sum_of_products(size, kernel_size, padding):
    x = RNG.normal(size=(2, *size, 5))
    kernel = RNG.normal(size=(kernel_size, kernel_size, 5, 6))
    actual = run_once(functools.partial(convolve_winograd, padding=padding),
                      *(jnp.array(a, jnp.float32) for a in (x, kernel)))
    np.testing.assert_allclose(actual, scipy_convolve(x, kernel, stride=1, padding=padding),
                               atol=2e-4)


@pytest.mark.parametrize("kernel_size", [2, 3, 4])
def test_it_has_the_gradients_of_a_convolution(kernel_size):
    x, kernel = arguments(size=(9, 8), kernel_size=kernel_size, channels=2, features=3)
    direct = functools.partial(convolve, stride=1, padding=1)
    slope = RNG.normal(size=direct(x, kernel).shape).astype(np.float32)
    for one, other in zip(*(run_once(functools.partial(gradients, function), x, kernel, slope)
                            for function in (functools.partial(convolve_winograd, padding=1),
                                             direct)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_its_gradients_have_gradients():
    """R1 takes the gradient of a squared gradient."""
    x, kernel = arguments(size=(7, 8), kernel_size=4, channels=2, features=3)

    def squared_slope(function, x, kernel):
        return jnp.square(jax.grad(lambda x: jnp.tanh(function(x, kernel)).sum())(x)).sum()

    for one, other in zip(*(
            run_once(jax.grad(functools.partial(squared_slope, function), (0, 1)), x, kernel)
            for function in (functools.partial(convolve_winograd, padding=1),
                             functools.partial(convolve, stride=1, padding=1))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kernel_size", "channels", "fewer"), [(2, 128, 1.5), (3, 48, 2),
                                                               (4, 48, 2.5)])
def test_a_cpu_takes_it_and_its_gradients(kernel_size, channels, fewer):
    x, kernel = arguments(kernel_size=kernel_size, channels=channels, features=channels)
    direct = direct_operations(x, kernel)
    slope = jax.eval_shape(convolve_same, x, kernel)
    both = functools.partial(gradients, convolve_same)
    assert operations(convolve_same, x, kernel) < direct / fewer
    assert operations(both, x, kernel, slope) < 2 * direct / fewer
    assert operations(convolve_same, x, kernel, platform="tpu") == pytest.approx(direct, rel=0.1)
    assert operations(both, x, kernel, slope, platform="tpu") == pytest.approx(2 * direct, rel=0.1)


def test_a_convolution_of_stride_2_takes_it_over_blocks():
    x, kernel = arguments(size=(30, 30), kernel_size=4, channels=32, features=128)
    halved = functools.partial(convolve, stride=2, padding=1)
    assert operations(halved, x, kernel) < direct_operations(x, kernel) / 4 / 1.5


@pytest.mark.parametrize("refused", [
    {"channels": 47}, {"features": 47}, {"size": (15, 17)}, {"size": (256, 260)},
    {"dtype": jnp.bfloat16}, {"kernel_size": 2, "channels": 127, "features": 128},
    {"kernel_size": 5}], ids=str)
def test_small_large_and_half_precise_ones_stay_sums_of_products(refused):
    x, kernel = arguments(**refused)
    assert operations(convolve_same, x, kernel) == pytest.approx(direct_operations(x, kernel),
                                                                 rel=0.15)


@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_the_unet_denoises_the_same_with_it(normalization, monkeypatch):
    generator = build_generator(width=24, normalization=normalization)
    variables = initial_variables(generator, jax.random.key(0))
    qdct = jnp.array(RNG.normal(size=(1, 64, 64, 1)), jnp.float32)

    def denoised():
        return np.asarray(run_once(functools.partial(generator.apply, train=False), variables,
                                   qdct))

    with_it = denoised()
    monkeypatch.setattr(convolution, "WINOGRAD_SIZES", ())
    without = denoised()
    assert (with_it != without).any()
    np.testing.assert_allclose(with_it, without, atol=1e-4)
