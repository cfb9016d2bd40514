import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models import convolution
from dfgan_jax.models.batch_norm import BatchNorm, conv_norm
from dfgan_jax.models.convolution import Conv, convolve

RNG = np.random.default_rng(0)

# One for each form: channels, features, size of the kernel, stride, padding.
SHAPES = {
    "first convolution of the U-Net": (1, 32, 3, 1, 1),
    "first convolution of a discriminator": (2, 8, 4, 2, 1),
    "last convolution of the U-Net": (32, 1, 3, 1, 1),
    "last convolution of a discriminator": (64, 1, 4, 1, 1),
    "spatial gate": (2, 1, 7, 1, 3),
    "image to a deeper stage": (1, 1, 4, 4, 0),
    "any other": (5, 6, 3, 1, 1),
}


def scipy_convolve(x, kernel, *, stride, padding):
    """By SciPy's cross-correlation of each channel, in float64."""
    x = np.pad(np.asarray(x, np.float64), [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    return np.stack([
        sum(scipy.signal.correlate(x[..., c], np.asarray(kernel, np.float64)[None, ..., c, f],
                                   mode="valid") for c in range(x.shape[-1]))
        for f in range(kernel.shape[-1])], axis=-1)[:, ::stride, ::stride]


def arguments(name, size):
    channels, features, k, stride, padding = SHAPES[name]
    x = RNG.normal(size=(2, *size, channels)).astype(np.float32)
    kernel = RNG.normal(size=(k, k, channels, features)).astype(np.float32)
    return x, kernel, {"stride": stride, "padding": padding}


def test_large_images_of_few_channels_give_the_same_sum_and_gradients():
    x = RNG.normal(size=(1, 256, 260, 2)).astype(np.float32)
    kernel = RNG.normal(size=(3, 3, 2, 3)).astype(np.float32)
    options = {"stride": 1, "padding": 1}
    gain = RNG.normal(size=(1, 256, 260, 3)).astype(np.float32)

    def gradients(function):
        return run_once(jax.grad(lambda x, kernel: jnp.sum(gain * function(x, kernel)), (0, 1)),
                        x, kernel)

    actual = run_once(functools.partial(convolve, **options), x, kernel)
    np.testing.assert_allclose(actual, scipy_convolve(x, kernel, **options), atol=1e-4)
    expected = gradients(lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")))
    for one, other in zip(gradients(functools.partial(convolve, **options)), expected,
                          strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


# Four pixels at once, two, a kernel of 5×5 that shrinks the image, and a width of an odd number.
@pytest.mark.parametrize(("channels", "features", "k", "padding", "width", "at_once"), [
    (5, 6, 3, 1, 132, 4), (3, 16, 3, 1, 130, 2), (1, 12, 5, 0, 134, 2), (5, 6, 3, 1, 133, 1)])
def test_images_of_few_features_are_the_same_sum_of_several_pixels_at_once(
        channels, features, k, padding, width, at_once, monkeypatch):
    monkeypatch.setattr(convolution, "_NARROW", 16)  # whatever the version of JAX
    x = RNG.normal(size=(1, 128, width, channels)).astype(np.float32)
    kernel = RNG.normal(size=(k, k, channels, features)).astype(np.float32)
    function = functools.partial(convolve, stride=1, padding=padding)
    steps = [int(step) for step in re.findall(r"window = {stride = \[1, (\d)\]",
                                              jax.jit(function).lower(x, kernel).as_text())]
    assert max(steps) == at_once
    np.testing.assert_allclose(
        run_once(function, x, kernel), scipy_convolve(x, kernel, stride=1, padding=padding),
        atol=1e-4)


def test_images_of_few_features_have_the_derivatives_of_a_convolution():
    x = RNG.normal(size=(1, 128, 128, 4)).astype(np.float32)
    kernel = RNG.normal(size=(3, 3, 4, 12)).astype(np.float32)

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), [(1, 1)] * 2,
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def second(function):
        """The gradients, and the gradient of their squares."""
        def first(x, kernel):
            return jax.grad(lambda *arguments: jnp.sum(function(*arguments) ** 3) / 1e4,
                            (0, 1))(x, kernel)

        return run_once(lambda x, kernel: (first(x, kernel), jax.grad(
            lambda x: jnp.sum(first(x, kernel)[0] ** 2))(x)), x, kernel)

    ours = second(functools.partial(convolve, stride=1, padding=1))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(second(reference)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


# 12×20: four pixels a block in the spatial gate; 6×10: two; 5×7: no block divides it.
@pytest.mark.parametrize("size", [(12, 20), (6, 10), (5, 7)])
@pytest.mark.parametrize("name", SHAPES)
def test_every_form_is_the_same_sum(name, size):
    x, kernel, options = arguments(name, size)
    if name == "image to a deeper stage" and size != (12, 20):
        x = x[:, :4, :4]
    actual = run_once(functools.partial(convolve, **options), x, kernel)
    np.testing.assert_allclose(actual, scipy_convolve(x, kernel, **options), atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_every_form_has_the_gradients_of_a_convolution(name):
    x, kernel, options = arguments(name, (12, 8))
    stride, padding = options.values()

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2,
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))

    cotangent = RNG.normal(size=jax.eval_shape(reference, x, kernel).shape).astype(np.float32)

    def gradients(function):
        return run_once(lambda *arguments: jax.vjp(function, *arguments)[1](cotangent), x, kernel)

    for ours, theirs in zip(gradients(functools.partial(convolve, **options)),
                            gradients(reference), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_one_feature_is_summed_in_float32():
    """bfloat16 keeps 8 bits: 256 + 1 − 256 is lost where each sum is rounded."""
    x = jnp.ones((1, 3, 3, 64), jnp.bfloat16)
    kernel = jnp.zeros((3, 3, 64, 1), jnp.bfloat16).at[:, :, 0].set(
        jnp.array([[256, 1, -256], [0, 0, 0], [0, 0, 0]], jnp.bfloat16)[..., None])
    assert convolve(x, kernel, stride=1, padding=1)[0, 1, 1, 0] == 1


def test_a_normalisation_after_it_can_be_part_of_it():
    x = jnp.array(RNG.normal(size=(2, 6, 6, 3)), jnp.float32)
    conv, norm = Conv(4, 3, padding=1, use_bias=False), BatchNorm(4)
    keys = jax.random.split(jax.random.key(0), 2)
    kernel = conv.init(keys[0], x)
    statistics = {"params": {"scale": jnp.array([1.0, -2.0, 0.5, 3.0]), "bias": jnp.arange(4.0)},
                  "batch_stats": {"mean": jnp.array([0.1, -0.2, 0.3, 0.4]),
                                  "var": jnp.array([0.5, 1.0, 2.0, 4.0])}}
    actual = conv_norm(conv.bind(kernel), norm.bind(statistics), x, train=False)
    y = np.asarray(conv.apply(kernel, x), np.float64)
    params, stats = statistics["params"], statistics["batch_stats"]
    expected = ((y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"]
                + params["bias"])
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
