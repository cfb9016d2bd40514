import numpy as np
import pytest
import scipy.ndimage

from dfgan_jax.denoising.denoised_series import measure_change, measured_slices

SPACING_MM = 0.8


def body(*, size=160):
    """Water in air, with a bone and a vessel."""
    offsets = np.hypot(*(np.mgrid[:size, :size] - size / 2))
    hu = np.where(offsets < 70, 20, -1000).astype(np.float32)
    hu[60:70, 60:70] = 800
    hu[100:104, 30:130] = 120
    return hu


def test_noise_and_shift_are_those_that_were_made():
    random = np.random.default_rng(0)
    noise = random.normal(0, 30, (160, 160)).astype(np.float32)
    change = measure_change(body() + noise, body() + 0.3 * noise + 2, pixel_spacing_mm=SPACING_MM)
    assert change.noise_before_hu == pytest.approx(30, rel=0.05)
    assert change.noise_after_hu == pytest.approx(9, rel=0.08)
    # Of about 14,000 pixels: the mean of their noise is near 0.
    assert change.soft_tissue_shift_hu == pytest.approx(2, abs=1)


def test_anatomy_is_not_taken_for_noise():
    random = np.random.default_rng(0)
    # Fat between muscles, whose steps of 60 HU are no noise, in half of the body.
    stripes = np.where(np.arange(160) // 12 % 2, 0, 60) * (np.arange(160) < 80)[:, None]
    hu = body() + np.where(body() == 20, stripes, 0) + random.normal(0, 10, (160, 160))
    before = hu.astype(np.float32)
    change = measure_change(before, before, pixel_spacing_mm=SPACING_MM)
    assert change.noise_before_hu == pytest.approx(10, rel=0.1)
    assert change.soft_tissue_shift_hu == 0


@pytest.mark.parametrize("make", [
    lambda: np.full((64, 64), -1000, np.float32),
    lambda: scipy.ndimage.zoom(body(), 0.05, order=0)])
def test_without_soft_tissue_nothing_is_measured(make):
    assert measure_change(make(), make(), pixel_spacing_mm=SPACING_MM)[:2] == (None, None)


@pytest.mark.parametrize(("count", "indices"), [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]),
                                                (60, [10, 30, 50])])
def test_slices_are_taken_from_all_of_a_series(count, indices):
    assert measured_slices(count) == indices
