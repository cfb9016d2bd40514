import numpy as np
import pytest

from dfgan_jax.simulation.kernel_change import HIGHEST_GAIN, change_kernel
from dfgan_jax.simulation.projection import kernel_mtf
from dfgan_jax.support.errors import InputError

SPACING_MM = 0.7


def wave(lp_cm, *, size=96):
    """Of amplitude 1 along both axes' diagonal."""
    x, y = np.mgrid[:size, :size] * SPACING_MM / 10
    return np.sin(2 * np.pi * lp_cm * (x + y) / 2 ** 0.5).astype(np.float32)


def amplitude(image):
    return image[24:-24, 24:-24].std() * 2 ** 0.5


@pytest.mark.parametrize(("old", "new"), [(3.5, 5.6), (5.6, 3.5), ("soft", "sharp"), (4.0, "ramp")])
@pytest.mark.parametrize("lp_cm", [1.0, 3.0, 4.5])
def test_a_wave_is_that_of_the_other_kernel(old, new, lp_cm):
    ratio = kernel_mtf(np.array([lp_cm]), new) / kernel_mtf(np.array([lp_cm]), old)
    changed = change_kernel(wave(lp_cm), pixel_spacing_mm=SPACING_MM, old=old, new=new)
    assert amplitude(changed) == pytest.approx(ratio, rel=0.03)


def test_values_of_uniform_regions_stay():
    hu = np.full((40, 60), -1000, np.float32)
    hu[:20] = 50
    changed = change_kernel(hu, pixel_spacing_mm=SPACING_MM, old=3.5, new=6.0)
    assert changed.shape == hu.shape
    assert changed.dtype == np.float32
    # A step of 1050 HU rings, as under any sharp kernel.
    np.testing.assert_allclose(changed[:8], 50, atol=6)
    np.testing.assert_allclose(changed[32:], -1000, atol=6)


def test_kernels_one_after_another_are_the_last():
    hu = np.random.default_rng(0).normal(0, 20, (64, 64)).astype(np.float32)
    soft = change_kernel(hu, pixel_spacing_mm=SPACING_MM, old="ramp", new=3.5)
    back = change_kernel(change_kernel(soft, pixel_spacing_mm=SPACING_MM, old=3.5, new=3.0),
                         pixel_spacing_mm=SPACING_MM, old=3.0, new=3.5)
    np.testing.assert_allclose(back[16:-16, 16:-16], soft[16:-16, 16:-16], atol=1)


def test_the_gain_is_limited():
    changed = change_kernel(wave(7.0), pixel_spacing_mm=SPACING_MM, old=2.5, new="ramp")
    assert amplitude(changed) == pytest.approx(HIGHEST_GAIN, rel=0.03)


@pytest.mark.parametrize(("options", "message"), [
    ({"pixel_spacing_mm": 0.0}, "pixel_spacing_mm is 0.0; expected above 0"),
    ({"pixel_spacing_mm": -1.0}, "pixel_spacing_mm is -1.0; expected above 0"),
    ({"old": 0.0}, "old is 0.0; expected a frequency above 0 lp/cm"),
    ({"new": 0.0}, "new is 0.0; expected a frequency above 0 lp/cm"),
    ({"new": np.nan}, "new is nan; expected a frequency above 0 lp/cm"),
    ({"old": "auto"}, "old is 'auto'; expected a frequency in lp/cm or one of ramp, soft")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        change_kernel(np.zeros((8, 8), np.float32), **{
            "pixel_spacing_mm": 1.0, "old": 3.0, "new": 4.0, **options})


def test_a_slice_with_a_nan_is_refused():
    hu = np.zeros((8, 8), np.float32)
    hu[3, 4] = np.nan
    with pytest.raises(InputError, match="values that are NaN or infinite; expected finite HU"):
        change_kernel(hu, pixel_spacing_mm=1.0, old=3.0, new=4.0)


def test_a_volume_is_refused():
    with pytest.raises(InputError, match=r"shape \(2, 8, 8\); expected \(height, width\)"):
        change_kernel(np.zeros((2, 8, 8), np.float32), pixel_spacing_mm=1.0, old=3.0, new=4.0)
