import numpy as np
import pytest

from dfgan_jax.scans import hounsfield


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
