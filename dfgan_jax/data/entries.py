"""Shared parts of the commands that make files of pairs from scans."""

import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Num

from dfgan_jax.data.dataset import Entry
from dfgan_jax.data.pairing import is_placeholder
from dfgan_jax.scans.dicom_file import NotACTSlice
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.scans.pixel_pitch import square_pitch
from dfgan_jax.support.digests import text_digest
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import counted


def patients_by(choice: str, headers: Sequence[SliceHeader], roots: Sequence[pathlib.Path]
                ) -> Callable[[SliceHeader], str]:
    """A function that returns the name of a slice's patient.

    Args:
      choice: `id`, `study` or `folder`.
      headers: of all slices.
      roots: the input folders.

    Raises:
      InputError: by the function, for `folder`; see `folder_below`.
    """
    def study(header: SliceHeader) -> str:
        name = header.study_uid or header.series_uid
        return f"study {text_digest(name)[:8]}"

    if choice == "folder":
        return lambda header: folder_below(header.path, roots)
    if choice == "study":
        return study
    if any(is_placeholder(header.patient_id) for header in headers):
        print("Some patient IDs are placeholders: those patients are told apart by study",
              file=sys.stderr)
    return lambda header: study(header) if is_placeholder(header.patient_id) else header.patient_id


def folder_below(path: pathlib.Path, roots: Sequence[pathlib.Path]) -> str:
    """The name of the folder directly below an input folder that a file is in.

    Args:
      path: of the file.
      roots: the input folders; a file among them counts as the only one of its folder.

    Raises:
      InputError: the file is directly in an input folder.
    """
    if path in roots:
        return path.absolute().parent.name
    root = next(root for root in roots if path.is_relative_to(root))
    below = path.relative_to(root).parts
    if len(below) < 2:
        raise InputError(f"{path}: lies right in {root}; expected a folder below it, whose name "
                         "is the patient's")
    return below[0]


def slice_columns(header: SliceHeader) -> dict[str, object]:
    """The columns of a slice in a manifest; the pixel pitch of square pixels alone."""
    return {"patient_id": header.patient_id, "series_uid": header.series_uid,
            "instance_number": header.instance_number, "location_mm": header.location_mm,
            "kernel": header.kernel, "thickness_mm": header.thickness_mm,
            "pixel_spacing_mm": square_pitch(header.pixel_spacing_mm)}


def check_not_blank(name: str, hu: Num[np.ndarray, "h w"]) -> None:
    """Refuses a slice of one value: such slices of several patients are equal.

    Raises:
      NotACTSlice: all pixels are equal.
    """
    if hu.min() == hu.max():
        raise NotACTSlice(f"{name}: blank, {hu.min():g} HU everywhere")


def tell_written(written: dict[str, int], entries: Sequence[Entry]) -> None:
    """Prints the written files, the patients, and a warning of several kernels."""
    for path, count in written.items():
        print(f"Wrote {path}: {counted(count, 'slice')}")
    patients = sorted({entry.patient for entry in entries})
    print(f"{counted(len(patients), 'patient')}: {', '.join(patients[:10])}"
          f"{', …' if patients[10:] else ''}", flush=True)
    kernels = sorted({str(entry.manifest.get("kernel", "")) for entry in entries})
    if len(kernels) > 1:
        print(f"several kernels: {', '.join(kernels)}; their noise differs, so score them apart",
              file=sys.stderr)
