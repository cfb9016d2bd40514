"""Tables: numbers, names and what they sort by."""

import math

import pytest

from dfgan_jax.evaluation.report import html_tables


def test_number_formats():
    assert html_tables.format_number(1.005e3, 1) == "1005.0"
    assert html_tables.format_number(-0.5, 2, signed=True) == "−0.50"
    assert html_tables.format_number(None) == html_tables.format_number(float("inf")) == "–"
    assert html_tables.format_range(400.0) == "400 HU"
    assert html_tables.format_window([-160.0, 240.0]) == "clipped to −160 … 240 HU"
    assert html_tables.format_window(None) == "not clipped"
    assert html_tables.format_count(1234567) == "1\N{NO-BREAK SPACE}234\N{NO-BREAK SPACE}567"
    assert html_tables.format_probability(0.00009) == "< 0.0001"
    assert html_tables.format_probability(0.0001) == "0.0001"
    assert html_tables.format_probability(None) == "–"


def test_cells_sort_by_the_number_itself_and_a_dash_by_nothing():
    assert html_tables.number_cell(-0.126, signed=True) == ("−0.13", -0.126, "", False)
    for missing in (None, float("nan"), float("inf")):
        assert html_tables.number_cell(missing) == ("–", None, "", False)


def test_gain_is_over_qdct_wherever_it_stands_and_best_is_lowest_rmse():
    rows = html_tables.score_rows([
        {"name": "A", "psnr": 41.0, "ssim": 0.9, "rmse_hu": 10.0, "vif": None},
        {"name": "QDCT", "psnr": 40.0, "ssim": 0.9, "rmse_hu": 12.0, "vif": 0.5}])
    assert [row["name"] for row in rows] == ["QDCT", "A"]
    assert rows[1]["gain"] == pytest.approx(
        {"psnr": 1.0, "ssim": 0.0, "rmse_hu": -2.0, "vif": math.nan}, nan_ok=True)
    assert [row["best"] for row in rows] == [{"ssim", "vif"}, {"psnr", "ssim", "rmse_hu"}]


def test_vif_has_a_column_only_where_a_row_has_it():
    scores = {"psnr": 40.0, "ssim": 0.9, "rmse_hu": 12.0}
    for extra, columns in (({}, 6), ({"vif": 0.5}, 7)):
        rows = html_tables.score_rows([{"name": "QDCT", **scores, **extra}])
        table = html_tables.score_table("full_range", rows)
        assert len(table.columns) == len(table.rows[0]) == columns
        assert ("VIF" in table.columns) == bool(extra)


def test_objects_that_a_row_lacks_are_dashes():
    lesion = {"contrast_hu": -10.0, "diameter_mm": 4.0, "cnr": 1.0, "d_prime": 2.0,
              "d_prime_se": None}
    other = lesion | {"diameter_mm": 8.0, "d_prime": None, "d_prime_se": 0.5}
    d_prime, cnr = html_tables.detectability_tables({
        "QDCT": {"detectability": [lesion]}, "Model": {"detectability": [other, lesion]},
        "Not measured": None})
    assert d_prime.columns == ["Image", "−10 HU, 4 mm", "−10 HU, 8 mm"]
    assert [[cell.text for cell in row] for row in d_prime.rows] == [
        ["QDCT", "2.00", "–"], ["Model", "2.00", "–"]]
    assert [cell.small for cell in d_prime.rows[1]] == ["", "", "± 0.50"]
    assert [[cell.key for cell in row] for row in cnr.rows] == [
        ["QDCT", 1.0, None], ["Model", 1.0, 1.0]]


def test_a_frequency_that_is_not_reached_has_its_reason():
    def ttf(**numbers):
        return {"ttf": [{"contrast_hu": -799.6, "f50": 3.0, "f10": None, "reason": "too noisy",
                         "recovered_contrast": 0.98765} | numbers]}

    f50, f10, contrast = html_tables.transfer_tables({"QDCT": ttf(), "Model": ttf(f50=None)})
    assert [table.name for table in (f50, f10, contrast)] == [
        "f50 [lp/cm]", "f10 [lp/cm]", "Recovered contrast"]
    assert f50.columns == ["Image", "−800 HU"]
    assert [(cell.text, cell.small) for _, cell in f50.rows] == [("3.00", ""), ("–", "too noisy")]
    assert [(cell.text, cell.small) for _, cell in f10.rows] == 2 * [("–", "too noisy")]
    assert contrast.rows[0][1] == html_tables.Cell("98.8 %", 0.98765)


def test_tissues_of_few_pixels_have_no_column():
    tissue = {"bias_hu": 1.0, "noise_std_hu": 2.0}
    bias, _ = html_tables.tissue_tables({"QDCT": {"tissues": {
        "lung": tissue | {"pixels": 99}, "fat": tissue | {"pixels": 100},
        "bone": {"bias_hu": None, "noise_std_hu": None, "pixels": 0}}}})
    assert bias.columns == ["Image", "fat (100 px)"]


def test_no_objects_make_no_tables():
    assert html_tables.transfer_tables({"QDCT": {"ttf": []}, "Model": None}) == []
    assert html_tables.tissue_tables({"QDCT": {"tissues": {}}}) == []
