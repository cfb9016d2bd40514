"""Formats of images that are not read: the name of each, and a way to one that is."""

import pathlib
from typing import Final

from dfgan_jax.support.errors import InputError

_VOLUME: Final = "convert it to .nii.gz, as 3D Slicer or SimpleITK write it"
_PICTURE: Final = "it has grey values, not HU; use the scan that it was made from"
_ARRAY: Final = "save its array as .npy, (N, H, W) in HU"
_ARCHIVE: Final = "unpack it"

_FORMATS: Final = {
    ".npz": ("a NumPy archive", _ARRAY), ".mat": ("a MATLAB file", _ARRAY),
    ".h5": ("an HDF5 file", _ARRAY), ".hdf5": ("an HDF5 file", _ARRAY),
    ".pkl": ("a Python pickle", _ARRAY), ".raw": ("a file of numbers without a header", _ARRAY),
    ".hdr": ("a header of Analyze or of a NIfTI pair", _VOLUME),
    ".img": ("an image of Analyze or of a NIfTI pair", _VOLUME),
    ".mha": ("a MetaImage", _VOLUME), ".mhd": ("a MetaImage", _VOLUME),
    ".nrrd": ("an NRRD file", _VOLUME), ".nhdr": ("an NRRD file", _VOLUME),
    ".mgz": ("a FreeSurfer volume", _VOLUME), ".mgh": ("a FreeSurfer volume", _VOLUME),
    ".png": ("a picture", _PICTURE), ".jpg": ("a picture", _PICTURE),
    ".jpeg": ("a picture", _PICTURE), ".bmp": ("a picture", _PICTURE),
    ".tif": ("a picture", _PICTURE), ".tiff": ("a picture", _PICTURE),
    ".zip": ("an archive", _ARCHIVE), ".tar": ("an archive", _ARCHIVE),
    ".tgz": ("an archive", _ARCHIVE), ".gz": ("an archive", _ARCHIVE),
    ".7z": ("an archive", _ARCHIVE), ".rar": ("an archive", _ARCHIVE),
}
"""Suffix → description, advice."""


def refuse_other_format(path: pathlib.Path) -> None:
    """Refuses a file that has the suffix of a format that is not read, and is not DICOM.

    Args:
      path: of a file or folder that exists; a file is neither `.npy` nor NIfTI.

    Raises:
      InputError: it is of another format, which the message names.
      OSError: it cannot be read.
    """
    known = _FORMATS.get(path.suffix.lower())
    if known is None or not path.is_file():
        return
    with path.open("rb") as file:
        is_dicom = file.read(132).endswith(b"DICM")
    if not is_dicom:
        description, advice = known
        raise InputError(f"{path} is {description}; expected DICOM, .npy, .nii or .nii.gz: "
                         f"{advice}")
