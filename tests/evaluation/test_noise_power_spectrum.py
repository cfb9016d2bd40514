import json

import numpy as np
import pytest
import scipy.ndimage

from dfgan_jax.evaluation import noise_power_spectrum as nps

SPACING_MM = 0.8


@pytest.fixture(scope="module")
def white():
    return np.random.default_rng(0).normal(0, 20, (3, 512, 512))


def spectrum_of(images, spacing=SPACING_MM):
    everywhere = np.ones(images.shape[1:], bool)
    patches = np.concatenate([nps.patches_within(image, everywhere) for image in images])
    return nps.power_spectrum(patches, pixel_spacing_mm=spacing)


def test_white_noise_is_flat(white):
    spectrum = spectrum_of(white)
    power = nps.noise_power(spectrum, pixel_spacing_mm=SPACING_MM)
    # σ²Δ², but for the lowest frequencies, which go with each patch's mean.
    np.testing.assert_allclose(power.radial[2:], 400 * SPACING_MM**2, rtol=0.06)
    assert spectrum[5:60, 5:60].mean() == pytest.approx(400 * SPACING_MM**2, rel=0.01)
    # Of frequency 0 the mean takes (Σ w)² / (N Σ w²) = 1 / 1.5² of a Hann window w.
    assert power.radial[0] == pytest.approx((1 - 1 / 2.25) * 400 * SPACING_MM**2, rel=0.15)
    assert power.noise_std_hu == pytest.approx(20, rel=0.01)
    # Half way to the last ring, and to Nyquist nearly.
    assert power.mean_frequency == pytest.approx(31 / 64 / 2 * 10 / SPACING_MM, rel=0.03)
    # Over the plane: the mean distance from the middle of a square of side 1 is 0.38260.
    assert nps.mean_frequency(spectrum, pixel_spacing_mm=SPACING_MM) == pytest.approx(
        0.3826 * 10 / SPACING_MM, rel=0.005)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_smoothed_noise_has_the_filters_spectrum(white, sigma):
    smooth = scipy.ndimage.gaussian_filter(white, (0, sigma, sigma), mode="wrap")
    spectrum = spectrum_of(smooth)
    power = nps.noise_power(spectrum, pixel_spacing_mm=SPACING_MM)
    f = power.frequencies / 10  # 1/mm
    expected = 400 * SPACING_MM**2 * np.exp(-(2 * np.pi * sigma * SPACING_MM * f) ** 2)
    strong = (expected > 0.02 * expected[0]) & (f > 3 / 64 / SPACING_MM)
    assert strong.sum() > 5
    np.testing.assert_allclose(power.radial[strong], expected[strong], rtol=0.1)
    # ∫ f²·exp(−a f²) df / ∫ f·exp(−a f²) df with a = (2πσ)².
    assert nps.mean_frequency(spectrum, pixel_spacing_mm=SPACING_MM) == pytest.approx(
        10 / (4 * np.pi**0.5 * sigma * SPACING_MM), rel=0.03)
    # ∫ f·exp(−a f²) df / ∫ exp(−a f²) df, but for what the patches' means take at 0.
    assert power.mean_frequency == pytest.approx(
        10 / (2 * np.pi**1.5 * sigma * SPACING_MM), rel=0.1)
    assert power.noise_std_hu == pytest.approx(20 / (2 * np.pi**0.5 * sigma), rel=0.03)


def test_peak_of_a_wave_is_at_its_frequency():
    rows = np.arange(64) * np.ones((64, 1))
    patches = np.sin(2 * np.pi * (rows * 12 / 64 + np.linspace(0, 1, 5)[:, None, None]))
    power = nps.noise_power(nps.power_spectrum(patches, pixel_spacing_mm=0.5),
                            pixel_spacing_mm=0.5)
    assert power.peak_frequency == pytest.approx(12 / 64 / 0.05)
    assert power.mean_frequency == pytest.approx(12 / 64 / 0.05, rel=0.01)
    assert power.noise_std_hu == pytest.approx(0.5**0.5, rel=0.01)


def test_the_integral_is_the_tapered_variance():
    patches = np.random.default_rng(1).normal(0, 3, (7, 32, 32))
    taper = np.outer(*[np.sin(np.pi * np.arange(32) / 32) ** 2] * 2)
    centred = patches - patches.mean(axis=(1, 2), keepdims=True)
    variance = ((centred * taper) ** 2).sum(axis=(1, 2)).mean() / (taper**2).sum()
    power = nps.noise_power(nps.power_spectrum(patches, pixel_spacing_mm=0.7),
                            pixel_spacing_mm=0.7)
    assert power.noise_std_hu**2 == pytest.approx(variance, rel=1e-9)


def test_without_a_pitch_the_unit_is_the_pixel(white):
    known = nps.noise_power(spectrum_of(white), pixel_spacing_mm=SPACING_MM)
    unknown = nps.noise_power(spectrum_of(white, None), pixel_spacing_mm=None)
    np.testing.assert_allclose(unknown.frequencies, np.arange(32) / 64)
    np.testing.assert_allclose(known.frequencies, unknown.frequencies * 10 / SPACING_MM)
    np.testing.assert_allclose(known.radial, unknown.radial * SPACING_MM**2)
    assert known.mean_frequency == pytest.approx(unknown.mean_frequency * 10 / SPACING_MM)
    assert known.noise_std_hu == pytest.approx(unknown.noise_std_hu)


def test_axes_are_of_lines_and_columns():
    vertical, horizontal = nps.frequency_axes(4, pixel_spacing_mm=2.0)
    np.testing.assert_allclose(vertical, [[0], [1.25], [-2.5], [-1.25]])
    np.testing.assert_allclose(horizontal, vertical.T)


def test_patches_lie_in_the_region():
    noise = np.arange(24 * 32.0).reshape(24, 32)
    region = np.ones((24, 32), bool)
    assert nps.patches_within(noise, region, side=8).shape == (5 * 7, 8, 8)
    region[:, 12:] = False  # columns 0 to 11: patches at 0 and 4
    region[23, 0] = False  # the last row of patches loses its first
    patches = nps.patches_within(noise, region, side=8)
    assert patches[:, 0, 0].tolist() == [
        32 * row + column for row in (0, 4, 8, 12) for column in (0, 4)] + [32 * 16 + 4]
    assert nps.patches_within(noise, region & False, side=8).shape == (0, 8, 8)


def test_patches_shrink_with_the_image():
    assert [nps.patch_side((2, *shape)) for shape in (
        (512, 512), (256, 300), (128, 128), (100, 300))] == [64, 64, 32, 24]


def test_noise_of_repeats_has_its_variance_and_no_bias():
    rng = np.random.default_rng(2)
    fixed = rng.normal(0, 500, (100, 100))
    repeats = (fixed + rng.normal(0, 10, (3, 100, 100))).astype(np.float32)
    noise = nps.independent_noise(repeats)
    assert noise.dtype == np.float32
    assert noise.var() == pytest.approx(100, rel=0.03)
    np.testing.assert_allclose(noise.sum(axis=0), 0, atol=1e-3)


def test_no_noise_has_no_frequency():
    power = nps.noise_power(np.zeros((16, 16)), pixel_spacing_mm=1.0)
    assert power.mean_frequency is None
    assert power.peak_frequency is None
    assert power.noise_std_hu == 0


def test_json_holds_plain_numbers(white):
    fields = nps.noise_power(spectrum_of(white), pixel_spacing_mm=SPACING_MM).as_json()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert set(fields) == {"frequencies", "radial", "mean_frequency", "peak_frequency",
                           "noise_std_hu"}
    assert len(fields["frequencies"]) == len(fields["radial"]) == 32
