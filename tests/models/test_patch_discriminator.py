import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models.patch_discriminator import PatchDiscriminator, spectral_scale
from tests.reference import load


@pytest.mark.parametrize(("channels", "parameters"), [(2, 6_829_441), (1, 6_829_441 - 16 * 128)])
def test_parameter_count_is_the_published_one(channels, parameters):
    variables = jax.eval_shape(lambda: PatchDiscriminator().init(
        jax.random.key(0), jnp.zeros((1, 32, 32, channels))))
    assert sum(x.size for x in jax.tree.leaves(variables)) == parameters


def test_agrees_with_the_published_network():
    scores = run_once(PatchDiscriminator().apply, load.discriminator_variables(),
                      load.images("discriminator", (2, 2, 64, 64)))
    np.testing.assert_allclose(scores, load.nhwc(load.numbers("discriminator")["output"]),
                               atol=1e-6)


@pytest.mark.parametrize(("size", "scores"), [(256, 30), (64, 6), (32, 2)])
def test_scores_patches(size, scores):
    network = PatchDiscriminator(width=2)
    shape = jax.eval_shape(lambda: network.init_with_output(
        jax.random.key(0), jnp.zeros((3, size, size, 1)))[0]).shape
    assert shape == (3, scores, scores, 1)


def test_a_score_sees_seventy_pixels():
    network = PatchDiscriminator(width=2)
    x = jax.random.normal(jax.random.key(0), (1, 128, 128, 1))

    def score(x):
        return network.apply(network.init(jax.random.key(1), x), x)[0, 7, 7, 0]

    gradient = run_once(jax.grad(score), x)[0, ..., 0]
    rows = np.flatnonzero(np.abs(gradient).sum(1))
    assert rows[-1] - rows[0] + 1 == 70


def test_refuses_images_too_small_for_a_patch():
    with pytest.raises(ValueError, match="at least 32"):
        PatchDiscriminator(width=2).init(jax.random.key(0), jnp.zeros((1, 16, 64, 1)))


def test_spectral_scale_divides_by_the_largest_singular_value():
    kernel = np.random.default_rng(0).normal(size=(4, 4, 3, 6)).astype(np.float32)
    kernel[..., 2] *= 3  # so that one direction stands out, and few iterations find it
    largest = np.linalg.svd(kernel.reshape(-1, 6), compute_uv=False)[0]
    assert float(spectral_scale(jnp.array(kernel))) == pytest.approx(1 / largest, rel=1e-4)
    # The scaled kernel does not change with the scale of the given one: nor along its gradient.
    slope = jax.grad(lambda factor: jnp.sum(
        kernel * factor * spectral_scale(kernel * factor) * kernel))(1.0)
    assert abs(float(slope)) < 1e-3 * np.square(kernel).sum() / largest


def test_spectral_normalisation_makes_scores_independent_of_the_kernels_scale():
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 1))
    network = PatchDiscriminator(width=2, spectral_norm=True)
    variables = run_once(lambda: network.init(jax.random.key(1), x))
    larger = jax.tree.map(lambda leaf: 5 * leaf, variables)  # biases are 0
    scores = [run_once(network.apply, each, x) for each in (variables, larger)]
    np.testing.assert_allclose(*scores, rtol=1e-4)
    plain = run_once(PatchDiscriminator(width=2).apply, variables, x)
    assert np.abs(plain - scores[0]).max() > 1e-3
