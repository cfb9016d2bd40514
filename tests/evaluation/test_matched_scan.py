import re

import numpy as np
import pytest

from dfgan_jax.evaluation.matched_scan import configured_scan, matched_scan
from dfgan_jax.simulation.low_dose import ScanProtocol
from dfgan_jax.simulation.noise_estimation import estimate_noise
from dfgan_jax.simulation.noise_insertion import insert_noise
from dfgan_jax.simulation.quality_phantom import (
    QUALITY_PHANTOM_MIN_SIZE,
    cylinder_noise,
    scan_repeats,
)

SPACING_MM, SIZE, KERNEL_LP_CM = 1.25, 180, 2.6


def pairs(normal_hu, low_hu, *, kernel=KERNEL_LP_CM):
    """A disc of soft tissue with scanner noise of known strength, at two doses."""
    offsets = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
    disc = np.where(np.hypot(offsets, offsets[:, None]) < 95, 20, -1000).astype(np.float32)

    within = np.hypot(offsets, offsets[:, None]) < 85

    def noise(seed):
        drawn = insert_noise(np.random.default_rng(seed), disc, pixel_spacing_mm=SPACING_MM,
                             dose_fraction=0.5, kernel=kernel, photons_per_ray=1e6,
                             electronic_noise_std=0.0) - disc
        return drawn / drawn[within].std()

    ndct = disc + normal_hu * noise(0)
    return ndct[None], (ndct + np.sqrt(low_hu ** 2 - normal_hu ** 2) * noise(1))[None]


@pytest.mark.parametrize(("normal_hu", "low_hu"), [(13.0, 27.0), (40.0, 55.0)])
def test_objects_have_the_noise_the_kernel_and_the_pixels_of_the_slices(normal_hu, low_hu):
    ndct, qdct = pairs(normal_hu, low_hu)
    scan = matched_scan(ndct, qdct, pixel_spacing_mm=SPACING_MM, configured=ScanProtocol())
    assert scan.size == 256  # 180 pixels are narrower than the cylinder
    assert scan.protocol.field_of_view_mm / scan.size == pytest.approx(SPACING_MM)
    scans = scan_repeats(size=scan.size, seed=3, repeats=3, protocol=scan.protocol)
    for each, expected in zip(scans, (normal_hu, low_hu), strict=True):
        noise = (each.background[0] - each.background[1]) / np.sqrt(2)
        within = each.cylinder.distance(noise.shape) < each.cylinder.radius - 10 / SPACING_MM
        assert noise[within].std() == pytest.approx(expected, rel=0.1)
        kernel = estimate_noise(each.background[2], pixel_spacing_mm=SPACING_MM).kernel
        assert kernel == pytest.approx(KERNEL_LP_CM, rel=0.1)
    matched = scan.matched
    assert matched["noise_hu"]["normal"] == pytest.approx(normal_hu, rel=0.1)
    assert matched["noise_hu"]["low"] == pytest.approx(low_hu, rel=0.1)
    assert matched["kernel_lp_cm"] == pytest.approx(KERNEL_LP_CM, rel=0.1)
    assert matched["pixel_spacing_mm"] == SPACING_MM
    for dose in ("normal", "low"):
        assert matched["objects_noise_hu"][dose] == pytest.approx(
            matched["noise_hu"][dose], rel=0.1)
    assert f"{matched['noise_hu']['low']:.3g} HU)" in scan.description
    assert f"f50 of {matched['kernel_lp_cm']:.3g} lp/cm, pixels of 1.25 mm" in scan.description
    assert "measured in 1 test slice in their uniform soft tissue." in scan.description


def test_the_configured_noise_is_another():
    """Else the test above would not show that anything was matched."""
    noise = cylinder_noise(size=QUALITY_PHANTOM_MIN_SIZE, seed=0, protocol=ScanProtocol())
    assert noise[0] > 1.5 * 13
    assert noise[1] > 1.5 * 27


@pytest.mark.parametrize(("slices", "spacing_mm", "reason"), [
    ((13.0, 27.0), None, "since their pixel pitch is unknown"),
    ((27.0, 27.0), SPACING_MM, r"since they have no more noise at the low dose \("),
    ((13.0, 27.0), 0.3, "with their pixels of 0.3 mm, the cylinder would need 1067×1067 pixels"),
])
def test_a_scan_that_cannot_be_matched_is_the_configured_one_with_the_reason(slices, spacing_mm,
                                                                             reason):
    configured = ScanProtocol(photons_per_ray=4e5)
    scan = matched_scan(*pairs(*slices), pixel_spacing_mm=spacing_mm, configured=configured)
    assert (scan.protocol, scan.size, scan.matched) == (configured, SIZE, None)
    assert scan.description.startswith("A simulated water cylinder, not by the scanner of the test")
    assert re.search(reason, scan.description), scan.description
    assert "400000 photons a ray" in scan.description


@pytest.mark.parametrize("recorded", [None, 0.1])
def test_in_coarse_pixels_the_noise_is_that_of_the_difference_of_the_doses(recorded):
    dose = recorded or 0.25
    ndct, qdct = (each[:, ::2, ::2] for each in pairs(27 * dose ** 0.5, 27.0))
    scan = matched_scan(ndct, qdct, pixel_spacing_mm=2 * SPACING_MM, dose_fraction=recorded,
                        configured=ScanProtocol(kernel="medium"))
    assert scan.size == 128
    assert scan.protocol.kernel == "medium"
    scans = scan_repeats(size=scan.size, seed=3, repeats=3, protocol=scan.protocol)
    for each, expected in zip(scans, (27 * dose ** 0.5, 27.0), strict=True):
        noise = (each.background[0] - each.background[1]) / np.sqrt(2)
        within = each.cylinder.distance(noise.shape) < each.cylinder.radius - 4
        assert noise[within].std() == pytest.approx(expected, rel=0.1)
    assert scan.matched["kernel_lp_cm"] is None
    assert "the configuration's kernel, since the pixels are too coarse" in scan.description
    assert f"by the difference of the doses, for {dose:g} of the dose." in scan.description


def test_slices_without_soft_tissue_cannot_be_matched():
    ndct, qdct = (each - 500 for each in pairs(13.0, 27.0))
    scan = matched_scan(ndct, qdct, pixel_spacing_mm=SPACING_MM, configured=ScanProtocol())
    assert scan.matched is None
    assert "since their noise cannot be measured, for lack of soft tissue" in scan.description


def test_simulated_slices_keep_their_protocol():
    protocol = ScanProtocol(photons_per_ray=4e5)
    scan = configured_scan(protocol, shape=(3, 64, 96))
    assert (scan.protocol, scan.size, scan.matched) == (protocol, 128, None)
    assert scan.description == (
        "A simulated water cylinder, scanned as the simulated test slices are: 400000 photons a "
        "ray at the normal dose and 256², 0.25 of them at the low dose, kernel sharp.")
