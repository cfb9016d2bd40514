"""Tells the doses of CT series apart by their descriptions."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from dfgan_jax.data.pairing import series_name
from dfgan_jax.scans.dicom import group_by_series
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.wording import printable

EXPECTED: Final = "'Full Dose Images' and 'Low Dose Images'"
"""Descriptions of the two doses, those of the collection LDCT-and-Projection-data."""

_MOST_NAMED: Final = 10

_LOW: Final = r"(?:ultra )?low|quarter|reduced|half|tenth"
_FULL: Final = r"full|normal|routine|standard|high"
_PERCENT: Final = r"(?P<percent>\d{1,3}) ?(?:%|percent)"

_BEFORE_DOSE: Final = re.compile(
    rf"(?<![a-z0-9])(?:(?P<low>{_LOW})|(?P<full>{_FULL})|{_PERCENT}) ?dose")
# "high" and "standard" alone describe a resolution or a kernel, other shares a phase of the heart.
_ALONE: Final = re.compile(
    r"(?<![a-z0-9])(?:(?P<low>low|quarter|reduced)|(?P<full>full|normal|routine)"
    r"|(?P<percent>25) ?(?:%|percent))(?![a-z0-9])")
_NO_IMAGE: Final = re.compile(r"projection|sinogram")


class Doses(NamedTuple):
    """The slices of two doses.

    Attributes:
      ndct: of the normal dose.
      qdct: of the low dose.
      notes: in words, the series of neither, and the reason.
    """

    ndct: list[SliceHeader]
    qdct: list[SliceHeader]
    notes: list[str]


def doses_named(description: str) -> set[str]:
    """The doses that a description names, `ndct` and `qdct`.

    A word in front of "dose" counts before a word alone: "High Resolution Low Dose" is low.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", description)
    text = " ".join(re.sub(r"[^a-z0-9%]", " ", spaced.lower()).split())
    for pattern in (_BEFORE_DOSE, _ALONE):
        named = {"qdct" if found["low"] or (found["percent"] and int(found["percent"]) < 100)
                 else "ndct" for found in pattern.finditer(text)}
        if named:
            return named
    return set()


def by_description(headers: Sequence[SliceHeader]) -> Doses:
    """Sorts slices into two doses by the description of their series.

    Raises:
      InputError: no series is of the normal dose, or none of the low dose.
    """
    doses = Doses([], [], [])
    found: dict[str, int] = {}
    for series in group_by_series(list(headers)):
        description = printable(series[0].series_description, limit=100)
        found[description] = found.get(description, 0) + 1
        named = doses_named(series[0].series_description)
        if _NO_IMAGE.search(description.lower()):
            why = "is of projections"
        elif len(named) == 2:
            why = "names both doses"
        elif not named:
            why = "names no dose"
        else:
            (doses.ndct if named == {"ndct"} else doses.qdct).extend(series)
            continue
        doses.notes.append(f"left out: {series_name(series)}: its description {description!r} "
                           f"{why}")
    for dose, slices in (("normal", doses.ndct), ("low", doses.qdct)):
        if not slices:
            listed = ", ".join(f"{name!r} ({count} series)"
                               for name, count in list(found.items())[:_MOST_NAMED])
            more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
            raise InputError(f"no series is of the {dose} dose by its description; expected such "
                             f"as {EXPECTED}; found {listed}{more}")
    return doses
