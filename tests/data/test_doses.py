import pytest

from dfgan_jax.data import doses
from dfgan_jax.support.errors import InputError
from tests.data.test_pairing import series


@pytest.mark.parametrize(("description", "named"), [
    ("Full Dose Images", {"ndct"}), ("Low Dose Images", {"qdct"}),
    ("FULL_DOSE 1mm B30f", {"ndct"}), ("FullDose", {"ndct"}), ("quarterDose 3mm", {"qdct"}),
    ("Normal-dose abdomen", {"ndct"}), ("routine dose", {"ndct"}), ("High dose chest", {"ndct"}),
    ("25% dose", {"qdct"}), ("10 % Dose", {"qdct"}), ("100% dose", {"ndct"}),
    ("simulated low dose, 25%", {"qdct"}), ("Ultra-low dose lung", {"qdct"}),
    ("reduced", {"qdct"}), ("Abdomen quarter D45", {"qdct"}), ("Abd routine 3.0", {"ndct"}),
    ("25 % simulation", {"qdct"}),
    ("High Resolution Low Dose", {"qdct"}), ("Low-dose lung, normal window", {"qdct"}),
    ("High Resolution Lung", set()), ("Chest standard kernel", set()), ("Lower limb", set()),
    ("Fullness", set()), ("BestDiast 70 %", set()), ("Dose report", set()), ("", set()),
    ("Full dose minus low dose", {"ndct", "qdct"}), ("full and quarter", {"ndct", "qdct"})])
def test_descriptions_name_doses(description, named):
    assert doses.doses_named(description) == named


def test_series_are_sorted_and_those_of_neither_dose_are_named():
    full, low = (series(name, series_description=description) for name, description in (
        ("f", "Full Dose Images"), ("l", "Low Dose Images")))
    others = [*series("o", series_description="Thorax 3.0"),
              *series("b", series_description="full dose, low dose", locations=(0.0,)),
              *series("p", series_description="Full dose projections", locations=(0.0,))]
    found = doses.by_description([*others, *low, *full])
    assert {header.series_uid for header in found.ndct} == {"f"}
    assert {header.series_uid for header in found.qdct} == {"l"}
    assert found.notes == [
        "left out: series o (3 slices, o): its description 'Thorax 3.0' names no dose",
        "left out: series b (1 slice, b): its description 'full dose, low dose' names both doses",
        "left out: series p (1 slice, p): its description 'Full dose projections' is of "
        "projections"]


@pytest.mark.parametrize(("descriptions", "message"), [
    (["Full Dose Images", "Full Dose Images"],
     r"no series is of the low dose .*found 'Full Dose Images' \(2 series\)$"),
    (["25% dose", "Thorax\n3.0"],
     r"no series is of the normal dose .*found '25% dose' \(1 series\), 'Thorax 3\.0' \(1 series"),
    (["", ""], r"no series is of the normal dose .*found '' \(2 series\)$"),
    (["Low dose", *map(str, range(12))], r"\(1 series\) and 3 more$")])
def test_a_dose_without_a_series_is_an_error_with_the_descriptions(descriptions, message):
    headers = [header for number, description in enumerate(descriptions)
               for header in series(f"s{number}", series_description=description)]
    with pytest.raises(InputError, match=message):
        doses.by_description(headers)
