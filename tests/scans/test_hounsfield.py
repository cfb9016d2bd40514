import numpy as np
import pytest

from dfgan_jax.scans import hounsfield
from tests.reference import load
from tests.reference.fill import image


def test_water_air_and_the_networks_range():
    assert hounsfield.mu_to_hu(0.0192) == pytest.approx(0)
    assert hounsfield.mu_to_hu(0.0) == pytest.approx(-1000)
    assert hounsfield.normalise(-1024.0) == pytest.approx(-1.048)
    assert hounsfield.normalise(0.0) == 1.0


def test_conversions_invert_each_other():
    hu = np.linspace(-1024, 3071, 50).astype(np.float32)
    np.testing.assert_allclose(hounsfield.mu_to_hu(hounsfield.hu_to_mu(hu)), hu, atol=1e-3)
    np.testing.assert_allclose(hounsfield.denormalise(hounsfield.normalise(hu)), hu, atol=1e-3)


def test_float32_stays_float32():
    hu = np.zeros(3, np.float32)
    for function in (hounsfield.mu_to_hu, hounsfield.hu_to_mu, hounsfield.normalise,
                     hounsfield.denormalise):
        assert function(hu).dtype == np.float32


def test_halving_averages_two_by_two():
    image = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = image.reshape(2, 2, 3, 2).mean((1, 3))
    np.testing.assert_allclose(hounsfield.resize(image, (2, 3)), expected)


def test_resize_does_not_antialias():
    """Of four pixels only the middle two count: half-pixel centres, no wider filter."""
    image = np.array([[100.0, 1.0, 3.0, 100.0]], np.float32)
    np.testing.assert_allclose(hounsfield.resize(image, (1, 1)), [[2.0]])


def test_same_size_changes_nothing():
    image = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(hounsfield.resize(image, (5, 7)), image)


@pytest.mark.parametrize(("case", "shape", "size"), [
    ("512to256", (512, 512), 256), ("96to64", (96, 96), 64), ("100x80to64", (100, 80), 64)])
def test_agrees_with_the_published_preprocessing(case, shape, size):
    mu = np.float32(0.0192 * (1 + 0.5 * image(f"mu_{case}", shape, load.SEED)))
    ours = hounsfield.normalise(hounsfield.resize(hounsfield.mu_to_hu(mu), (size, size)))
    np.testing.assert_allclose(ours, load.numbers("preprocess")[case][0], atol=1e-6)


@pytest.mark.parametrize(("limits", "expected"), [
    ((-1024, 3071), (-1024, 3071)), ((-1060, 3071), (-1100, 3071)), ((-1000, 3500), (-1024, 3200))])
def test_a_low_dose_is_cut_as_its_full_dose_is(limits, expected):
    stored = hounsfield.cut_and_rounded_like(np.array([-1100.0, 3200.0]), np.array([0.5, 1]),
                                             limits=limits)
    np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize(("ndct", "expected"), [([40.0, -3], [41, -8]), ([40.5, -3], [41.3, -7.6])])
def test_a_low_dose_is_rounded_as_its_full_dose_is(ndct, expected):
    stored = hounsfield.cut_and_rounded_like(np.array([41.3, -7.6]), np.array(ndct),
                                             limits=(-1024, 3071))
    np.testing.assert_array_equal(stored, expected)
