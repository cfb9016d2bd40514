import nibabel
import numpy as np
import pytest

from dfgan_jax.scans import scan
from dfgan_jax.support.errors import InputError


def hu(shape):
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


@pytest.mark.parametrize("shape", [(3, 8, 6), (8, 6)])
def test_arrays_give_their_slices(tmp_path, shape):
    array = hu(shape)
    np.save(tmp_path / "a.npy", array)
    with scan.of_volume(tmp_path / "a.npy", pixel_spacing_mm=0.7, scratch=tmp_path) as slices:
        read = np.stack([each.read()[0] for each in slices])
        np.testing.assert_array_equal(read, array.reshape(-1, 8, 6))
        assert {each.pixel_spacing_mm for each in slices} == {0.7}
        assert slices[-1].name == f"{tmp_path / 'a.npy'}: slice {len(slices) - 1}"


def test_padding_is_air_and_marked(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[-3024.0, -1000, 40], [-2000, -1024, 3000]]))
    with scan.of_volume(tmp_path / "a.npy", pixel_spacing_mm=1.0, scratch=tmp_path) as (only,):
        read, outside = only.read()
    np.testing.assert_array_equal(read, [[-1024, -1000, 40], [-1024, -1024, 3000]])
    np.testing.assert_array_equal(outside, [[True, False, False], [True, False, False]])


def test_volumes_bring_their_own_spacing_and_scaling(tmp_path):
    stored = hu((6, 8, 3))
    image = nibabel.Nifti1Image(stored, np.diag([-0.8, -0.8, 3, 1]))
    image.header.set_slope_inter(2.0, -24.0)
    image.to_filename(tmp_path / "a.nii.gz")
    with scan.of_volume(tmp_path / "a.nii.gz", pixel_spacing_mm=None, scratch=tmp_path) as slices:
        assert [each.pixel_spacing_mm for each in slices] == [pytest.approx(0.8)] * 3
        read, _ = slices[2].read()
    # x runs to the patient's left with its index, y to the back: columns and rows of an image.
    values = np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj)[:, :, 2].T
    np.testing.assert_allclose(read, np.where(values < -1900, -1024, values))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_an_unpacked_volume_has_no_name_once_it_is_mapped(tmp_path, name):
    """A killed process leaves no patient's volume then."""
    path, scratch = tmp_path / name, tmp_path / "scratch"
    nibabel.Nifti1Image(hu((6, 8, 3)), np.diag([-0.8, -0.8, 3, 1])).to_filename(path)
    scratch.mkdir()
    with scan.of_volume(path, pixel_spacing_mm=None, scratch=scratch) as slices:
        assert not [each for each in scratch.rglob("*") if each.is_file()]
        np.testing.assert_array_equal(slices[1].read()[0], hu((6, 8, 3))[:, :, 1].T)
    assert path.exists()


def test_a_spacing_that_contradicts_the_file_is_refused(tmp_path):
    nibabel.Nifti1Image(hu((6, 8, 3)), np.diag([0.8, 0.8, 3, 1])).to_filename(tmp_path / "a.nii")
    with (pytest.raises(InputError, match=r"its pixel spacing is 0.8 mm, not pixel_spacing=0.7"),
          scan.of_volume(tmp_path / "a.nii", pixel_spacing_mm=0.7, scratch=tmp_path)):
        pass


def test_an_array_without_a_spacing_names_the_argument(tmp_path):
    np.save(tmp_path / "a.npy", hu((3, 8, 6)))
    with (pytest.raises(InputError, match=r"gives no pixel spacing; give pixel_spacing_mm$"),
          scan.of_volume(tmp_path / "a.npy", pixel_spacing_mm=None, scratch=tmp_path)):
        pass


@pytest.mark.parametrize(("spacing", "message"), [
    ((0.8, 0.9), "pixels are .* mm; expected square ones")])
def test_pixels_are_square(tmp_path, spacing, message):
    nibabel.Nifti1Image(hu((6, 8, 3)), np.diag([*spacing, 3, 1])).to_filename(tmp_path / "a.nii")
    with (pytest.raises(InputError, match=message),
          scan.of_volume(tmp_path / "a.nii", pixel_spacing_mm=None, scratch=tmp_path)):
        pass


def test_a_slice_with_a_nan_is_named_and_the_others_are_read(tmp_path):
    array = hu((3, 8, 6)).astype(np.float32)
    array[1, 2, 3] = np.nan
    np.save(tmp_path / "a.npy", array)
    with scan.of_volume(tmp_path / "a.npy", pixel_spacing_mm=0.7, scratch=tmp_path) as slices:
        np.testing.assert_array_equal(slices[2].read()[0], array[2])
        with pytest.raises(InputError, match=r"a\.npy: slice 1 has a NaN or an infinity"):
            slices[1].read()


@pytest.mark.parametrize(("content", "message"), [
    (None, "no such file"), (b"", r"is empty \(0 bytes\)"),
    (b"no array", "is no .npy file; expected one that np.save has written"),
    (b"\x93NUMPY", "the header of its .npy cannot be used"),
    ("text", "expected an .npy of an array of numbers in HU"),
    ({"f_nd": 1}, "is a file of pairs, or of Python objects; expected a plain array in HU"),
    ([None, 2], "is a file of pairs, or of Python objects; expected a plain array in HU")])
def test_files_without_an_array_of_numbers_are_refused(tmp_path, content, message):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, np.array(content))
    with pytest.raises(InputError, match=rf"a\.npy: {message}") as caught:
        scan.read_hu_array(path)
    assert "pickle" not in str(caught.value)


def test_an_archive_by_the_name_of_an_array_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", hu((3, 8, 6)))
    path = (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"a\.npy: is a NumPy archive; expected an \.npy"):
        scan.read_hu_array(path)
