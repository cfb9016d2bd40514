"""Finds pairs of the same anatomy at two doses in two sets of CT slices.

Slices are matched by position, acquisition and reconstruction, never by the names of files.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.spatial

from dfgan_jax.scans.dicom import group_by_series
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import counted

TOLERANCE_MM = 0.05
"""Positions have two decimals or more; slices are farther apart."""

_PLACEHOLDERS = {"", "anon", "anonym", "anonymous", "anonymized", "anonymised", "deidentified",
                 "n/a", "none", "patient", "removed", "unknown", "0"}
"""Lower-case patient IDs that replace a removed one."""


@dataclasses.dataclass(frozen=True)
class SlicePair:
    """Headers of the same slice at two doses."""

    ndct: SliceHeader
    qdct: SliceHeader


@dataclasses.dataclass(frozen=True)
class Matching:
    """The pairs of two sets of slices.

    Attributes:
      pairs: by series of the normal dose, in the order of their position.
      notes: in words, slices without a counterpart or with several, and the reason.
    """

    pairs: list[SlicePair]
    notes: list[str]


def is_placeholder(patient_id: str) -> bool:
    """Whether a patient ID does not identify a patient."""
    return patient_id.strip().lower() in _PLACEHOLDERS


def match_slices(ndct: Sequence[SliceHeader], qdct: Sequence[SliceHeader]) -> Matching:
    """Pairs the slices of two sets.

    Two slices can form a pair if rows, columns, position, pixel spacing, orientation, kernel
    and thickness are equal and neither patient IDs nor acquisitions contradict each other. Of
    several candidates, that of the same acquisition, study and frame of reference is taken; of
    several equally close ones, none.

    Raises:
      InputError: both sets have the same file, or there is no pair.
    """
    same = {header.path.resolve() for header in ndct} & {each.path.resolve() for each in qdct}
    if same:
        raise InputError(f"{counted(len(same), 'file')} in both folders, the first {min(same)}; "
                         "expected the normal dose in one, the low dose in the other")
    notes: list[str] = []
    ndct, qdct = _without_copies(ndct, notes), _without_copies(qdct, notes)
    qdct_of, uncertain, reasons = _counterparts(ndct, qdct)

    pairs, kin = [], 0
    for series in group_by_series(ndct):
        found = [SlicePair(header, qdct_of[header.name]) for header in series
                 if header.name in qdct_of]
        pairs += found
        kin += sum(any(_kinship(pair.ndct, pair.qdct)) for pair in found)
        doubtful = [header for header in series if header.name in uncertain]
        if doubtful:
            notes.append(f"{counted(len(doubtful), 'slice')} of {series_name(series)} left out, "
                         f"the first {doubtful[0].name}: several slices fit equally well")
        missing = len(series) - len(found) - len(doubtful)
        if missing:
            (why, _), = collections.Counter(
                reasons[header.name] for header in series if header.name in reasons).most_common(1)
            notes.append(f"{counted(missing, 'slice')} of {series_name(series)} without low dose: "
                         f"{why}")
    used = {pair.qdct.name for pair in pairs}
    for series in group_by_series(qdct):
        unused = sum(header.name not in used for header in series)
        if unused:
            notes.append(f"{counted(unused, 'slice')} of {series_name(series)} not used")
    if not pairs:
        raise InputError("; ".join(["no slice of the two folders belongs together", *notes[:5]]))
    if kin < len(pairs):
        notes.append(f"{counted(len(pairs) - kin, 'pair')} with neither acquisition, study nor "
                     "frame of reference in common, only patient ID and place: make sure that "
                     "both doses are one scan")
    return Matching(pairs, notes)


def _without_copies(headers: Sequence[SliceHeader], notes: list[str]) -> list[SliceHeader]:
    """Drops copies of earlier slices.

    Equal instances alone are no copies: anonymisers give UIDs that repeat in every patient, or
    one to all slices.
    """
    first: dict[tuple[object, ...], SliceHeader] = {}
    by_instance: dict[tuple[str, int], SliceHeader] = {}
    copies, repeated = [], []
    for header in headers:
        if header is not (one := first.setdefault(
                (header.instance, header.patient_id, header.series_uid, header.position_mm),
                header)):
            copies.append((header, one))
        elif header is not (one := by_instance.setdefault(header.instance, header)):
            repeated.append((header, one))
    if copies:
        notes.append(f"{counted(len(copies), 'file')} left out as copies, the first "
                     f"{copies[0][0].name} of {copies[0][1].name}")
    if repeated:
        notes.append(f"{counted(len(repeated), 'slice')} with the SOP instance UID of another "
                     f"slice, the first {repeated[0][0].name} of {repeated[0][1].name}, but of "
                     "another patient, series or place: taken as slices of their own")
    return list(first.values())


def _counterparts(ndct: list[SliceHeader], qdct: list[SliceHeader]
                  ) -> tuple[dict[str, SliceHeader], set[str], dict[str, str]]:
    """The low dose of each normal-dose slice, by its name.

    Returns:
      Name → header of the low dose; names with several candidates; name → reason for none.
    """
    places = [np.array([(np.inf,) * 3 if each.position_mm is None else each.position_mm
                        for each in headers]) for headers in (ndct, qdct)]
    located = [np.flatnonzero(np.isfinite(each).all(axis=1)) for each in places]
    near: list[list[int]] = [[] for _ in ndct]
    if all(map(len, located)):
        trees = [scipy.spatial.cKDTree(each[index])
                 for each, index in zip(places, located, strict=True)]
        for place, found in zip(located[0], trees[0].query_ball_tree(
                trees[1], TOLERANCE_MM, p=np.inf), strict=True):
            near[place] = [int(located[1][other]) for other in found]
    reasons = {}
    claims: dict[int, list[tuple[tuple[bool, ...], int]]] = {}
    uncertain = set()
    for number, (header, candidates) in enumerate(zip(ndct, near, strict=True)):
        fitting = [other for other in candidates if not _contradictions(header, qdct[other])]
        if not fitting:
            reasons[header.name] = (
                f"the slice there differs in {_contradictions(header, qdct[candidates[0]])[0]}"
                if candidates else "none lies there")
            continue
        closest = max(_kinship(header, qdct[other]) for other in fitting)
        best = [other for other in fitting if _kinship(header, qdct[other]) == closest]
        if len(best) > 1:
            uncertain.add(header.name)
        else:
            claims.setdefault(best[0], []).append((closest, number))
    qdct_of = {}
    for other, claimed in claims.items():
        closest = max(kinship for kinship, _ in claimed)
        best = [number for kinship, number in claimed if kinship == closest]
        for kinship, number in claimed:
            if kinship < closest:
                reasons[ndct[number].name] = "the slice there belongs to a closer normal dose"
        if len(best) > 1:
            uncertain |= {ndct[number].name for number in best}
        else:
            qdct_of[ndct[best[0]].name] = qdct[other]
    return qdct_of, uncertain, reasons


def series_name(series: Sequence[SliceHeader]) -> str:
    """Names a series, with its slices and folder, in messages."""
    return (f"series {series[0].series_uid} ({counted(len(series), 'slice')}, "
            f"{series[0].path.parent})")


def _kinship(one: SliceHeader, other: SliceHeader) -> tuple[bool, ...]:
    """Whether two slices share acquisition, study and frame of reference, as two scans do not."""
    return tuple(bool(getattr(one, name)) and getattr(one, name) == getattr(other, name)
                 for name in ("acquisition", "study_uid", "frame_of_reference_uid"))


def _contradictions(one: SliceHeader, other: SliceHeader) -> list[str]:
    """Differences that keep two slices at the same place from being a pair, in words."""
    contradictions = []
    if (one.rows, one.columns) != (other.rows, other.columns):
        contradictions.append(f"size ({one.rows}×{one.columns}, {other.rows}×{other.columns})")
    for name, attribute, tolerance in (("pixel spacing", "pixel_spacing_mm", 1e-4),
                                       ("orientation", "orientation", 1e-3),
                                       ("thickness", "thickness_mm", 1e-2)):
        here, there = getattr(one, attribute), getattr(other, attribute)
        if (here is None) != (there is None) or (
                here is not None and not np.allclose(here, there, rtol=0, atol=tolerance)):
            contradictions.append(f"{name} ({here}, {there})")
    if one.kernel != other.kernel:
        contradictions.append(f"kernel ({one.kernel}, {other.kernel})")
    if one.patient_id != other.patient_id and not (
            is_placeholder(one.patient_id) or is_placeholder(other.patient_id)):
        contradictions.append(f"patient ID ({one.patient_id}, {other.patient_id})")
    # An event does not contradict a time.
    kinds = {each.acquisition.split(" ")[0] for each in (one, other)}
    if one.acquisition != other.acquisition and len(kinds) == 1:
        contradictions.append(f"acquisition ({one.acquisition}, {other.acquisition})")
    return contradictions
