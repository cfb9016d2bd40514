import numpy as np
import pytest

from dfgan_jax.scans import hounsfield
from dfgan_jax.scans.resizing import resize
from tests.reference import load
from tests.reference.fill import image


def test_halving_averages_two_by_two():
    image = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = image.reshape(2, 2, 3, 2).mean((1, 3))
    np.testing.assert_allclose(resize(image, (2, 3)), expected)


def test_resize_does_not_antialias():
    """Of four pixels only the middle two count: half-pixel centres, no wider filter."""
    image = np.array([[100.0, 1.0, 3.0, 100.0]], np.float32)
    np.testing.assert_allclose(resize(image, (1, 1)), [[2.0]])


def test_same_size_changes_nothing():
    image = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(resize(image, (5, 7)), image)


@pytest.mark.parametrize(("case", "shape", "size"), [
    ("512to256", (512, 512), 256), ("96to64", (96, 96), 64), ("100x80to64", (100, 80), 64)])
def test_agrees_with_the_published_preprocessing(case, shape, size):
    mu = np.float32(0.0192 * (1 + 0.5 * image(f"mu_{case}", shape, load.SEED)))
    ours = hounsfield.normalise(resize(hounsfield.mu_to_hu(mu), (size, size)))
    np.testing.assert_allclose(ours, load.numbers("preprocess")[case][0], atol=1e-6)
