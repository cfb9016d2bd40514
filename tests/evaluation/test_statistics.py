import itertools

import numpy as np
import pytest
import scipy.stats

from dfgan_jax.evaluation import statistics
from dfgan_jax.evaluation.statistics import Sample, holm, paired_tests

SIX = [patient for patient in "abcdef" for _ in range(3)]


def test_interval_draws_patients_with_all_their_slices():
    """Two patients, ten slices of 1 and ten of 3: a resample is all 1, half, or all 3."""
    values = np.repeat([1.0, 3.0], 10)
    sample = Sample(["a"] * 10 + ["b"] * 10, 20)
    assert sample.interval(values, np.full(20, 1 / 20)) == pytest.approx((1.0, 3.0))
    # Slices that are drawn alone have a standard error of 1 / √20.
    low, high = Sample(None, 20).interval(values, np.full(20, 1 / 20))
    assert (low, high) == pytest.approx((2 - 1.96 / 20**0.5, 2 + 1.96 / 20**0.5), abs=0.06)


def test_interval_of_many_patients_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    patients = [str(i // 4) for i in range(400)]
    values = np.repeat(rng.normal(40, 2, 100), 4)
    low, high = Sample(patients, 400).interval(values, np.full(400, 1 / 400))
    error = 1.96 * values.std() / 100**0.5
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.04)


def test_interval_weighs_slices_as_the_mean_does():
    """A patient whose slices weigh nothing does not move the interval."""
    values = np.array([1.0, 1.0, 2.0, 2.0, 900.0])
    weights = np.array([0.25, 0.25, 0.25, 0.25, 0.0])
    low, high = Sample(["a", "a", "b", "b", "a"], 5).interval(values, weights)
    assert (low, high) == (1.0, 2.0)


@pytest.mark.parametrize(("patients", "values"), [
    (["a"], [30.0]), (None, [30.0]), (["a", "b"], [30.0, np.inf]), (["a", "b"], [30.0, np.nan])])
def test_no_interval_where_there_can_be_none(patients, values):
    assert Sample(patients, len(values)).interval(
        np.array(values), np.full(len(values), 1 / len(values))) is None


def test_interval_for_patients_is_students_for_two_to_five():
    """Means of 1, 2 and 6: mean 3, standard error √(7 / 3); t of two degrees is 4.303."""
    values = np.array([0.0, 2.0, 2.0, 6.0])
    half = 4.3027 * (7 / 3) ** 0.5
    assert Sample(list("aabc"), 4).patient_interval(values) == pytest.approx(
        (3 - half, 3 + half), abs=1e-3)
    assert Sample(list("aaaa"), 4).patient_interval(values) is None
    assert Sample(None, 4).patient_interval(values) is None
    assert Sample(list("aabc"), 4).patient_interval(np.array([0.0, np.inf, 1.0, 1.0])) is None


def test_interval_for_six_patients_is_the_bootstraps():
    values = np.arange(18.0)
    sample = Sample(SIX, 18)
    assert sample.patient_interval(values) == sample.interval(values, np.ones(18))


def exact_wilcoxon(differences):
    """Two-sided p over all 2ⁿ signs, for differences without ties."""
    ranks = scipy.stats.rankdata(np.abs(differences))
    seen = ranks[np.asarray(differences) > 0].sum()
    sums = np.array([ranks[list(signs)].sum() for signs in
                     itertools.product([False, True], repeat=len(ranks))])
    return min(1.0, 2 * min((sums <= seen).mean(), (sums >= seen).mean()))


def test_six_patients_are_tested_by_their_means():
    by_patient = np.array([1.0, 2.0, 3.0, 4.0, 5.0, -0.5])
    first = np.repeat(by_patient, 3) + np.tile([-0.2, 0.0, 0.2], 6)
    test = Sample(SIX, 18).paired_test(first, np.zeros(18))
    assert (test.n, test.median_difference) == (6, pytest.approx(2.5))
    assert test.p == pytest.approx(exact_wilcoxon(by_patient))
    assert Sample(SIX, 18).test_unit == "patients"


def test_five_patients_are_tested_slice_by_slice_and_that_is_said():
    differences = np.array([1.0, 2.0, 3.0, 4.0, -5.0, 6.0, 7.0])
    sample = Sample(list("aabbcde"), 7)
    test = sample.paired_test(differences, np.zeros(7))
    assert (test.n, test.p) == (7, pytest.approx(exact_wilcoxon(differences)))
    assert sample.test_unit == "slices"
    assert sample.interval_unit == "patients"
    assert any("has 5 patients, fewer than 6" in note for note in sample.notes(rows=3))
    assert any("too narrow. Those of the gains" in note for note in sample.notes(rows=3))


def test_unknown_patients_are_said():
    assert sum("patients of the slices are not known" in note
               for note in Sample(None, 9).notes(rows=3)) == 2
    assert "1 patient." in Sample(["a"] * 9, 9).notes(rows=3)[0]
    assert Sample(None, 1).notes(rows=3)[0].startswith("One slice: no interval")


def test_equal_rows_differ_by_chance_only():
    test = Sample(SIX, 18).paired_test(np.ones(18), np.ones(18))
    assert (test.p, test.median_difference) == (1.0, 0.0)


def test_any_two_rows_are_tested_but_those_that_are_not_finite():
    rows = {name: np.arange(18.0) + offset for offset, name in enumerate("xyz")}
    rows["w"] = np.full(18, np.inf)
    assert list(paired_tests(Sample(SIX, 18), rows)) == [("x", "y"), ("x", "z"), ("y", "z")]


def test_holm_by_hand():
    # 0.01·4, 0.03·2 ≥ 0.02·3, then 0.04·1 raised to the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_have_the_sd_of_a_sample():
    assert statistics.mean_and_sd([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))


def test_too_few_patients_for_so_many_rows_is_said():
    patients = [str(i) for i in range(10)]
    # 28 pairs of 8 rows, of which each has p ≥ 2 / 2¹⁰.
    assert any("no corrected p can be below 0.055" in note
               for note in Sample(patients, 10).notes(rows=8))
    assert not any("no corrected p" in note for note in Sample(patients, 10).notes(rows=3))
