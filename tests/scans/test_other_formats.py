import numpy as np
import pytest

from dfgan_jax.scans.other_formats import refuse_other_format
from dfgan_jax.support.errors import InputError


@pytest.mark.parametrize(("name", "words"), [
    ("a.npz", "is a NumPy archive; .* as .npy"), ("b.HDR", "is a header of Analyze .* 3D Slicer"),
    ("c.mha", "is a MetaImage; .* 3D Slicer"), ("d.PNG", "is a picture; .* not HU"),
    ("e.tar.gz", "is an archive; .* unpack it"), ("f.mat", "is a MATLAB file; .* as .npy")])
def test_another_format_is_named_with_a_way_out(tmp_path, name, words):
    path = tmp_path / name
    np.zeros(100, np.int16).tofile(path)
    with pytest.raises(InputError, match=words) as raised:
        refuse_other_format(path)
    assert str(raised.value).startswith(f"{path} is ")
    assert "expected DICOM, .npy, .nii or .nii.gz" in str(raised.value)


@pytest.mark.parametrize("name", ["a", "a.dcm", "a.ima", "1.2.840.113619.2"])
def test_names_of_dicom_files_are_taken(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(bytes(200))
    refuse_other_format(path)


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "scan.raw"
    folder.mkdir()
    refuse_other_format(folder)


def test_a_dicom_file_may_have_any_name(tmp_path):
    path = tmp_path / "slice.img"
    path.write_bytes(bytes(128) + b"DICM" + bytes(100))
    refuse_other_format(path)
