import csv
import json

import numpy as np
import pytest

from dfgan_jax.evaluation import tables
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS
from dfgan_jax.evaluation.statistics import Sample
from dfgan_jax.evaluation.tables import Row

SAMPLE = Sample(["p", "p", "q", "q"], 4)


def scores(psnr):
    return {"psnr": np.array(psnr, float), "ssim": np.full(4, 0.5), "rmse_hu": np.arange(4.0),
            "data_range_hu": np.full(4, 4095.0)}


SCORES = {"QDCT": scores([30, 31, 33, 34]), "A": scores([32, 33, 35, 36]),
          "B": scores([33, 34, 36, 37])}
ROWS = {"QDCT": Row(kind="input"), "A": Row(kind="model", run=("Net", "same"), seed=1),
        "B": Row(kind="model", run=("Net", "same"), seed=2)}


def table():
    return tables.tabulate(FULL_RANGE, SCORES, ROWS, SAMPLE, size=64)


def test_means_intervals_and_stamp():
    found = table()
    assert [row["psnr"] for row in found["rows"]] == [32, 34, 35]
    # Two patients with means 30.5 and 33.5: resamples are one, the other, or both.
    assert found["rows"][0]["interval"]["psnr"] == pytest.approx((30.5, 33.5))
    assert (found["size"], found["data_range_hu"], found["window_hu"]) == (64, 4095.0, None)
    json.dumps(found, allow_nan=False)


def test_seeds_by_hand():
    [seeds] = table()["seeds"]
    assert (seeds["name"], seeds["members"]) == ("Net, 2 seeds", ["A", "B"])
    assert seeds["psnr"] == {"mean": 34.5, "sd": pytest.approx(0.5**0.5)}


@pytest.mark.parametrize("other", [
    Row(kind="model", run=("Net", "other"), seed=2), Row(kind="model", run=("Net", "same"), seed=1),
    Row(kind="model")])
def test_a_model_of_its_own_has_no_seeds(other):
    rows = {**ROWS, "B": other}
    assert tables.tabulate(FULL_RANGE, SCORES, rows, SAMPLE, size=64)["seeds"] == []


def test_all_pairs_of_rows_are_tested():
    tests = [test for test in table()["tests"] if test["metric"] == "psnr"]
    assert [(t["first"], t["second"], t["median_difference"]) for t in tests] == [
        ("QDCT", "A", -2.0), ("QDCT", "B", -3.0), ("A", "B", -1.0)]
    # Four slices that all differ one way: 2 / 2⁴, times the three pairs.
    assert {(t["n"], t["p"], t["p_holm"]) for t in tests} == {(4, 0.125, 0.375)}


def test_text_shows_each_number_with_its_interval():
    text = tables.as_text({"slices": 4, "protocols": {"full_range": table()},
                           "statistics": {"notes": ["A note."]}})
    assert "full_range: 4 slices at 64, data range 4095 HU" in text
    assert "32.000 (30.500 to 33.500)" in text
    assert "34.500 ± 0.707" in text
    assert text.endswith("A note.")


def test_text_ends_with_the_first_protocol_and_writes_no_infinity():
    infinite = {**table(), "rows": [{**row, "psnr": np.inf} for row in table()["rows"]]}
    text = tables.as_text({"slices": 4, "protocols": {"full_range": table(), "dugan": infinite},
                           "statistics": {"notes": []}})
    assert text.index("dugan: 4 slices") < text.index("full_range: 4 slices")
    assert "inf" not in text
    assert "–" in text.split("full_range")[0]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_by_slice_and_by_patient(tmp_path):
    redcnn = PROTOCOLS["redcnn"]
    tables.write_slices_csv(tmp_path / "s.csv", {"redcnn": SCORES}, [redcnn], SAMPLE, size="64×48",
                            numbers=[0, 1, 5, 6])
    tables.write_patients_csv(tmp_path / "p.csv", {"redcnn": SCORES}, [redcnn], SAMPLE,
                              size="64×48")
    slices, patients = read(tmp_path / "s.csv"), read(tmp_path / "p.csv")
    assert len(slices) == 12
    assert slices[2] == {
        "slice": "5", "patient": "q", "protocol": "redcnn", "window_low_hu": "-160.0",
        "window_high_hu": "240.0", "data_range_hu": "4095", "size": "64×48", "name": "QDCT",
        "psnr": "33.000000", "ssim": "0.500000", "rmse_hu": "2.000000", "vif": ""}
    assert [(line["patient"], line["slices"], line["psnr"]) for line in patients[:2]] == [
        ("p", "2", "30.500000"), ("q", "2", "33.500000")]


def test_patients_that_are_not_known_leave_no_file(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("of an earlier evaluation")
    tables.write_patients_csv(path, {"full_range": SCORES}, [FULL_RANGE], Sample(None, 4), size=64)
    assert not path.exists()


def test_what_is_not_finite_is_left_empty(tmp_path):
    equal = {"A": scores([np.inf, 30, 30, 30])}
    tables.write_slices_csv(tmp_path / "s.csv", {"full_range": equal}, [FULL_RANGE], SAMPLE,
                            size=64, numbers=range(4))
    equal["A"]["data_range_hu"][:] = np.nan
    tables.write_patients_csv(tmp_path / "p.csv", {"full_range": equal}, [FULL_RANGE], SAMPLE,
                              size=64)
    assert read(tmp_path / "p.csv")[0]["data_range_hu"] == ""
    assert [line["psnr"] for line in read(tmp_path / "s.csv")][:2] == ["", "30.000000"]


@pytest.mark.parametrize(("shape", "size"), [((3, 64, 64), 64), ((3, 64, 48), "64×48")])
def test_size(shape, size):
    assert tables.size_of(shape) == size
