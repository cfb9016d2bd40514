"""Finds slices and patients that are in more than one split."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from dfgan_jax.support.digests import array_digest
from dfgan_jax.support.errors import InputError


def slice_digests(slices: Iterable[Shaped[np.ndarray, "h w"]]) -> list[str]:
    """The SHA-256 of each slice of (N, H, W), in hexadecimal digits."""
    return [array_digest(one) for one in slices]


def check_no_overlap(splits: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Refuses a slice that is in more than one file.

    Args:
      splits: split → name of a file in messages → `slice_digests` of one dose, as read.

    Raises:
      InputError: two files share a slice; the message names the first one.
    """
    seen: dict[str, tuple[str, str, int]] = {}
    for split, files in splits.items():
        for name, digests in files.items():
            for index, digest in enumerate(digests):
                first_split, first, first_index = seen.setdefault(digest, (split, name, index))
                if first == name:
                    continue
                reason = ("its split would count it twice" if first_split == split else
                          "the scores of slices that trained or chose the model mean nothing")
                raise InputError(f"{name}: slice {index} is also slice {first_index} of {first}; "
                                 f"{reason}")


def check_no_shared_patient(splits: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
    """Refuses a patient who is in more than one split.

    Args:
      splits: split → path of a file → names of its patients; none where they are unknown.

    Raises:
      InputError: two splits share a patient; the message names the first one and both files.
    """
    seen: dict[str, tuple[str, str]] = {}
    for split, files in splits.items():
        for path, patients in files.items():
            for patient in patients:
                first_split, first = seen.setdefault(patient.strip(), (split, path))
                if first_split != split:
                    raise InputError(
                        f"data.{split} ({path}): patient {patient!r} is also in "
                        f"data.{first_split} ({first}), by their manifests; the scores of patients "
                        "who trained or chose the model are too good. Expected each patient in one "
                        "split; two patients of one name need other names in the column patient")
