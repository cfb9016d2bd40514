import functools

import numpy as np
import pytest
import scipy.ndimage

from dfgan_jax.scans.hounsfield import MU_WATER, hu_to_mu, mu_to_hu
from dfgan_jax.simulation import scan_rays
from dfgan_jax.simulation.low_dose import (
    REFERENCE_ATTENUATION,
    count_photons,
    incident_photons,
    log_transform,
    modulate_tube_current,
    thin_counts,
)
from dfgan_jax.simulation.noise_estimation import estimate_noise, measure_noise
from dfgan_jax.simulation.noise_insertion import insert_noise
from dfgan_jax.simulation.projection import ParallelBeam, kernel_mtf
from dfgan_jax.simulation.scan_rays import (
    BOWTIE_ATTENUATION,
    ELECTRONIC_NOISE_STD,
    SCAN_RADIUS_MM,
    TUBE_CURRENT_MODULATION,
    VIEWS,
)
from dfgan_jax.support.errors import InputError

SPACING_MM = 0.8
DISC_MM = 34.0


def _disc(height: int = 96, width: int = 96, *, spacing_mm: float = SPACING_MM,
          radius_mm: float = DISC_MM) -> np.ndarray:
    rows, columns = ((np.arange(length) - (length - 1) / 2) * spacing_mm
                     for length in (height, width))
    return np.where(np.hypot(rows[:, None], columns) < radius_mm, 0, -1000).astype(np.float32)


def _core(size: int = 96, *, spacing_mm: float = SPACING_MM, radius_mm: float = 10.0):
    return _disc(size, size, spacing_mm=spacing_mm, radius_mm=radius_mm) == 0


def _noise(seed: int, hu: np.ndarray, **options) -> np.ndarray:
    defaults = {"pixel_spacing_mm": SPACING_MM, "dose_fraction": 0.25, "kernel": "soft",
                "photons_per_ray": 1e5, "electronic_noise_std": 0.0}
    return insert_noise(np.random.default_rng(seed), hu, **defaults | options) - hu


@functools.lru_cache(maxsize=1)
def _beam() -> ParallelBeam:
    return ParallelBeam(size=96, views=VIEWS, pixel_spacing_mm=SPACING_MM, diameter=1.42,
                        bins_per_pixel=2)


def _counted_scan(seed: int, *, photons_per_ray: float, electronic_noise_std: float,
                  kernel: str = "soft") -> np.ndarray:
    """Full and quarter dose of the disc from counted photons, thinned, each reconstructed.

    The strips' blur is divided out of the sinograms, as from measured kernels.
    """
    rng, beam = np.random.default_rng(seed), _beam()
    line_integrals = beam.project(hu_to_mu(_disc())[None])
    offset_mm = (np.arange(beam.bins) + 0.5 - beam.bins / 2) * beam.bin_spacing_mm
    photons = incident_photons(offset_mm / SCAN_RADIUS_MM, bowtie_attenuation=BOWTIE_ATTENUATION,
                               photons_per_ray=photons_per_ray * beam.bin_spacing_mm)
    photons = photons * modulate_tube_current(
        line_integrals, tube_current_modulation=TUBE_CURRENT_MODULATION)
    counts = count_photons(rng, line_integrals, photons_per_ray=photons)
    sinograms = np.concatenate([
        log_transform(rng, doses_counts, photons_per_ray=photons * dose,
                      electronic_noise_std=electronic_noise_std * beam.bin_spacing_mm**0.5)
        for dose, doses_counts in ((1.0, counts),
                                   (0.25, thin_counts(rng, counts, dose_fraction=0.25)))])
    per_pixel = 2 * np.fft.rfftfreq(beam.bins)
    blur = np.sinc(per_pixel) * np.sinc(per_pixel / 2)
    blur[per_pixel > 0.55] = np.inf
    sinograms = np.fft.irfft(np.fft.rfft(sinograms) / blur, beam.bins).astype(np.float32)
    return mu_to_hu(beam.filtered_backproject(sinograms, kernel=kernel))


@pytest.mark.parametrize("electronic_noise_std", [0.0, 40.0])
def test_noise_in_a_discs_centre_is_as_calculated(electronic_noise_std):
    # Var(µ) = π²/views · Var(ray) · ∫ f² MTF² df / bin³ (Kak & Slaney 1988, chapter 5).
    # The current is exp(m·(P − 7)) for each view, and the bowtie filter nothing there.
    attenuation = 2 * DISC_MM * MU_WATER
    photons = 1e5 * SPACING_MM * np.exp(
        TUBE_CURRENT_MODULATION * (attenuation - REFERENCE_ATTENUATION) - attenuation)
    ray_variance = 3 / photons + 15 * electronic_noise_std**2 * SPACING_MM / photons**2
    frequency = np.linspace(-0.5, 0.5, 20_001)
    mtf = kernel_mtf(np.abs(frequency) * 10 / SPACING_MM, "soft")
    integral = np.mean((frequency * mtf) ** 2)
    expected = (1000 / MU_WATER / SPACING_MM * np.pi
                * np.sqrt(ray_variance * integral / VIEWS))
    core = _core()
    measured = np.sqrt(np.mean([
        _noise(seed, _disc(), electronic_noise_std=electronic_noise_std)[core] ** 2
        for seed in range(20)]))
    assert measured == pytest.approx(expected, rel=0.04)


def test_full_dose_and_inserted_noise_make_the_noise_of_counted_photons():
    # Both counted doses are blurred alike by bin and pixel, so ratios are compared. Thinning
    # shares the photons but no reading's electronic noise, so variances are.
    scan = {"photons_per_ray": 2e5, "electronic_noise_std": 60.0}
    core = _core()
    full, low = np.mean([(_counted_scan(seed, **scan) - _disc())[:, core].var(axis=1)
                         for seed in range(25)], axis=0)
    quarter = np.mean([_noise(seed, _disc(), **scan)[core].var() for seed in range(25)])
    # Photons alone at full dose: 1/d − 1 is 1 at half the dose.
    photon = np.mean([_noise(seed, _disc(), photons_per_ray=2e5, dose_fraction=0.5)[core].var()
                      for seed in range(25)])
    half = np.mean([_noise(seed, _disc(), dose_fraction=0.5, **scan)[core].var()
                    for seed in range(25)])
    inserted_over_full = quarter / (photon + (half - photon) / 3)  # 1/d² − 1 is 3
    assert low / full == pytest.approx(1 + inserted_over_full, rel=0.06)
    assert low / full > 5  # of photons alone it would be 4


def test_added_noise_grows_as_the_missing_dose():
    half, quarter, tenth = (_noise(1, _disc(), dose_fraction=dose) for dose in (0.5, 0.25, 0.1))
    # float32 HU of −1000 carry 6e-5.
    np.testing.assert_allclose(quarter, half * 3**0.5, atol=1e-3)
    np.testing.assert_allclose(tenth, half * 9**0.5, atol=1e-3)


def test_noise_has_no_mean():
    core = _core()
    means = [_noise(seed, _disc())[core].mean() for seed in range(30)]
    assert abs(np.mean(means)) < 3 * np.std(means) / 30**0.5 + 1e-3


def test_noise_is_a_matter_of_millimetres_not_of_pixels():
    fine = [_noise(seed, _disc(spacing_mm=0.4, radius_mm=17.0), pixel_spacing_mm=0.4)[
        _core(spacing_mm=0.4)].var() for seed in range(12)]
    coarse = [_noise(seed, _disc(48, 48, radius_mm=17.0))[_core(48)].var() for seed in range(12)]
    assert np.mean(fine) == pytest.approx(np.mean(coarse), rel=0.1)


@pytest.mark.parametrize(("kernel", "f50"), [("soft", 3.5), ("sharp", 5.6)])
def test_photons_and_kernel_are_recovered_from_counted_photons(kernel, f50):
    # Electronic noise is two fifths of the variance.
    scans = [_counted_scan(seed, photons_per_ray=3e5, electronic_noise_std=50.0, kernel=kernel)[0]
             for seed in range(8)]
    options = {"pixel_spacing_mm": SPACING_MM, "electronic_noise_std": 50.0}
    known = [estimate_noise(scan, kernel=kernel, **options) for scan in scans]
    assert np.mean([each.photons_per_ray for each in known]) == pytest.approx(3e5, rel=0.06)
    estimates = [estimate_noise(scan, **options) for scan in scans]
    assert np.mean([each.kernel for each in estimates]) == pytest.approx(f50, rel=0.05)
    assert np.mean([each.photons_per_ray for each in estimates]) == pytest.approx(3e5, rel=0.1)


@pytest.mark.parametrize(("kernel", "f50"), [("soft", 3.5), ("sharp", 5.6)])
def test_noise_and_kernel_are_measured_without_rays(kernel, f50):
    discs = [_disc() + _noise(seed, _disc(), dose_fraction=0.5, kernel=kernel)
             for seed in range(4)]
    measured = [measure_noise(disc, pixel_spacing_mm=SPACING_MM) for disc in discs]
    traced = [estimate_noise(disc, pixel_spacing_mm=SPACING_MM) for disc in discs]
    assert np.mean([each.kernel for each in measured]) == pytest.approx(f50, rel=0.05)
    for one, other in zip(measured, traced, strict=True):
        assert one.noise_std_hu == pytest.approx(other.noise_std_hu, rel=0.1)
        assert one.kernel == pytest.approx(other.kernel, rel=0.05)
    core = _core()
    truth = np.mean([(disc - _disc())[core].std() for disc in discs])
    assert np.mean([each.noise_std_hu for each in measured]) == pytest.approx(truth, rel=0.15)


@pytest.mark.parametrize("kernel", [2.0, "soft", 8.0])
def test_photons_are_recovered_through_any_kernel(kernel):
    # The steeper the spectrum, the more the taper smears it.
    flat = np.zeros((96, 96), np.float32)
    photons = [estimate_noise(flat + _noise(seed, flat, dose_fraction=0.5, kernel=kernel),
                              pixel_spacing_mm=SPACING_MM, kernel=kernel,
                              electronic_noise_std=0.0).photons_per_ray for seed in range(8)]
    assert np.mean(photons) == pytest.approx(1e5, rel=0.05)


def test_estimated_noise_is_that_of_the_slice():
    flat = np.zeros((96, 96), np.float32)
    noisy = flat + _noise(3, flat, dose_fraction=0.5)
    estimate = estimate_noise(noisy, pixel_spacing_mm=SPACING_MM, kernel="soft",
                              electronic_noise_std=0.0)
    assert estimate.noise_std_hu == pytest.approx(noisy.std(), rel=0.1)
    # At half the dose the noise added is the full dose's.
    assert estimate.photons_per_ray == pytest.approx(1e5, rel=0.1)
    assert estimate.kernel == "soft"
    assert estimate.patches >= 100


def test_structure_is_not_taken_for_noise():
    texture = 80 * scipy.ndimage.gaussian_filter(
        np.random.default_rng(0).standard_normal((96, 96)), 1.0) / 0.28
    texture[:, 48:] = 0

    def patchy(seed):
        return (_disc() + texture + _noise(seed, _disc(), dose_fraction=0.5)).astype(np.float32)

    estimates = [estimate_noise(patchy(seed), pixel_spacing_mm=SPACING_MM, kernel="soft",
                                electronic_noise_std=0.0) for seed in range(3)]
    assert np.mean([each.photons_per_ray for each in estimates]) == pytest.approx(1e5, rel=0.15)


def test_what_is_not_given_is_estimated():
    hu = _disc() + _noise(5, _disc(), dose_fraction=0.5)
    estimate = estimate_noise(hu, pixel_spacing_mm=SPACING_MM)
    given = _noise(0, hu, kernel=estimate.kernel, photons_per_ray=estimate.photons_per_ray,
                   electronic_noise_std=ELECTRONIC_NOISE_STD)
    left_out = insert_noise(np.random.default_rng(0), hu, pixel_spacing_mm=SPACING_MM,
                            dose_fraction=0.25) - hu
    np.testing.assert_array_equal(left_out, given)


def test_given_photons_are_kept_where_the_kernel_is_estimated():
    hu = _disc() + _noise(5, _disc(), dose_fraction=0.5)
    few, many = (_noise(0, hu, kernel="auto", photons_per_ray=photons)
                 for photons in (1e5, 4e5))
    np.testing.assert_allclose(few, 2 * many, atol=1e-3)


def test_metal_overflows_nothing():
    hu = _disc() + _noise(5, _disc(), dose_fraction=0.5)
    hu[44:52, 46:50] = 1e6  # line integrals up to 120
    estimate = estimate_noise(hu, pixel_spacing_mm=SPACING_MM, kernel="soft")
    assert np.isfinite(estimate[0])
    assert np.isfinite(_noise(0, hu, photons_per_ray=estimate.photons_per_ray)).all()


def test_a_frequency_is_a_kernel_shaped_as_soft():
    np.testing.assert_allclose(_noise(0, _disc(), kernel=3.5), _noise(0, _disc()), atol=1e-3)
    assert _noise(0, _disc(), kernel=5.0).std() > 1.2 * _noise(0, _disc()).std()


def test_outside_is_air_to_the_rays_and_stays_as_it_is():
    outside = np.zeros((96, 96), bool)
    outside[:20] = outside[:, 90:] = True
    results = []
    for padding in (-3024.0, 500.0, np.nan):
        hu = np.where(outside, np.float32(padding), _disc())
        result = insert_noise(np.random.default_rng(0), hu, pixel_spacing_mm=SPACING_MM,
                              dose_fraction=0.25, kernel="soft", photons_per_ray=1e5,
                              outside=outside)
        np.testing.assert_array_equal(result[outside], hu[outside])
        results.append(result[~outside])
    assert (results[0] != _disc()[~outside]).mean() > 0.99
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize(("height", "width"), [(51, 70), (70, 33), (49, 49), (5, 6)])
def test_any_height_and_width(height, width):
    hu = _disc(height, width, radius_mm=15)
    size = max(height, width, 8)
    top, left = (size - height) // 2, (size - width) // 2
    square = np.full((size, size), -1000, np.float32)
    square[top:top + height, left:left + width] = hu
    noise = _noise(0, hu)
    assert noise.shape == hu.shape
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(
        noise, _noise(0, square)[top:top + height, left:left + width])


def test_large_slices_get_fewer_views_and_the_same_noise(monkeypatch):
    many = np.mean([_noise(seed, _disc())[_core()].var() for seed in range(12)])
    monkeypatch.setattr(scan_rays, "_unit_beam", lambda size: ParallelBeam(
        size=size, views=120, pixel_spacing_mm=1.0, diameter=1.42, bins_per_pixel=2))
    few = np.mean([_noise(seed, _disc())[_core()].var() for seed in range(12)])
    assert few == pytest.approx(many, rel=0.1)


def test_noise_depends_on_the_generators_state_alone():
    np.testing.assert_array_equal(_noise(4, _disc()), _noise(4, _disc()))
    assert np.abs(_noise(4, _disc()) - _noise(5, _disc())).mean() > 1


def test_the_result_is_neither_rounded_nor_clipped():
    result = _disc() + _noise(0, _disc())
    assert (result < -1024).any()
    assert (result != np.rint(result)).mean() > 0.99


def test_noise_of_starved_rays_is_limited():
    hu = _disc()
    hu[40:56, 20:76] = 30_000  # 45 mm of metal: a line integral of 27
    low = _noise(0, hu, dose_fraction=0.01, electronic_noise_std=30.0)
    assert np.isfinite(low).all()
    # Rays of noise 1, in every view, through a kernel: of the order of 1000 HU.
    assert low.std() < 5000


@pytest.mark.parametrize(("options", "message"), [
    ({"dose_fraction": 0.0}, "dose_fraction is 0.0; expected above 0, below 1"),
    ({"dose_fraction": 1.0}, "dose_fraction is 1.0; expected above 0, below 1"),
    ({"dose_fraction": np.nan}, "dose_fraction is nan; expected above 0, below 1"),
    ({"pixel_spacing_mm": 0.0}, "pixel_spacing_mm is 0.0; expected above 0"),
    ({"kernel": "B30f"}, "kernel is 'B30f'; expected auto, .*soft"),
    ({"kernel": -1.0}, "kernel is -1.0; expected a frequency above 0"),
    ({"photons_per_ray": 0.0}, "photons_per_ray is 0.0; expected above 0"),
    ({"electronic_noise_std": -1.0}, "electronic_noise_std is -1.0; expected 0 or more"),
    ({"outside": np.zeros((2, 2), bool)}, r"outside is bool of shape \(2, 2\); expected bool"),
    ({"outside": np.zeros((96, 96))}, "outside is float64 of shape .*expected bool"),
])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        _noise(0, _disc(), **options)


@pytest.mark.parametrize(("hu", "message"), [
    (np.zeros((1, 8, 8), np.float32), r"shape \(1, 8, 8\); expected \(height, width\)"),
    (np.zeros((0, 8), np.float32), r"shape \(0, 8\); expected"),
    (np.full((8, 8), np.nan, np.float32), "NaN or infinite; expected finite HU"),
])
def test_wrong_slices_are_refused(hu, message):
    with pytest.raises(InputError, match=message):
        insert_noise(np.random.default_rng(0), hu, pixel_spacing_mm=1.0, dose_fraction=0.5,
                     kernel="soft", photons_per_ray=1e5)


@pytest.mark.parametrize(("hu", "spacing_mm", "message"), [
    (_disc(radius_mm=12), SPACING_MM, "the slice has [0-9]+ regions of soft tissue.*least 100"),
    (np.full((64, 64), -1000, np.float32), SPACING_MM, "the slice has 0 regions"),
    (_disc(5, 96), SPACING_MM, "the slice has 0 regions"),
    (np.zeros((64, 64), np.float32), SPACING_MM, "the slice has no noise"),
    (np.random.default_rng(0).normal(0, 0.1, (64, 64)).astype(np.float32), SPACING_MM,
     "noise is 0.[01][0-9]* HU .*expected at least 0.3 HU"),
    (np.random.default_rng(0).normal(0, 9, (64, 64)).astype(np.float32), 3.0,
     "pixel_spacing_mm is 3.0, too coarse"),
])
def test_slices_that_cannot_be_measured_are_refused(hu, spacing_mm, message):
    with pytest.raises(InputError, match=message):
        estimate_noise(hu, pixel_spacing_mm=spacing_mm)
