import json

import numpy as np
import pytest
import scipy.ndimage

from dfgan_jax.evaluation import noise_power_spectrum as nps
from dfgan_jax.evaluation.physics import measure_phantom, measure_slices
from dfgan_jax.evaluation.structure import fit_structure
from dfgan_jax.scans.tissues import body_mask, tissue_masks
from dfgan_jax.simulation.low_dose import simulate_pairs
from dfgan_jax.simulation.quality_phantom import scan_repeats
from dfgan_jax.support.errors import InputError


@pytest.fixture(scope="module")
def scans():
    return scan_repeats(size=128, seed=0, repeats=6)


@pytest.fixture(scope="module")
def pairs():
    return simulate_pairs(3, size=128, seed=0, split="test")


def blur(images):
    return scipy.ndimage.gaussian_filter(images, (0, 1, 1))


@pytest.fixture(scope="module")
def as_scanned(scans):
    return measure_phantom(scans[1], lambda images: images)


def test_a_linear_filter_multiplies_spectrum_and_transfer(scans, as_scanned):
    blurred = measure_phantom(scans[1], blur)
    axis = np.fft.fftshift(np.fft.fftfreq(32))
    gaussian = np.exp(-2 * np.pi**2 * (axis**2 + axis[:, None] ** 2))
    strong = (gaussian**2 > 0.05) & (np.hypot(axis, axis[:, None]) > 0.1)
    np.testing.assert_allclose((blurred.spectrum / as_scanned.spectrum)[strong],
                               gaussian[strong] ** 2, rtol=0.25)
    assert blurred.nps.mean_frequency < 0.55 * as_scanned.nps.mean_frequency
    assert blurred.nps.noise_std_hu == pytest.approx(
        np.sqrt((as_scanned.spectrum * gaussian**2).sum()) / 32 / (360 / 128), rel=0.02)
    for before, after in zip(as_scanned.ttf, blurred.ttf, strict=True):
        if abs(before.contrast_hu) >= 400:
            f = before.frequencies[:20] * 360 / 128 / 10
            np.testing.assert_allclose(after.ttf[:20] / before.ttf[:20],
                                       np.exp(-2 * np.pi**2 * f**2), atol=0.04)
            assert after.f50 < 0.6 * before.f50
            assert after.recovered_contrast == pytest.approx(1, abs=0.03)
    # The observer undoes a linear filter; a pixel's noise knows nothing of texture.
    for before, after in zip(as_scanned.detectability, blurred.detectability, strict=True):
        assert after.d_prime == pytest.approx(before.d_prime, rel=0.12)
        assert after.cnr > 1.5 * before.cnr


def test_dose_shows_in_noise_and_detectability(scans, as_scanned):
    normal = measure_phantom(scans[0], lambda images: images)
    assert as_scanned.nps.noise_std_hu / normal.nps.noise_std_hu == pytest.approx(2.1, abs=0.1)
    ratios = [low.d_prime / full.d_prime for low, full in zip(
        as_scanned.detectability, normal.detectability, strict=True)]
    assert np.mean(ratios) == pytest.approx(0.48, abs=0.08)
    assert 1 < np.mean([each.d_prime for each in as_scanned.detectability]) < 5


def test_the_spectrum_is_that_of_the_background_between_repeats(scans, as_scanned):
    low = scans[1]
    rows, columns = np.mgrid[:128, :128] - 63.5
    region = np.hypot(rows, columns) * 360 / 128 < 140
    noise = (low.background - low.background.mean(axis=0)) * (6 / 5) ** 0.5
    patches = np.concatenate([nps.patches_within(each, region, side=32) for each in noise])
    assert len(patches) >= 6 * 9
    expected = nps.power_spectrum(patches, pixel_spacing_mm=360 / 128)
    np.testing.assert_allclose(as_scanned.spectrum[16, 16:], expected[0, :16], rtol=1e-4)
    fixed = np.random.default_rng(0).normal(0, 100, (128, 128)).astype(np.float32)
    biased = measure_phantom(low, lambda images: images + fixed)
    np.testing.assert_allclose(biased.spectrum, as_scanned.spectrum, rtol=1e-3, atol=1e-2)


def test_half_of_everything(scans, as_scanned):
    """HU halved: half the noise and contrast, the same resolution and detectability."""
    half = measure_phantom(scans[1], lambda images: images / 2)
    assert half.nps.noise_std_hu == pytest.approx(as_scanned.nps.noise_std_hu / 2, rel=1e-4)
    for before, after in zip(as_scanned.ttf, half.ttf, strict=True):
        np.testing.assert_allclose(after.ttf, before.ttf, atol=1e-5)
        assert after.recovered_contrast == pytest.approx(before.recovered_contrast / 2, rel=1e-4)
    for before, after in zip(as_scanned.detectability, half.detectability, strict=True):
        assert after.d_prime == pytest.approx(before.d_prime, rel=1e-3)
        assert after.cnr == pytest.approx(before.cnr, rel=1e-3)


def test_phantom_json_is_plain_and_complete(scans, as_scanned):
    flat = measure_phantom(scans[1], lambda images: np.full_like(images, 5.0))
    for measured in (as_scanned, flat):
        fields = measured.as_json()
        assert json.loads(json.dumps(fields, allow_nan=False)) == fields
        assert set(fields) == {"nps", "ttf", "detectability"}
        assert [each["contrast_hu"] for each in fields["ttf"]] == [
            -800, -110, 60, 150, 400, 900]
        assert [each["diameter_mm"] for each in fields["detectability"]] == pytest.approx(
            [6, 8, 12, 16])
    assert flat.as_json()["detectability"][0]["d_prime"] is None


def test_denoisers_that_cannot_be_measured_are_named(scans):
    with pytest.raises(InputError, match=r"\(6, 64, 64\); expected \(6, 128, 128\)"):
        measure_phantom(scans[1], lambda images: images[:, ::2, ::2])
    with pytest.raises(InputError, match="not finite"):
        measure_phantom(scans[1], lambda images: images * np.float32(np.nan))


def test_slices_are_measured_in_body_and_tissues(pairs):
    ndct, qdct = (images.copy() for images in pairs)
    for images in (ndct, qdct):
        images[1, :, 70:] = -1000  # a body with fewer patches
    measured = measure_slices(qdct, ndct, qdct, pixel_spacing_mm=360 / 128)
    assert measured.frequency_unit == "lp/cm"
    assert (measured.structure, measured.structure_map, measured.removed_map) == (None,) * 3
    bodies = [body_mask(image, margin=2) for image in ndct]
    errors = qdct - ndct
    patches = np.concatenate([nps.patches_within(error, body, side=32)
                              for error, body in zip(errors, bodies, strict=True)])
    expected = nps.noise_power(nps.power_spectrum(patches, pixel_spacing_mm=360 / 128),
                               pixel_spacing_mm=360 / 128)
    np.testing.assert_allclose(measured.nps.radial, expected.radial)
    assert measured.nps.mean_frequency == pytest.approx(expected.mean_frequency)
    soft = np.concatenate([
        error[tissue_masks(image, body)["soft tissue"]]
        for error, image, body in zip(errors, ndct, bodies, strict=True)])
    found = measured.tissues["soft tissue"]
    assert found.pixels == len(soft) > 1000
    assert found.bias_hu == pytest.approx(soft.mean(), abs=1e-3)
    assert found.noise_std_hu == pytest.approx(soft.std(), rel=1e-4)
    fields = measured.as_json()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert set(fields) == {"nps", "reason", "tissues", "structure"}
    assert fields["structure"] is None


def test_what_a_blur_removes_is_anatomy_and_what_the_ideal_removes_is_not(pairs):
    ndct, qdct = pairs
    blurred = blur(qdct)
    measured = measure_slices(blurred, ndct, qdct, pixel_spacing_mm=None, structure_slice=2)
    assert measured.frequency_unit == "1/pixel"
    assert measured.nps.frequencies[-1] == pytest.approx(15 / 32)
    assert measured.structure.explained > 0.4
    np.testing.assert_array_equal(measured.removed_map, blurred[2] - qdct[2])
    _, fitted = fit_structure(blurred[2] - qdct[2], ndct[2], body_mask(ndct[2], margin=2))
    np.testing.assert_array_equal(measured.structure_map, fitted)
    assert set(measured.as_json()["structure"]) == {"explained", "rms_hu"}
    ideal = measure_slices(ndct, ndct, qdct, pixel_spacing_mm=None)
    assert ideal.structure.explained < 0.01
    assert ideal.structure.rms_hu < 0.1 * measured.structure.rms_hu
    assert ideal.as_json()["nps"]["mean_frequency"] is None
    assert {each.noise_std_hu for each in ideal.tissues.values()} == {0.0}


def test_slices_without_a_body_count_for_nothing(pairs):
    ndct, qdct = (np.concatenate([images, np.full_like(images[:1], -1000)]) for images in pairs)
    with_blank, without = (measure_slices(blur(low), full, low, pixel_spacing_mm=1.0).as_json()
                           for full, low in ((ndct, qdct), pairs))
    assert with_blank == without
    blank = ndct[3:]
    nowhere = measure_slices(blank, blank, blank.copy(), pixel_spacing_mm=1.0)
    assert nowhere.nps is None
    assert nowhere.as_json() == {
        "nps": None, "reason": "no patch of 32×32 pixels lies within a body",
        "structure": {"explained": None, "rms_hu": None},
        "tissues": {name: {"bias_hu": None, "noise_std_hu": None, "pixels": 0}
                    for name in ("lung", "fat", "soft tissue", "bone")}}


@pytest.mark.parametrize(("change", "message"), [
    ({"ndct": np.zeros((2, 32, 33))}, r"shapes .*\(2, 32, 33\).*expected \(N, H, W\)"),
    ({"structure_slice": 2}, "structure_slice is 2; expected 0 to 1"),
    ({"pixel_spacing_mm": 0.0}, "pixel_spacing_mm is 0.0; expected above 0"),
])
def test_wrong_requests_are_refused(change, message):
    images = np.zeros((2, 32, 32), np.float32)
    arguments = {"images": images, "ndct": images, "qdct": images, "pixel_spacing_mm": None}
    with pytest.raises(InputError, match=message):
        measure_slices(**arguments | change)
