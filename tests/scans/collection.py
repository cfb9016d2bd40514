"""A tree like the collection LDCT-and-Projection-data, of small slices."""

import pathlib

import numpy as np
from pydicom import uid

from tests.scans import dicom_files

DOSES = {"Full Dose Images": 2, "Low Dose Images": 40}
"""Description of the series → standard deviation of the noise [HU]."""


def write(root: pathlib.Path, *, patients=("C002", "L004"), count=3, size=16, layout="tcia",
          descriptions=tuple(DOSES), **elements) -> pathlib.Path:
    """Writes ROOT/LDCT-and-Projection-data, and returns it.

    Args:
      patients: their IDs.
      count: slices of each dose.
      size: height and width of the slices.
      layout: `tcia`, the folders of the NBIA Data Retriever, which name the doses; or `idc`, those
        of idc-index, which do not.
      descriptions: of the full and the low dose.
      elements: of the images; keyword → value.
    """
    top = root / ("LDCT-and-Projection-data" if layout == "tcia" else "ldct_and_projection_data")
    rng = np.random.default_rng(0)
    for number, patient in enumerate(patients, start=1):
        study = f"1.3.{number}"
        for place, (description, noise) in enumerate(
                zip(descriptions, DOSES.values(), strict=True)):
            series = f"1.2.{number}.{place + 1}"
            folder = top / patient / (
                f"12-23-2021-NA-NA-6246{number}/1.000000-{description}-2203{place}"
                if layout == "tcia" else f"{study}/CT_{series}")
            for index in range(count):
                # Anatomy of the patient and the slice, which both doses share.
                anatomy = np.random.default_rng([number, index]).uniform(950, 1150, (size, size))
                dicom_files.write(
                    folder / f"1-{index + 1:02}.dcm",
                    stored=np.clip(np.rint(anatomy + rng.normal(0, noise, (size, size))), 0, 4095),
                    series=series, instance=index + 1, position=(0, 0, 2 * index), **{
                        "PatientID": patient, "StudyInstanceUID": study,
                        "SeriesDescription": description,
                        "FrameOfReferenceUID": f"1.4.{number}",
                        "AcquisitionDateTime": f"20211223{number:02}10{index:02}", **elements})
            write_projections(folder.parent / f"1.000000-{description.split()[0]}-projections",
                              patient, series=f"1.5.{number}.{place}")
    return top


def write_projections(folder: pathlib.Path, patient: str, *, series: str, **elements) -> None:
    """Writes a series of one projection, as the collection has them: raw data."""
    dicom_files.write(folder / "1-1.dcm", series=series, **{
        "SOPClassUID": uid.RawDataStorage, "PatientID": patient,
        "SeriesDescription": "Full dose projections", **elements})
