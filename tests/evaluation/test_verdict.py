"""The numbers and the words of the report's first screen."""

import numpy as np
import pytest

from dfgan_jax.evaluation.statistics import Sample
from dfgan_jax.evaluation.tables import Row
from dfgan_jax.evaluation.verdict import judge

ROWS = {"QDCT": Row(kind="input"), "Gaussian": Row(kind="baseline"),
        "total variation": Row(kind="baseline"), "DFGAN": Row(kind="model"),
        "RED-CNN": Row(kind="model"), "Old": Row(kind="model"),
        "DFGAN, self-ensemble": Row(kind="model", setting_of="DFGAN"),
        "RED-CNN, strength 0.9": Row(kind="model", setting_of="RED-CNN")}
RISE = np.arange(6.0)
"""PSNR of six slices above the row's base; the same in all rows, so gains are constant."""


def psnr(**bases):
    base = {"QDCT": 40.0, "Gaussian": 41.0, "total variation": 42.0, "DFGAN": 43.5,
            "RED-CNN": 43.0, "Old": 39.0, "DFGAN, self-ensemble": 50.0,
            "RED-CNN, strength 0.9": 51.0} | bases
    return {name: base[name] + RISE for name in ROWS}


def physics(*, model=3.0, low_dose=3.0, error=0.3):
    def lesions(d_prime):
        return {"detectability": [{"d_prime": d_prime - 1, "d_prime_se": error},
                                  {"d_prime": d_prime + 1, "d_prime_se": error}]}

    structure = {"DFGAN": 2.0, "Gaussian": 9.0, "total variation": 3.5, "QDCT": None}
    bias = {"DFGAN": -0.25, "QDCT": 0.5}
    return {"phantom": {"rows": {"DFGAN": lesions(model), "QDCT": lesions(low_dose),
                                 "NDCT": lesions(6.0), "RED-CNN": lesions(4.0)}},
            "slices": {"rows": {name: {"structure": rms and {"rms_hu": rms}, "tissues": {
                "soft tissue": {"bias_hu": bias.get(name)}}} for name, rms in structure.items()}}}


def verdict(model="DFGAN", *, scores=None, patients=None, origin="phantoms", **options):
    return judge(model, scores or psnr(), ROWS, Sample(patients or list("abcdef"), 6),
                 physics=options.pop("physics", physics()), origin=origin, size=64,
                 pixel_spacing_mm=0.75, **options)


def test_gains_are_over_the_input_and_the_best_of_each_kind_at_default_settings():
    found = verdict()
    gains = {gain.over: gain.psnr_db for gain in (found.over_input, found.over_baseline,
                                                  found.over_model)}
    assert gains == {"QDCT": 3.5, "total variation": 1.5, "RED-CNN": 0.5}
    # The gain is the same in every slice, so that every resample has it.
    assert found.over_baseline.interval == pytest.approx((1.5, 1.5))


def test_interval_is_of_the_differences_of_patients():
    scores = psnr() | {"DFGAN": 40.0 + RISE + np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])}
    # Half of six patients gain 3 dB: of 2⁶ resamples 1.6 % have no such gain, 11 % at most one.
    assert verdict(scores=scores).over_input.interval == pytest.approx((1 + 1 / 3, 3 - 1 / 3))


def test_interval_of_few_patients_is_students():
    scores = psnr() | {"DFGAN": 40.0 + RISE + np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])}
    found = verdict(scores=scores, patients=list("aaabbb")).over_input
    # Means of 1 and 3 dB: standard error 1 dB, and 12.706 is t of one degree of freedom.
    assert found.interval == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)
    assert verdict(scores=scores, patients=list("aaaaaa")).over_input.interval is None


def test_a_row_without_rivals_has_none():
    rows = {name: ROWS[name] for name in ("QDCT", "DFGAN")}
    found = judge("DFGAN", psnr(), rows, Sample(None, 6), physics={}, origin="unknown", size=64,
                  pixel_spacing_mm=None)
    assert (found.over_baseline, found.over_model, found.patients) == (None, None, None)
    assert found.bias_hu == found.anatomy_hu == found.detection == {}
    assert found.sentences() == [
        "In PSNR on these slices, DFGAN is 3.50 dB above the low dose.",
        "The patients of the slices are not known, so the numbers do not extend to others.",
        "The origin of the pairs is not known, and nothing here shows whether a finding survives."]


def test_physics_of_the_model_stands_beside_its_rivals():
    found = verdict()
    assert found.bias_hu == {"DFGAN": -0.25, "QDCT": 0.5}
    assert found.anatomy_hu == {"DFGAN": 2.0, "total variation": 3.5}
    # Two kinds of lesions of d′ 2 and 4, errors of 0.3 each: mean 3, error 0.3·√2/2.
    assert found.detection["DFGAN"].d_prime == 3.0
    assert found.detection["DFGAN"].standard_error == pytest.approx(0.2121, abs=1e-4)
    assert list(found.detection) == ["DFGAN", "QDCT", "NDCT"]


def test_removed_maps_of_slices_without_a_body_have_no_anatomy():
    measured = physics()
    for row in ("DFGAN", "total variation"):
        measured["slices"]["rows"][row]["structure"]["rms_hu"] = None
    assert verdict(physics=measured).anatomy_hu == {}


def test_a_lesion_without_d_prime_leaves_the_row_out():
    measured = physics()
    measured["phantom"]["rows"]["QDCT"]["detectability"][0]["d_prime"] = None
    found = verdict(physics=measured)
    assert list(found.detection) == ["DFGAN", "NDCT"]
    assert found.as_json()["lesions"] is None
    assert not any("lesions" in sentence for sentence in found.sentences())


def test_a_row_without_a_finite_mean_is_no_rival():
    """As slices of a user's own that are the normal dose."""
    scores = psnr() | {"Old": np.full(6, np.inf), "Gaussian": np.full(6, np.nan)}
    found = verdict(scores=scores)
    assert (found.over_baseline.over, found.over_model.over) == ("total variation", "RED-CNN")


def test_words_name_rivals_ahead_behind_and_level():
    assert verdict().sentences()[0] == (
        "In PSNR, DFGAN is 3.50 dB ahead of the low dose; 1.50 dB ahead of total variation, the "
        "best classical denoiser here; 0.50 dB ahead of RED-CNN, the best other network here.")
    behind = verdict(scores=psnr(DFGAN=41.5)).sentences()[0]
    assert "0.50 dB behind total variation" in behind
    assert "1.50 dB behind RED-CNN" in behind
    level = psnr() | {"DFGAN": psnr()["RED-CNN"] + np.tile([0.5, -0.5], 3)}
    assert "level with RED-CNN" in verdict(scores=level).sentences()[0]
    equal = verdict(scores=psnr() | {"DFGAN": np.full(6, np.inf)})
    assert "not comparable with the low dose" in equal.sentences()[0]


@pytest.mark.parametrize(("patients", "origin", "where", "few"), [
    ("aaabbb", "scans", "these 2 patients", "With 2 patients the numbers"),
    ("aaaaaa", "simulated dose", "this patient", "With 1 patient the numbers"),
    ("abcdee", "phantoms", "these 5 phantoms", "With 5 phantoms the numbers")])
def test_few_patients_have_a_difference_and_no_lead(patients, origin, where, few):
    """Every patient gains, but so do all of two in a quarter of samples without an effect."""
    found = verdict(scores=psnr(DFGAN=41.5), patients=list(patients), origin=origin)
    sentences = found.sentences()
    assert sentences[0] == (
        f"In PSNR on {where}, DFGAN is 1.50 dB above the low dose; 0.50 dB below total variation, "
        "the best classical denoiser here; 1.50 dB below RED-CNN, the best other network here.")
    assert sentences[-2] == f"{few} do not extend to others."
    assert {gain.decision for gain in (
        found.over_input, found.over_baseline, found.over_model)} == {"undecided"}


@pytest.mark.parametrize(("model", "words"), [
    (3.5, "no easier"), (3.7, "easier"), (2.3, "harder")])
def test_lesions_are_easier_or_harder_beyond_twice_the_error(model, words):
    # The error of the difference: 0.2121·√2 = 0.3, and twice that 0.6.
    found = verdict(physics=physics(model=model))
    assert found.sentences()[1] == f"Simulated lesions are {words} to detect than at the low dose."
    assert found.as_json()["lesions"] == ("level" if words == "no easier" else words)


def test_limits_depend_on_the_origin():
    def last(origin):
        return verdict(origin=origin).sentences()[-1]

    assert "Phantoms are not patients" in last("phantoms")
    assert "this package simulated the low dose" in last("simulated dose")
    # Files do not tell: the low dose of the AAPM-Mayo challenge is simulated, too, by its authors.
    assert last("scans").startswith("Whether the low dose was acquired or simulated is not known")
    assert "another scanner, kernel or dose" in last("scans")
    many = verdict(origin="scans")
    assert not any("do not extend" in sentence for sentence in many.sentences())
    assert many.as_json()["sentences"] == many.sentences()
    assert many.as_json()["over_input"] == {
        "over": "QDCT", "psnr_db": 3.5, "interval": pytest.approx((3.5, 3.5)), "decision": "ahead"}
