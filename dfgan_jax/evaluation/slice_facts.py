"""Pixel pitch, thickness and sizes of the test slices, and notes on them for a reader."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from dfgan_jax.data.aliasing import Size, aliasing_notes
from dfgan_jax.data.domain import Domain
from dfgan_jax.data.pairs_file import read_pairs
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import printable

PITCH_TOLERANCE: Final = 1.1
"""Ratio of pixel pitches from which a note names those of training and test."""

_MOST_LISTED: Final = 5
"""Kernels or thicknesses in a note."""


class SliceFacts(NamedTuple):
    """Facts on the test slices.

    Attributes:
      thickness_mm: the smallest and the largest; None if the manifest lacks some, or there is no
        file.
      sizes: native and scored size of each file; of no file for phantoms.
    """

    thickness_mm: tuple[float, float] | None
    sizes: tuple[tuple[Size, Size], ...]

    @classmethod
    def of_files(cls, paths: Sequence[str], manifest: Sequence[Mapping[str, str]] | None,
                 sizes: Sequence[Size]) -> "SliceFacts":
        """Reads the facts.

        Args:
          paths: of the files; none for phantoms.
          manifest: a row for each slice; None if there is none.
          sizes: scored height and width of each file.
        """
        native = [read_pairs(pathlib.Path(path)).ndct.shape[1:] for path in paths]
        recorded = [row.get("thickness_mm") for row in manifest or []]
        thickness = np.asarray(recorded, float) if recorded and all(recorded) else None
        return cls(None if thickness is None else (float(thickness.min()), float(thickness.max())),
                   tuple(((height, width), size) for (height, width), size in
                         zip(native, sizes, strict=False)))

    def as_json(self, *, pixel_spacing_mm: float | None) -> JsonObject:
        """The field `test_slices` of `results.json`; the pitch is that of the scored slices."""
        return {"pixel_spacing_mm": pixel_spacing_mm,
                "thickness_mm": self.thickness_mm and list(self.thickness_mm),
                "native_sizes": [list(native) for native in dict.fromkeys(
                    native for native, _ in self.sizes)]}

    def notes(self) -> list[str]:
        """Sentences on resizes that alias."""
        return aliasing_notes(self.sizes)


def resize_notes(trained_sizes: Mapping[str, int], sizes: Sequence[tuple[Size, Size]]) -> list[str]:
    """A sentence on each model of slices at their native size that is given resized ones.

    Args:
      trained_sizes: row → `data.size` of the model's training; 0 is the native size.
      sizes: native and scored size of each file.
    """
    resized = [(native, scored) for native, scored in sizes if native != scored]
    if not resized:
        return []
    (height, width), (scored_height, scored_width) = resized[0]
    return [f"{name} was trained on slices at their native size; here they are resized from "
            f"{height}×{width} to {scored_height}×{scored_width}, which --config.data.size=0 "
            "prevents." for name, size in trained_sizes.items() if size == 0]


def seen_notes(trained: Mapping[str, Mapping[str, str]], fingerprints: Mapping[str, str]
               ) -> list[str]:
    """A sentence on the models that were trained, or chosen, on a split of the evaluation.

    Only a split of the same files, in their order and at the same `data.size`, has the fingerprint
    of a training split.

    Args:
      trained: row → split → `Pairs.fingerprint` of its model's training; empty where unknown.
      fingerprints: split → that of the evaluation.
    """
    notes = []
    for split, seen_as, words in (
            ("test", "train", "Trained on this very test split, so that the scores are far too "
                              "good"),
            ("test", "valid", "Chosen among its checkpoints on this very test split, so that the "
                              "scores are too good"),
            ("valid", "train", "Trained on this very validation split, on which classical "
                               "denoisers are tuned")):
        names = [name for name, each in trained.items()
                 if split in fingerprints and each.get(seen_as) == fingerprints[split]]
        if names:
            notes.append(f"{words}: {'; '.join(names)}.")
    return notes


def pitch_notes(domains: Mapping[str, Domain | None], pixel_spacing_mm: float | None) -> list[str]:
    """A sentence on each model that was trained on pixels of another pitch than that of the test.

    Args:
      domains: row → training domain of its model; None if its checkpoint has none.
      pixel_spacing_mm: of the test slices as they are scored; None if unknown.
    """
    notes = []
    for name, domain in domains.items():
        if domain is None or pixel_spacing_mm is None:
            continue
        lowest, highest = domain.pixel_spacing_mm
        if not lowest / PITCH_TOLERANCE <= pixel_spacing_mm <= highest * PITCH_TOLERANCE:
            trained = f"{lowest:.3g}" + (f" to {highest:.3g}" if highest > lowest else "")
            notes.append(f"{name} was trained on pixels of {trained} mm; those of the test slices "
                         f"have {pixel_spacing_mm:.3g} mm.")
    return notes


def tuning_notes(tuned: Sequence[Mapping[str, str]] | None,
                 scored: Sequence[Mapping[str, str]] | None) -> list[str]:
    """A sentence where classical denoisers are tuned on slices unlike those that are scored.

    Args:
      tuned: a row of the manifest for each slice they are tuned on; None without a manifest.
      scored: the same of the test slices.
    """
    return [f"Classical denoisers are tuned on slices of {words} {_listed(there)}, and the test "
            f"slices have {_listed(here)}: their rows may be too low."
            for words, kinds in (("kernel", _kernels), ("thickness", _thicknesses))
            if (there := kinds(tuned or ())) and (here := kinds(scored or ())) and there != here]


def _kernels(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The kernels of a manifest, without repetitions; those that are not stated are left out."""
    return sorted({printable(text) for row in rows if (text := (row.get("kernel") or "").strip())})


def _thicknesses(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The same of the thicknesses; some DICOM files state one of 0 or below."""
    stated = {float(text) for row in rows if (text := row.get("thickness_mm"))}
    return [f"{each:g} mm" for each in sorted(stated) if each > 0]


def _listed(kinds: Sequence[str]) -> str:
    more = f" and {len(kinds) - _MOST_LISTED} more" if len(kinds) > _MOST_LISTED else ""
    return ", ".join(kinds[:_MOST_LISTED]) + more
