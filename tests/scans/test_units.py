import nibabel
import numpy as np
import pytest

from dfgan_jax.scans import scan, units
from dfgan_jax.scans.units import check_hu, from_hu, to_hu
from dfgan_jax.support.errors import DoubtfulInput, InputError

RNG = np.random.default_rng(0)


def body(size=48, *, noise=20.0, air=-1000.0):
    """A disc of soft tissue with a rib and a lung in air, (2, size, size) float32 HU."""
    y, x = np.mgrid[:size, :size] - size / 2
    hu = np.where(np.hypot(x, y) < size / 3, 40.0, air)
    hu[size // 2:size // 2 + 4, size // 2:size // 2 + 4] = 1200
    hu[size // 2 - 8:size // 2 - 2, size // 2:size // 2 + 6] = -850
    return (hu + RNG.normal(0, noise, (2, size, size))).astype(np.float32)


def with_metal(hu, value=30_000.0):
    hu = hu.copy()
    hu[:, 20:22, 20:22] = value
    return hu


@pytest.mark.parametrize("hu", [
    body(), body(noise=0), with_metal(body()), np.full((1, 16, 16), -1024.0), np.zeros((2, 8, 8)),
    np.full((1, 8, 8), 0.5), RNG.normal(0, 30, (1, 64, 64)), RNG.normal(0, 2, (1, 64, 64)),
    np.clip(body(), 0, 80), np.clip(body(), -160, 240), RNG.integers(0, 2, (2, 8, 8)),
    RNG.integers(0, 2, (2, 8, 8)).astype(np.float32), np.full((1, 8, 8), -3024.0),
    np.concatenate([np.full((3, 48, 48), 0.25, np.float32), body()]),
    np.array([[[np.nan, 0.5], [0.25, 0.5]]]), np.clip(body(), 0, None), np.clip(body(), 0, 1000),
    np.concatenate([np.zeros((3, 48, 48)), body() + 1024, body()]),
    np.concatenate([(body() + 500) / 500, np.full((1, 48, 48), 1024)]),
    np.clip(body(), 0, 80).astype(np.int16), RNG.integers(0, 2, (2, 8, 8)).astype(np.uint8)])
def test_what_can_be_hu_is_taken(hu):
    check_hu(hu, name="x")


@pytest.mark.parametrize(("unit", "values"), [
    ("mu", body() * 0.0192 / 1000 + 0.0192), ("mu", with_metal(body()) * 0.0192 / 1000 + 0.0192),
    ("mu", np.clip(body() * 0.0192 / 1000 + 0.0192, 0, None)),
    ("mu", (body()[:, 16:32, 16:32] * 0.0192 / 1000 + 0.0192).astype(np.float64)),
    ("redcnn", (body() + 1024) / 4096), ("redcnn", np.clip((body() + 1024) / 4096, 0, 1)),
    ("redcnn", with_metal((body() + 1024) / 4096, 7.5)),
    ("redcnn", ((body() + 1024) / 4096).astype(np.float16)),
    ("dfgan", (body() + 500) / 500), ("dfgan", with_metal((body() + 500) / 500, 61.0)),
    ("dfgan", (np.full((1, 48, 48), -1024) + body(noise=1) * 0.2 + 500) / 500),
    ("", body() / 1000 + 1), ("", np.clip(body() / 1000 + 1, 0, 2)),
    ("stored", np.rint(body() + 1024).clip(0).astype(np.uint16)),
    ("stored", with_metal(body() + 1024).clip(0)), ("stored", (body() + 1000).clip(0)),
    ("stored", np.concatenate([np.zeros((3, 48, 48)), (body() + 1024).clip(0)])),
    ("", np.rint((body().clip(-160, 240) + 160) / 400 * 255).astype(np.uint8)),
])
def test_what_cannot_be_hu_is_refused_with_what_it_looks_like(unit, values):
    with pytest.raises(DoubtfulInput, match=r"^x\.npy: has values from -?[\d.e-]+ to [\d.e+-]+, "
                                            "which cannot be HU") as caught:
        check_hu(values, name="x.npy")
    assert (caught.value.argument, caught.value.value) == ("unit", unit)
    assert str(caught.value).endswith(units.NAMES[unit] if unit else (
        "a picture of a window, which does not state its HU" if values.dtype == np.uint8 else
        "water 0"))


@pytest.mark.parametrize(("values", "unit"), [
    ((body().clip(-160, 240) + 160) / 400, ""),
    (with_metal((body() + 1024) / 4096).clip(0, 1), "redcnn")])
def test_a_window_scaled_to_one_is_no_normalisation(values, unit):
    with pytest.raises(DoubtfulInput) as caught:
        check_hu(values, name="x")
    assert caught.value.value == unit
    assert str(caught.value).endswith(
        "; they look like a picture of a window, scaled to 0…1, which does not state its HU: "
        "convert it back with its window") == (not unit)


def twice(hu):
    return hu - 1024


def padded(hu, value):
    """With the corners outside a round field of view at one value."""
    y, x = np.mgrid[:hu.shape[1], :hu.shape[2]] - hu.shape[1] / 2
    return np.where(np.hypot(x, y) < hu.shape[1] / 2, hu, value)


AIR = RNG.normal(-1000, 20, (2, 48, 48))
LUNG = np.where(body() > -500, -850, body())


@pytest.mark.parametrize("hu", [
    twice(body()), np.rint(twice(body())).astype(np.int16),
    padded(twice(body()), -3024), padded(twice(body(noise=0)), -2048), twice(body()) + 24,
    np.concatenate([np.full((3, 48, 48), -1000), twice(body()), twice(body())])])
def test_hu_that_were_rescaled_twice_are_refused(hu):
    with pytest.raises(DoubtfulInput, match=(
            r"^x: has values from -\d+ to [\d.]+, which cannot be HU.*; they look like HU that "
            "were rescaled twice, with air near -2024")) as caught:
        check_hu(hu, name="x")
    assert caught.value.value == ""


@pytest.mark.parametrize("hu", [
    AIR, LUNG, padded(AIR, -2000), padded(AIR, -2048), padded(LUNG, -2000), padded(body(), -2000),
    np.concatenate([padded(AIR, -2000)] * 5), padded(np.rint(AIR), -3024),
    np.concatenate([padded(AIR, -2000), twice(body()), body()])])
def test_air_lung_and_padding_are_not_taken_for_hu_rescaled_twice(hu):
    check_hu(hu, name="x")


@pytest.mark.parametrize(("unit", "air", "water"), [
    ("hu", -1000, 0), ("mu", 0, 0.0192), ("redcnn", 24 / 4096, 0.25), ("dfgan", -1, 1),
    ("stored", 24, 1024)])
def test_units_become_hu_and_back(unit, air, water):
    values = np.array([[air, water]], np.float32)
    np.testing.assert_allclose(to_hu(values, unit), [[-1000, 0]], atol=1e-3)
    np.testing.assert_allclose(from_hu(to_hu(values, unit), unit), values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("unit", "values"), [("mu", body()), ("redcnn", body()), ("dfgan", body()),
                                              ("redcnn", np.float32([[0, 255]]))])
def test_values_too_large_for_a_unit_are_refused(unit, values):
    with pytest.raises(InputError, match=r"has values from .*expected .*\(are they HU\?\)"):
        to_hu(values, unit)


def volume(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        nibabel.Nifti1Image(values.transpose(2, 1, 0)[::-1, ::-1],
                            np.diag([0.8, 0.8, 3, 1])).to_filename(path)


@pytest.mark.parametrize("name", ["a.npy", "a.nii"])
def test_scans_of_other_units_are_refused_or_converted(tmp_path, name):
    hu = body()
    volume(tmp_path / name, (hu + 1024) / 4096)
    with (pytest.raises(DoubtfulInput, match=rf"{name}: has values from .*RED-CNN"),
          scan.of_volume(tmp_path / name, pixel_spacing_mm=0.8, scratch=tmp_path)):
        pass
    with scan.of_volume(tmp_path / name, pixel_spacing_mm=0.8, scratch=tmp_path,
                        unit="redcnn") as slices:
        read = np.stack([each.read()[0] for each in slices])
    np.testing.assert_allclose(read, hu, atol=1e-2)
    with scan.of_volume(tmp_path / name, pixel_spacing_mm=0.8, scratch=tmp_path,
                        unit="hu") as slices:
        assert slices[0].read()[0].max() < 1
    volume(tmp_path / name, hu)
    with (scan.of_volume(tmp_path / name, pixel_spacing_mm=0.8, scratch=tmp_path,
                         unit="mu") as slices,
          pytest.raises(InputError, match=rf"{name}: slice 1 has values from .*are they HU")):
        slices[1].read()


@pytest.mark.parametrize(("shape", "message"), [
    ((64, 80, 3), r"shape \(64, 80, 3\); expected \(N, H, W\), 64 slices of 80×3; it looks like "
                  r"\(H, W, N\), 3 slices of 64×80"),
    ((64, 64, 3), "64 slices of 64×3; it looks like"), ((16, 16, 20), "16 slices of 16×20"),
    ((64, 48, 1), "64 slices of 48×1; it"), ((16, 20, 200), "16 slices of 20×200; it"),
    ((512, 512, 130), "512 slices of 512×130; it looks like")])
def test_axes_that_look_exchanged_are_refused_or_exchanged(tmp_path, shape, message):
    array = np.zeros(shape, np.int16)
    array[..., -1] = 7
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DoubtfulInput, match=rf"a\.npy: has .*{message}") as caught:
        scan.read_hu_array(tmp_path / "a.npy")
    assert (caught.value.argument, caught.value.value) == ("axes", "hwn")
    exchanged = scan.read_hu_array(tmp_path / "a.npy", axes="hwn")
    assert exchanged.shape == (shape[2], *shape[:2])
    assert (exchanged[-1] == 7).all()
    assert scan.read_hu_array(tmp_path / "a.npy", axes="nhw").shape == shape


@pytest.mark.parametrize("shape", [(3, 64, 64), (64, 64, 64), (17, 20, 33), (1, 16, 16), (16, 48),
                                   (300, 64, 64), (6, 64), (2, 512, 400), (2, 8, 64)])
def test_other_shapes_are_taken_as_they_are(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.int16))
    assert scan.read_hu_array(tmp_path / "a.npy").shape == shape
    two = shape[-2:]
    np.save(tmp_path / "b.npy", np.zeros(two, np.int16))
    assert scan.read_hu_array(tmp_path / "b.npy", axes="hwn").shape == two


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    (b"<!doctype html><title>Sign in</title>", "is an HTML page")])
@pytest.mark.parametrize("name", ["a.npy", "a.nii", "a.nii.gz"])
def test_what_a_failed_download_leaves_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with (pytest.raises(InputError, match=f"{name}: {message}"),
          scan.of_volume(tmp_path / name, pixel_spacing_mm=1.0, scratch=tmp_path)):
        pass
