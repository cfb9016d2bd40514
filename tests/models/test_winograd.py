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


def arguments(*, size=(32, 32), channels=48, features=48, dtype=np.float32):
    return (jnp.array(RNG.normal(size=(1, *size, channels)), dtype),
            jnp.array(RNG.normal(size=(3, 3, channels, features)) / 20, dtype))


def operations(x, kernel, *, platform="cpu", train=False):
    function = functools.partial(convolve, stride=1, padding=1, train=train)
    program = jax.jit(function).trace(x, kernel).lower(lowering_platforms=(platform,))
    return costs_of(program)["flops"]


# Whole tiles; tiles that end beyond the image; an image smaller than a tile.
@pytest.mark.parametrize("size", [(8, 12), (9, 14), (7, 11), (3, 1)])
def test_it_is_the_sum_of_products(size):
    x, kernel = RNG.normal(size=(2, *size, 5)), RNG.normal(size=(3, 3, 5, 6))
    actual = run_once(convolve_winograd, *(jnp.array(a, jnp.float32) for a in (x, kernel)))
    np.testing.assert_allclose(actual, scipy_convolve(x, kernel, stride=1, padding=1), atol=2e-4)


def test_it_has_the_gradients_of_a_convolution():
    x, kernel = arguments(size=(7, 8), channels=2, features=3)
    cotangent = RNG.normal(size=(1, 7, 8, 3)).astype(np.float32)

    def gradients(function):
        return run_once(lambda *inputs: jax.vjp(function, *inputs)[1](cotangent), x, kernel)

    direct = functools.partial(convolve, stride=1, padding=1)
    for one, other in zip(gradients(convolve_winograd), gradients(direct), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_cpu_takes_it_where_no_gradient_is_taken():
    x, kernel = arguments()
    direct = 2 * 9 * 48 * 48 * 32 * 32
    assert operations(x, kernel) < direct / 2
    assert operations(x, kernel, train=True) == pytest.approx(direct, rel=0.1)
    assert operations(x, kernel, platform="tpu") == pytest.approx(direct, rel=0.1)
    call = functools.partial(convolve, stride=1, padding=1)
    np.testing.assert_allclose(run_once(functools.partial(call, train=False), x, kernel),
                               run_once(call, x, kernel), atol=1e-4)


@pytest.mark.parametrize("refused", [
    {"channels": 47}, {"features": 47}, {"size": (31, 32)}, {"size": (256, 260)},
    {"dtype": jnp.bfloat16}], ids=str)
def test_small_large_and_half_precise_ones_stay_sums_of_products(refused):
    x, kernel = arguments(**refused)
    assert operations(x, kernel) == operations(x, kernel, train=True)


@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_the_unet_denoises_the_same_with_it(normalization, monkeypatch):
    generator = build_generator(width=24, normalization=normalization)
    variables = initial_variables(generator, jax.random.key(0))
    qdct = jnp.array(RNG.normal(size=(1, 64, 64, 1)), jnp.float32)

    def denoised():
        return np.asarray(run_once(functools.partial(generator.apply, train=False), variables,
                                   qdct))

    with_it = denoised()
    monkeypatch.setattr(convolution, "_WINOGRAD_CHANNELS", 10**6)
    without = denoised()
    assert (with_it != without).any()
    np.testing.assert_allclose(with_it, without, atol=1e-4)
