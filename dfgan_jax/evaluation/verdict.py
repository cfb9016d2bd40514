"""The verdict of a comparison: the answers that a reader looks for first.

Gains are differences of the mean PSNR under the protocol `full_range`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from dfgan_jax.evaluation.statistics import MIN_TEST_PATIENTS, Sample
from dfgan_jax.evaluation.tables import INPUT_ROW, REFERENCE_ROW, Row
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import counted

Origin: TypeAlias = Literal["phantoms", "simulated dose", "scans", "unknown"]
"""Of the test pairs: simulated phantoms, scans with a low dose that this package simulated, pairs
of scans whose low dose came with them, acquired or simulated, or files without a manifest."""

@dataclasses.dataclass(frozen=True)
class Gain:
    """The gain of the model over another row.

    Attributes:
      over: the other row.
      psnr_db: mean over the slices [dB].
      interval: 95 % interval of the mean [dB]; see `Sample.patient_interval`.
      decision: `ahead`, `behind`, or `level` where the interval includes 0; `undecided` with fewer
        than `MIN_TEST_PATIENTS` patients, or without an interval.
    """

    over: str
    psnr_db: float
    interval: tuple[float, float] | None
    decision: Literal["ahead", "behind", "level", "undecided"]


@dataclasses.dataclass(frozen=True)
class Detection:
    """Detectability d′ of simulated low-contrast lesions: the mean over kinds of lesions."""

    d_prime: float
    standard_error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The numbers of the report's first screen.

    Attributes:
      model: the row of the verdict.
      over_input: gain over QDCT.
      over_baseline: gain over the classical denoiser with the highest PSNR; None without one.
      over_model: gain over the other model with the highest PSNR at default settings, as those of
        `model`; None without one.
      bias_hu: mean error in soft tissue [HU], of the model and of QDCT, by row.
      anatomy_hu: anatomy in the removed map [HU rms], of the model and of the best classical
        denoiser, by row.
      detection: of the model, QDCT and NDCT, by row; rows without phantoms are missing.
      origin: of the test pairs.
      slices: number of test slices.
      patients: number of their patients; None if unknown.
      size: of the slices [pixels]; see `tables.size_of`.
      pixel_spacing_mm: of the slices; None if unknown.
    """

    model: str
    over_input: Gain
    over_baseline: Gain | None
    over_model: Gain | None
    bias_hu: Mapping[str, float]
    anatomy_hu: Mapping[str, float]
    detection: Mapping[str, Detection]
    origin: Origin
    slices: int
    patients: int | None
    size: int | str
    pixel_spacing_mm: float | None

    def as_json(self) -> JsonObject:
        """The fields, `lesions` and `sentences`."""
        return {**dataclasses.asdict(self), "lesions": self.lesions, "sentences": self.sentences()}

    @property
    def lesions(self) -> Literal["easier", "harder", "level"] | None:
        """Whether simulated lesions are easier to detect than at the low dose, or harder.

        `level` within twice the standard error of the difference; None if one has no d′.
        """
        model, low_dose = (self.detection.get(name) for name in (self.model, INPUT_ROW))
        if model is None or low_dose is None:
            return None
        difference = model.d_prime - low_dose.d_prime
        if abs(difference) <= 2 * math.hypot(model.standard_error, low_dose.standard_error):
            return "level"
        return "easier" if difference > 0 else "harder"

    def sentences(self) -> list[str]:
        """Sentences on the results and their limits."""
        return [self._gains(), *self._losses(), *self._few(), self._limits()]

    def _gains(self) -> str:
        parts = [f"{_difference(self.over_input)} the low dose"]
        parts += [f"{_difference(gain)} {gain.over}, the best {kind} here" for gain, kind in (
            (self.over_baseline, "classical denoiser"), (self.over_model, "other network"))
            if gain is not None]
        where = ""
        if self.patients is None:
            where = " on these slices"
        elif self.patients < MIN_TEST_PATIENTS:
            where = (f" on this {self._unit}" if self.patients == 1 else
                     f" on these {counted(self.patients, self._unit)}")
        return f"In PSNR{where}, {self.model} is {'; '.join(parts)}."

    def _losses(self) -> list[str]:
        if self.lesions is None:
            return []
        change = "no easier" if self.lesions == "level" else self.lesions
        return [f"Simulated lesions are {change} to detect than at the low dose."]

    def _few(self) -> list[str]:
        if self.patients is None:
            return ["The patients of the slices are not known, so the numbers do not extend to "
                    "others."]
        return [f"With {counted(self.patients, self._unit)} the numbers do not extend to others."
                ] if self.patients < MIN_TEST_PATIENTS else []

    def _limits(self) -> str:
        return {
            "phantoms": "Phantoms are not patients: nothing here shows how it does on your scans.",
            "simulated dose": "By the manifest, this package simulated the low dose from the "
                              "images; nothing here shows whether a finding survives.",
            "scans": "Whether the low dose was acquired or simulated is not known, and nothing "
                     "here shows whether a finding survives, or how it does on another scanner, "
                     "kernel or dose.",
            "unknown": "The origin of the pairs is not known, and nothing here shows whether a "
                       "finding survives.",
        }[self.origin]

    @property
    def _unit(self) -> str:
        return "phantom" if self.origin == "phantoms" else "patient"


def _difference(gain: Gain) -> str:
    """`1.70 dB ahead of`; `level with`; of few patients only the difference, `1.70 dB above`."""
    if not math.isfinite(gain.psnr_db):
        return "not comparable with"
    if gain.decision == "level":
        return "level with"
    words = {"ahead": "ahead of", "behind": "behind",
             "undecided": "above" if gain.psnr_db > 0 else "below"}
    return f"{abs(gain.psnr_db):.2f} dB {words[gain.decision]}"


def judge(model: str, psnr: Mapping[str, Float[np.ndarray, " n"]], rows: Mapping[str, Row],
          sample: Sample, *, physics: JsonObject, origin: Origin, size: int | str,
          pixel_spacing_mm: float | None) -> Verdict:
    """The verdict on a model.

    Args:
      model: its row.
      psnr: row → PSNR of each slice under `full_range` [dB].
      rows: row → its description.
      sample: the slices.
      physics: of `results.json`; empty if it was not measured.
      origin: of the test pairs.
      size: of the slices; see `tables.size_of`.
      pixel_spacing_mm: of the slices; None if unknown.
    """
    def gain(over: str) -> Gain:
        difference = psnr[model] - psnr[over]
        interval = sample.patient_interval(difference)
        return Gain(over, float(difference.mean()), interval, (
            "undecided" if interval is None or sample.test_unit != "patients" else
            "ahead" if interval[0] > 0 else "behind" if interval[1] < 0 else "level"))

    def best(kind: str) -> Gain | None:
        names = [name for name, row in rows.items()
                 if row.kind == kind and name != model and row.setting_of is None
                 and np.isfinite(psnr[name].mean())]
        return gain(max(names, key=lambda name: float(psnr[name].mean()))) if names else None

    slices = physics.get("slices") or {"rows": {}}
    over_baseline = best("baseline")
    anatomy = {name: rms_hu
               for name in (model, *([over_baseline.over] if over_baseline else []))
               if (rms_hu := ((slices["rows"].get(name) or {}).get("structure") or {})
                   .get("rms_hu")) is not None}
    tissues = {name: (slices["rows"].get(name) or {}).get("tissues") or {}
               for name in (model, INPUT_ROW)}
    bias_hu = {name: bias for name, found in tissues.items()
               if (bias := (found.get("soft tissue") or {}).get("bias_hu")) is not None}
    phantom = (physics.get("phantom") or {}).get("rows") or {}
    return Verdict(
        model=model, over_input=gain(INPUT_ROW), over_baseline=over_baseline,
        over_model=best("model"), bias_hu=bias_hu, anatomy_hu=anatomy,
        detection={name: found for name in (model, INPUT_ROW, REFERENCE_ROW) if name in phantom
                   and (found := _mean_detection(phantom[name]["detectability"]))},
        origin=origin, slices=sample.count, patients=sample.patient_count, size=size,
        pixel_spacing_mm=pixel_spacing_mm)


def _mean_detection(lesions: list[JsonObject]) -> Detection | None:
    """None if a kind of lesion has no d′."""
    values, errors = ([each[field] for each in lesions] for field in ("d_prime", "d_prime_se"))
    if not lesions or None in values or None in errors:
        return None
    return Detection(float(np.mean(values)),
                     float(np.sqrt(np.sum(np.square(errors)))) / len(lesions))
