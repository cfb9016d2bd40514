import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models.unet import UNet
from dfgan_jax.models.widening import NEW_WEIGHTS, widen
from tests.models.drawn import drawn


def variables(width, **options):
    """Kernels as initialised, and values of each channel between 0.5 and 1.5."""
    rng = np.random.default_rng(width)
    shapes = jax.eval_shape(lambda: UNet(width=width, **options).init(
        jax.random.key(0), jnp.zeros((1, 16, 32, 1)), train=False))
    return jax.tree.map(lambda x: x if x.ndim > 1 else rng.uniform(0.5, 1.5, x.shape),
                        drawn(shapes, seed=width))


@pytest.mark.parametrize("options", [
    {"normalization": "none", "output": "difference"}, {"normalization": "batch"},
    {"normalization": "group", "add_image": False}])
def test_a_widened_network_computes_the_same(options):
    narrow, wide = (variables(width, **options) for width in (4, 8))
    image = np.random.default_rng(0).standard_normal((2, 16, 32, 1), np.float32)
    before, after = (run_once(
        lambda v, x, width=width: UNet(width=width, **options).apply(v, x, train=False), v, image)
        for width, v in ((4, narrow), (8, widen(narrow, wide))))
    assert np.abs(before - image).max() > 0.1
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_new_channels_are_random_and_unheard():
    """Up stages take the skip's channels, then those from below: old and new of each in turn."""
    options = {"normalization": "none"}
    narrow, wide = (variables(width, **options) for width in (2, 3))
    kernel, old, new = (tree["params"]["up4"]["conv1"]["kernel"]
                        for tree in (widen(narrow, wide), narrow, wide))
    np.testing.assert_array_equal(kernel[:, :, [0, 1, 3, 4], :2], old)
    assert not kernel[:, :, [2, 5], :2].any()
    np.testing.assert_array_equal(kernel[..., 2], NEW_WEIGHTS * new[..., 2])
