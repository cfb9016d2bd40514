"""Rows of a user's own models: a function, or the slices that a model denoised elsewhere."""

import functools
import importlib
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from dfgan_jax.devices import agreement
from dfgan_jax.evaluation import tables
from dfgan_jax.evaluation.rows import Row
from dfgan_jax.scans import dicom, nifti, units
from dfgan_jax.scans.dicom_folder import DicomFolder
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.scans.scan import read_hu_array
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import Progress

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Manifest = Sequence[Mapping[str, str]]
"""Row of each test slice: column → text."""


def given_row(name: str, source: str, *, shape: tuple[int, int, int], manifest: Manifest | None
              ) -> tuple[str, Row]:
    """The row of a model that is not a checkpoint of this package.

    Args:
      name: of the row.
      source: `module:callable`, a function from (N, H, W) float32 HU to the same shape, found as
        `import` finds it, from the working directory, too; or the denoised test slices: an `.npy`
        or NIfTI file in their order, or a folder of DICOM files, whose slices are found by
        patient and location in the manifest.
      shape: of the test slices as they are scored, (N, H, W).
      manifest: of the test slices; None if there is none.

    Returns:
      The name in the tables, marked as given, and the row.

    Raises:
      InputError: there is no such source, or its slices are not those of the test.
    """
    path = pathlib.Path(source).expanduser()
    where = f"{name}={source}"
    table = tables.Row(kind="model", parameters=f"given: {source}")
    if path.suffix == ".py":
        raise InputError(f"{where}: is Python code; expected NAME=module:callable, such as "
                         f"{name}={path.stem}:CALLABLE")
    if path.exists() or nifti.is_nifti(path) or path.suffix == ".npy":
        images = _checked(_read(path, manifest), shape, where)
        return f"{name} (given)", Row(table=table, denoise=lambda hu, bar: images,
                                      is_function=False)
    if _FUNCTION.fullmatch(source) is None:
        raise InputError(f"{where}: expected NAME=FILE, an .npy, a NIfTI file or a folder of DICOM "
                         "files of denoised slices, or NAME=module:callable")
    function = functools.partial(_call, _import(source, where), where)
    return f"{name} (given)", Row(table=table, denoise=lambda hu, bar: agreement.shared_out(
        lambda part: function(part, bar), hu))


def _import(source: str, where: str) -> Callable[[np.ndarray], np.ndarray]:
    module_name, _, attributes = source.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, as `python -m` has it
    try:
        function: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{where}: {error}") from error
    for attribute in attributes.split("."):
        if not hasattr(function, attribute):
            raise InputError(f"{where}: module {module_name} has no {attributes}")
        function = getattr(function, attribute)
    if not callable(function):
        raise InputError(f"{where}: {attributes} cannot be called")
    return function


def _call(function: Callable[[np.ndarray], np.ndarray], where: str, hu: np.ndarray,
          bar: Progress | None) -> np.ndarray:
    """The function's slices; it gets a copy, so that it cannot change the test slices."""
    denoised = _checked(function(np.array(hu, np.float32)), hu.shape, where)
    if bar is not None:
        bar.advance(len(hu))
    return denoised


def _checked(images: object, shape: tuple[int, ...], where: str) -> np.ndarray:
    denoised = np.asarray(images)
    if denoised.shape != shape:
        raise InputError(f"{where}: gives slices of shape {denoised.shape}; expected {shape}, the "
                         "test slices as they are scored")
    if denoised.dtype.kind not in "iuf":
        raise InputError(f"{where}: gives {denoised.dtype}; expected numbers in HU")
    denoised = denoised.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(denoised).all((1, 2)))
    if len(broken):
        raise InputError(f"{where}: slice {broken[0]} has a NaN or an infinity")
    return denoised


def _read(path: pathlib.Path, manifest: Manifest | None) -> Float[np.ndarray, "n h w"]:
    if path.is_dir():
        return _read_folder(path, manifest)
    if not nifti.is_nifti(path):
        array = read_hu_array(path)
        slices: np.ndarray = np.asarray(array, np.float32).reshape(-1, *array.shape[-2:])
        units.check_hu(slices, name=str(path))
        return slices
    with tempfile.TemporaryDirectory() as scratch:
        volume = nifti.open_nifti(path, scratch=pathlib.Path(scratch))
        units.check_hu(volume.slices(), name=str(path))
        return volume.hu(volume.stored)


def _read_folder(path: pathlib.Path, manifest: Manifest | None) -> Float[np.ndarray, "n h w"]:
    """The slices of DICOM files in the order of the manifest."""
    if manifest is None or not all(row.get("location_mm") for row in manifest):
        raise InputError(f"{path}: DICOM slices are matched by the columns patient_id and "
                         "location_mm of the manifest beside the test file, which has none; give "
                         "an .npy in the order of the test slices")
    folder = DicomFolder(path)
    for line in folder.link_lines():
        print(line, file=sys.stderr, flush=True)
    places: dict[tuple[str, float], SliceHeader] = {}
    for header in folder.headers:
        if header.location_mm is None:
            raise InputError(f"{header.name}: has no location")
        place = str(header.patient_id), round(header.location_mm, 2)
        if place in places:
            raise InputError(f"{header.name}: at the place of {places[place].name}; expected one "
                             "slice for each test slice")
        places[place] = header
    images = []
    indices: dict[tuple[str, float], int] = {}
    for index, row in enumerate(manifest):
        place = row.get("patient_id", ""), round(float(row["location_mm"]), 2)
        if (other := indices.setdefault(place, index)) != index:
            raise InputError(f"{path}: the test slices {other} and {index} are both of patient "
                             f"{place[0]!r} at {place[1]:g} mm, so that files cannot be matched; "
                             "give an .npy in the order of the test slices")
        if place not in places:
            raise InputError(f"{path}: has no slice of patient {place[0]!r} at {place[1]:g} mm, "
                             f"where test slice {index} is")
        images.append(dicom.read_pixels(places[place]).hu)
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{path}: slices have several sizes; expected one")
    return np.stack(images)
