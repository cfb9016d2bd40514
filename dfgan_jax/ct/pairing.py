"""Finds, in two sets of CT slices, the pairs that show the same anatomy at two doses.

Series belong together by what they were reconstructed from and how; slices by where they
lie. File names say nothing.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dfgan_jax.ct.dicom import SliceHeader, group_by_series
from dfgan_jax.errors import InputError

TOLERANCE_MM = 0.05
"""Positions are written with two decimals and more; slices lie farther apart."""

_PLACEHOLDERS = {"", "anon", "anonym", "anonymous", "anonymized", "anonymised", "deidentified",
                 "none", "patient", "removed", "unknown", "0"}
"""Patient IDs, in small letters, that say no more than that somebody took the real one away."""


@dataclasses.dataclass(frozen=True)
class SlicePair:
    """Headers of the same slice at two doses."""

    ndct: SliceHeader
    qdct: SliceHeader


@dataclasses.dataclass(frozen=True)
class Matching:
    """What was found.

    Attributes:
      pairs: series by series, in the order of their position.
      notes: in words, what has no counterpart, and why.
    """

    pairs: list[SlicePair]
    notes: list[str]


def is_placeholder(patient_id: str) -> bool:
    """Whether a patient ID tells patients apart."""
    return patient_id.strip().lower() in _PLACEHOLDERS


def match_slices(ndct: Sequence[SliceHeader], qdct: Sequence[SliceHeader]) -> Matching:
    """Pairs the slices of two sets.

    A series of the one set and a series of the other belong together where rows, columns, pixel
    spacing, orientation, kernel and thickness are equal, some slices lie at the same place, and
    neither patient IDs nor, where these are placeholders, acquisitions contradict. Of several
    such series the one of the same acquisition, study and frame of reference is taken.

    Raises:
      InputError: both sets hold the same slice, several series fit equally well, or there is no
        pair at all.
    """
    same = {header.sop_uid: header for header in ndct}.keys() & {each.sop_uid for each in qdct}
    if same:
        twin = next(header for header in qdct if header.sop_uid in same)
        raise InputError(f"{len(same)} slices stand in both folders, the first {twin.path}; "
                         "expected the normal dose in one, the low dose in the other")
    notes: list[str] = []
    candidates = list(group_by_series(list(qdct)))
    taken: dict[str, list[SliceHeader]] = {}
    pairs: list[SlicePair] = []
    for series in group_by_series(list(ndct)):
        partner = _partner(series, candidates, notes)
        if partner is None:
            continue
        other = taken.setdefault(partner[0].series_uid, series)
        if other is not series:
            raise InputError(f"{_name(partner)} fits two normal-dose series equally well: "
                             f"{_name(other)} and {_name(series)}; pair them apart")
        pairs += _pair_series(series, partner, notes)
    for series in candidates:
        if series[0].series_uid not in taken:
            notes.append(f"low dose without a normal dose: {_name(series)}")
    if not pairs:
        raise InputError("; ".join(["no slice of the two folders belongs together", *notes[:5]]))
    return Matching(pairs, notes)


def _name(series: Sequence[SliceHeader]) -> str:
    return f"series {series[0].series_uid} ({len(series)} slices, {series[0].path.parent})"


def _partner(series: list[SliceHeader], candidates: list[list[SliceHeader]], notes: list[str]
             ) -> list[SliceHeader] | None:
    """The series of the other dose; None, and a note why, where there is none."""
    first = series[0]
    related = [other for other in candidates if _may_be_related(first, other[0])]
    fitting = [other for other in related if not _differences(first, other[0])
               and _same_places(series, other)]
    if not fitting:
        why = ""
        if related:
            closest = min(related, key=lambda other: len(_differences(first, other[0])))
            differences = _differences(first, closest[0]) or ["the places of all slices"]
            why = f"; the closest, {_name(closest)}, differs in {', '.join(differences)}"
        notes.append(f"normal dose without a low dose: {_name(series)}{why}")
        return None

    def kinship(other: list[SliceHeader]) -> tuple[bool, ...]:
        return tuple(bool(getattr(first, name)) and getattr(first, name) == getattr(other[0], name)
                     for name in ("acquisition", "study_uid", "frame_of_reference_uid"))

    best = max(map(kinship, fitting))
    closest_kin = [other for other in fitting if kinship(other) == best]
    if len(closest_kin) > 1:
        raise InputError(f"{_name(series)} has several low-dose series that fit equally well: "
                         f"{', '.join(map(_name, closest_kin))}; pair them apart")
    return closest_kin[0]


def _may_be_related(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether two slices can be of one patient, by what their headers say."""
    if is_placeholder(one.patient_id) or is_placeholder(other.patient_id):
        return not (one.acquisition and other.acquisition) or one.acquisition == other.acquisition
    return one.patient_id == other.patient_id


def _differences(one: SliceHeader, other: SliceHeader) -> list[str]:
    """How the geometry and the reconstruction of two slices differ, in words."""
    differences = []
    if (one.rows, one.columns) != (other.rows, other.columns):
        differences.append(f"size ({one.rows}×{one.columns}, {other.rows}×{other.columns})")
    for name, attribute, tolerance in (("pixel spacing", "pixel_spacing_mm", 1e-4),
                                       ("orientation", "orientation", 1e-3),
                                       ("thickness", "thickness_mm", 1e-2)):
        here, there = getattr(one, attribute), getattr(other, attribute)
        if (here is None) != (there is None) or (
                here is not None and not np.allclose(here, there, rtol=0, atol=tolerance)):
            differences.append(f"{name} ({here}, {there})")
    if one.kernel != other.kernel:
        differences.append(f"kernel ({one.kernel}, {other.kernel})")
    return differences


def _same_places(series: list[SliceHeader], other: list[SliceHeader]) -> bool:
    places = _places(other)
    return any(len(_at_place(header, places)) for header in series)


def _places(slices: list[SliceHeader]) -> np.ndarray:
    """(N, 3) positions; NaN where there is none."""
    return np.array([(np.nan,) * 3 if each.position_mm is None else each.position_mm
                     for each in slices])


def _at_place(header: SliceHeader, places: np.ndarray) -> np.ndarray:
    """Indices of the slices whose first pixel lies where that of `header` does."""
    if header.position_mm is None:
        return np.array([], int)
    distances = np.abs(places - header.position_mm).max(axis=1)
    return np.flatnonzero(distances < TOLERANCE_MM)


def _pair_series(ndct: list[SliceHeader], qdct: list[SliceHeader], notes: list[str]
                 ) -> list[SlicePair]:
    """Pairs the slices of two series; one whose counterpart is not certain is left out."""
    pairs, alone, uncertain = [], 0, []
    ndct_places, qdct_places = _places(ndct), _places(qdct)
    for header in ndct:
        there, here = _at_place(header, qdct_places), _at_place(header, ndct_places)
        if len(there) == len(here) == 1 and not _differences(header, qdct[there[0]]):
            pairs.append(SlicePair(header, qdct[there[0]]))
        elif len(there):
            uncertain.append(header.path)
        else:
            alone += 1
    if uncertain:
        notes.append(f"{len(uncertain)} slices of {_name(ndct)} left out, the first "
                     f"{uncertain[0]}: several slices at the same place, or another geometry")
    if alone:
        notes.append(f"{alone} slices of {_name(ndct)} have no counterpart")
    unpaired = len(qdct) - len(pairs) - len(uncertain)
    if unpaired > 0:
        notes.append(f"{unpaired} slices of {_name(qdct)} have no counterpart")
    return pairs
