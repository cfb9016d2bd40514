import dataclasses

import numpy as np
import pytest

from dfgan_jax.simulation.low_dose import ScanProtocol, scan
from dfgan_jax.simulation.quality_phantom import (
    CYLINDER_RADIUS_MM,
    INSERT_CONTRASTS_HU,
    LESIONS,
    Disc,
    paint_inserts,
    paint_lesions,
    scan_repeats,
)
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import Progress


@pytest.fixture(scope="module")
def scans():
    return scan_repeats(size=128, seed=5, repeats=4, threads=2)


@pytest.mark.parametrize("paint", [paint_inserts, paint_lesions])
@pytest.mark.parametrize("size", [128, 256, 512])
def test_discs_have_their_place_area_and_contrast(paint, size):
    hu, discs = paint(size, field_of_view_mm=360.0)
    assert hu.dtype == np.float32
    pixel_mm = 360 / size
    centre = (size - 1) / 2
    areas = np.pi * np.array([disc.radius for disc in discs]) ** 2
    cylinder = 1000 * np.pi * (CYLINDER_RADIUS_MM / pixel_mm) ** 2
    expected = cylinder + areas @ [disc.contrast_hu for disc in discs]
    assert (hu.astype(np.float64) + 1000).sum() == pytest.approx(expected, rel=1e-4)
    for disc in discs:
        from_centre_mm = np.hypot(disc.x - centre, disc.y - centre) * pixel_mm
        assert from_centre_mm == pytest.approx(105)
        distance = disc.distance(hu.shape)
        np.testing.assert_allclose(hu[distance < disc.radius - 0.5], disc.contrast_hu, rtol=1e-6)
        around = (distance > disc.radius + 0.5) & (distance < 1.8 * disc.radius)
        assert not hu[around].any()
        # What is measured about one disc is free of its neighbours.
        others = [np.hypot(disc.x - other.x, disc.y - other.y) - other.radius
                  for other in discs if other is not disc]
        assert min(others) > 1.8 * disc.radius
        assert from_centre_mm + 1.8 * disc.radius * pixel_mm < CYLINDER_RADIUS_MM


def test_inserts_and_lesions_come_in_kinds():
    _, inserts = paint_inserts(256, field_of_view_mm=360.0)
    assert [disc.contrast_hu for disc in inserts] == [
        contrast for contrast in INSERT_CONTRASTS_HU for _ in range(2)]
    assert {disc.radius * 360 / 256 for disc in inserts} == {17.0}
    for size, factor in ((256, 1), (512, 8**-0.5), (128, 8**0.5)):
        _, lesions = paint_lesions(size, field_of_view_mm=360.0)
        kinds = [(2 * disc.radius * 360 / size, disc.contrast_hu / factor) for disc in lesions]
        np.testing.assert_allclose(kinds, np.repeat(LESIONS, 4, axis=0))


def test_lesions_are_the_same_after_a_quarter_turn():
    hu, _ = paint_lesions(128, field_of_view_mm=360.0)
    np.testing.assert_allclose(np.rot90(hu), hu, atol=1e-3)


def test_distance_is_of_pixel_centres():
    distance = Disc(x=3.0, y=1.0, radius=2.0, contrast_hu=1.0).distance((4, 6))
    assert distance.shape == (4, 6)
    assert distance[1, 3] == 0
    assert distance[1, 5] == 2
    assert distance[3, 3] == 2


def test_repeats_are_scans_with_noise_of_their_own(scans):
    ndct, qdct = scans
    hu, _ = paint_lesions(128, field_of_view_mm=360.0)
    expected = scan(np.random.default_rng([5, 1, 2]), hu)
    np.testing.assert_array_equal([ndct.lesions[2], qdct.lesions[2]], expected)
    core = ndct.cylinder.distance((128, 128)) < 30
    noise = np.concatenate([(images - images.mean(axis=0))[:, core] for images in (
        qdct.background, qdct.lesions)])
    correlation = np.corrcoef(noise)
    np.testing.assert_allclose(np.diag(correlation), 1)
    # Four repeats about their own mean correlate by −1/3, others not at all.
    assert np.abs(correlation[:4, 4:]).max() < 0.1
    ratio = qdct.background[:, core].std() / ndct.background[:, core].std()
    assert ratio == pytest.approx(2.1, abs=0.15)  # quarter dose, and electronic noise


def test_scans_say_where_things_are(scans):
    for dose in scans:
        assert {images.shape for images in (dose.discs, dose.lesions, dose.background)} == {
            (4, 128, 128)}
        assert dose.pixel_spacing_mm == 360 / 128
        assert dose.cylinder == Disc(63.5, 63.5, CYLINDER_RADIUS_MM * 128 / 360, 1000.0)
        assert dose.inserts == paint_inserts(128, field_of_view_mm=360.0)[1]
        assert dose.lesion_discs == paint_lesions(128, field_of_view_mm=360.0)[1]
        inside = dose.cylinder.distance((128, 128)) < 50
        assert dose.background.mean(axis=0)[inside].mean() == pytest.approx(0, abs=1)
        difference = dose.discs.mean(axis=0) - dose.background.mean(axis=0)
        for disc in dose.inserts:
            core = disc.distance((128, 128)) < 3
            assert difference[core].mean() == pytest.approx(disc.contrast_hu, abs=25)


def test_a_repeat_is_the_same_however_many_there_are(scans):
    fewer = scan_repeats(size=128, seed=5, repeats=3, threads=1)
    for some, all_of_them in zip(fewer, scans, strict=True):
        for field in ("discs", "lesions", "background"):
            np.testing.assert_array_equal(getattr(some, field), getattr(all_of_them, field)[:3])
    counted = []
    progress = type("Counter", (Progress,), {"advance": lambda self: counted.append(1)})(
        "scanning", total=9, unit="scans")
    other = scan_repeats(size=128, seed=6, repeats=3, progress=progress)[1]
    assert len(counted) == 9
    assert np.abs(other.discs - fewer[1].discs).max() > 10


def test_the_protocol_is_followed():
    protocol = dataclasses.replace(ScanProtocol(), field_of_view_mm=400.0, dose_fraction=0.5)
    ndct, qdct = scan_repeats(size=128, seed=0, repeats=3, protocol=protocol)
    assert ndct.pixel_spacing_mm == 400 / 128
    assert ndct.cylinder.radius == pytest.approx(48)
    distance = ndct.cylinder.distance((128, 128))
    core = distance < 30
    assert ndct.background[:, core].mean() == pytest.approx(0, abs=2)
    assert ndct.background[:, (distance > 44) & (distance < 46)].mean() > -50
    assert ndct.background[:, (distance > 50) & (distance < 52)].mean() < -950
    ratio = qdct.background[:, core].std() / ndct.background[:, core].std()
    assert ratio == pytest.approx(2**0.5, abs=0.06)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"size": 127}, "size is 127; expected at least 128"),
    ({"seed": -1}, "seed is -1; expected"),
    ({"repeats": 2}, "repeats is 2; expected at least 3"),
    ({"protocol": ScanProtocol(field_of_view_mm=280)}, "field_of_view_mm is 280; expected"),
])
def test_wrong_requests_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        scan_repeats(**{"size": 128, "seed": 0} | arguments)
