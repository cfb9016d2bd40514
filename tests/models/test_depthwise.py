import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from dfgan_jax.models import depthwise
from dfgan_jax.models.depthwise import convolve_depthwise


def case(dtype=np.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype)
            for shape in ((2, 5, 7, 3), (3, 3, 3), (2, 5, 7, 3))]


def grouped(x, kernel):
    """XLA's grouped convolution."""
    return jax.lax.conv_general_dilated(
        x, kernel[:, :, None], (1, 1), [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
        precision="highest")


def test_each_channel_is_correlated_with_its_own_kernel():
    x, kernel, _ = case()
    found = np.asarray(convolve_depthwise(x, kernel))
    for image, channel in np.ndindex(2, 3):
        expected = ndimage.correlate(np.asarray(x[image, ..., channel], np.float64),
                                     np.asarray(kernel[..., channel], np.float64),
                                     mode="constant")
        np.testing.assert_allclose(found[image, ..., channel], expected, atol=1e-5)


@pytest.mark.parametrize("by_rows", [True, False])
def test_gradients_are_those_of_a_grouped_convolution(monkeypatch, by_rows):
    if not by_rows:  # as on a GPU
        monkeypatch.setattr(depthwise, "_kernel_gradient_by_rows", depthwise._kernel_gradient)
    x, kernel, gradient = case()
    of_x, of_kernel = jax.vjp(convolve_depthwise, x, kernel)[1](gradient)
    expected_x, expected_kernel = jax.vjp(grouped, x, kernel)[1](gradient)
    np.testing.assert_allclose(of_x, expected_x, atol=1e-5)
    np.testing.assert_allclose(of_kernel, expected_kernel, atol=1e-4)


def test_gradients_of_bfloat16_are_summed_in_float32():
    x, kernel, gradient = (jnp.full_like(each, 1.0) for each in case(jnp.bfloat16))
    x, gradient = (jnp.ones((1, 40, 40, 1), jnp.bfloat16) for _ in range(2))
    _, of_kernel = jax.vjp(convolve_depthwise, x, kernel[..., :1])[1](gradient)
    assert of_kernel.dtype == jnp.bfloat16
    # 1600 in the middle, and 39² at a corner, rounded to 8 bits; a sum in bfloat16 stops at 256.
    assert of_kernel[1, 1, 0] == 1600
    assert float(of_kernel[0, 0, 0]) == pytest.approx(39**2, rel=2**-8)
