"""The uncertainty of means over a test set, and of differences between two rows.

Slices of one patient resemble each other, so the unit of statistics is the patient, or the slice
if patients are too few. `Sample.notes` names the unit.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float

from dfgan_jax.support.wording import counted

CONFIDENCE = 0.95
RESAMPLES = 2000

MIN_TEST_PATIENTS = 6
"""With fewer, a Wilcoxon test over patients cannot reach p < 0.05."""


class PairedTest(NamedTuple):
    """A paired test between two rows of a table.

    Attributes:
      median_difference: of first − second row, in the metric's unit.
      p: two-sided.
      n: pairs.
    """

    median_difference: float
    p: float
    n: int


@dataclasses.dataclass(frozen=True)
class Sample:
    """The slices of a test set and their patients.

    Attributes:
      patients: the patient of each slice; None if unknown.
      count: number of slices.
    """

    patients: Sequence[str] | None
    count: int

    @property
    def patient_count(self) -> int | None:
        return None if self.patients is None else len(set(self.patients))

    @property
    def interval_unit(self) -> str:
        """The unit of the bootstrap: `patients`, or `slices` for fewer than two known patients."""
        return "patients" if (self.patient_count or 0) >= 2 else "slices"

    @property
    def test_unit(self) -> str:
        """The unit of tests: `patients` from `MIN_TEST_PATIENTS` on, `slices` below."""
        return "patients" if (self.patient_count or 0) >= MIN_TEST_PATIENTS else "slices"

    def notes(self, *, rows: int) -> list[str]:
        """Sentences on the intervals and tests for their reader.

        Args:
          rows: number of rows of the table; tests compare all pairs of them.
        """
        known = ("the patients of the slices are not known" if self.patients is None else
                 f"the test set has {self.patient_count} patient"
                 f"{'' if self.patient_count == 1 else 's'}")
        if self.count < 2:
            return ["One slice: no interval, and no meaningful test."]
        level = f"{CONFIDENCE:.0%}"
        notes = [f"Intervals: {level}, percentile bootstrap of the mean, {RESAMPLES} resamples of "
                 f"{self.interval_unit} with all their slices."
                 if self.interval_unit == "patients" else
                 f"Intervals: {level}, percentile bootstrap of the mean, {RESAMPLES} resamples of "
                 f"slices: {known}. Slices of one patient resemble each other, so the intervals "
                 "are too narrow, and do not extend to other patients."]
        if self.interval_unit == "patients" and self.test_unit == "slices":
            notes.append(f"With {self.patient_count} patients the bootstrap has few distinct "
                         "resamples; its intervals are too narrow. Those of the gains at the head "
                         "are Student's, of the patients' means.")
        notes.append(f"Tests: two-sided Wilcoxon signed-rank over {self.test_unit}"
                     + (" (the means of their slices)" if self.test_unit == "patients" else
                        f", since {known}, fewer than {MIN_TEST_PATIENTS}: "
                        "slices of one patient are not independent, so p is too small"
                        if self.patients is not None else f", since {known}: p may be too small")
                     + "; Holm's correction over the pairs of rows of one metric.")
        units = self.patient_count if self.test_unit == "patients" else self.count
        pairs = rows * (rows - 1) // 2
        lowest = min(1.0, pairs * 2 / 2 ** (units or 0))
        if lowest > 1 - CONFIDENCE:
            notes.append(f"With {units} {self.test_unit} and {counted(pairs, 'pair')} of rows no "
                         f"corrected p can be below {lowest:.2g}: a large p does not show that "
                         "rows are equal.")
        return notes

    def interval(self, values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"], *,
                 seed: int = 0) -> tuple[float, float] | None:
        """The bootstrap interval of a weighted mean over slices (Efron & Tibshirani 1993).

        Resamples draw patients with all their slices (the cluster bootstrap: Davison & Hinkley
        1997, 3.8), or slices; see `interval_unit`.

        Args:
          values: (count,), a metric of each slice.
          weights: (count,), of each slice in the mean.
          seed: of the resamples.

        Returns:
          The lower and the upper end; None if a value is not finite, or there is only one unit.
        """
        codes = self._codes(self.interval_unit)
        units = codes.max() + 1
        if units < 2 or not np.isfinite(values).all():
            return None
        totals = np.bincount(codes, weights * values)
        masses = np.bincount(codes, weights)
        result = scipy.stats.bootstrap(
            (np.arange(units),),
            lambda drawn, axis: totals[drawn].sum(axis) / masses[drawn].sum(axis),
            vectorized=True, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
            method="percentile", rng=np.random.default_rng(seed))
        return (float(result.confidence_interval.low), float(result.confidence_interval.high))

    def patient_interval(self, values: Float[np.ndarray, " n"]) -> tuple[float, float] | None:
        """The interval of a mean over slices, for conclusions on patients.

        From `MIN_TEST_PATIENTS` patients on it is the bootstrap's. The bootstrap of few patients
        is far too narrow, about from the lowest to the highest of their means: with fewer the
        interval is Student's, of the mean of the patients' means.

        Args:
          values: (count,), of each slice.

        Returns:
          The lower and the upper end; None if a value is not finite, with one patient, or where
          patients are not known.
        """
        if self.test_unit == "patients":
            return self.interval(values, np.ones(self.count))
        if (self.patient_count or 0) < 2 or not np.isfinite(values).all():
            return None
        codes = self._codes("patients")
        means = np.bincount(codes, values) / np.bincount(codes)
        half = (scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(means) - 1)
                * means.std(ddof=1) / len(means) ** 0.5)
        return float(means.mean() - half), float(means.mean() + half)

    def paired_test(self, first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]
                    ) -> PairedTest | None:
        """Wilcoxon's signed-rank test of two rows on the same test set.

        Args:
          first: (count,), a metric of each slice.
          second: (count,), the same metric of the other row.

        Returns:
          The test; None if a value is not finite.
        """
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            return None
        codes = self._codes(self.test_unit)
        differences = np.bincount(codes, first - second) / np.bincount(codes)
        p = scipy.stats.wilcoxon(differences).pvalue if differences.any() else 1.0
        return PairedTest(float(np.median(differences)), float(p), len(differences))

    def _codes(self, unit: str) -> np.ndarray:
        """The number of each slice's unit, (count,), from 0."""
        if unit == "slices":
            return np.arange(self.count)
        return np.unique(np.asarray(self.patients), return_inverse=True)[1]


def paired_tests(sample: Sample, rows: Mapping[str, Float[np.ndarray, " n"]]
                 ) -> dict[tuple[str, str], PairedTest]:
    """The tests between all pairs of rows with finite values; names → test."""
    tests = {(first, second): sample.paired_test(rows[first], rows[second])
             for first, second in itertools.combinations(rows, 2)}
    return {names: test for names, test in tests.items() if test is not None}


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number (Holm 1979); in the given order, at most 1."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(
        factors * np.asarray(p_values, float)[order]), 1.0)
    return corrected.tolist()


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """The mean of at least two runs and their standard deviation (n − 1)."""
    return float(np.mean(values)), float(np.std(values, ddof=1))
