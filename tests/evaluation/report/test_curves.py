"""Curves hold the values that they are given, and mark the checkpoint that was chosen."""

import numpy as np

from dfgan_jax.evaluation.report import curves
from tests.evaluation.report.case import history


def test_curves_leave_out_what_is_not_finite():
    rows = [{"kind": "valid", "step": s, "psnr": v}
            for s, v in [(1, 30.0), (2, float("nan")), (3, float("inf")), (4, 31.0)]]
    curve = curves.history_curve(rows, "valid", "psnr", "validation")
    np.testing.assert_array_equal(curve.steps, [1, 4])
    np.testing.assert_array_equal(curve.values, [30, 31])


def drawn_lines(**options):
    curve = curves.history_curve(history(), "valid", "psnr", "validation")
    options = {"loss": False, "chosen_step": None, "level": None} | options
    axes, = curves.draw_training([curve], theme=curves.THEMES[0], **options).axes
    return axes, {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_chosen_checkpoint_is_marked_with_its_value():
    axes, lines = drawn_lines(chosen_step=30)
    assert lines["validation"] == [[10, 41], [20, 42], [30, 43], [40, 44]]
    assert lines["chosen: 43"] == [[30, 43]]
    assert axes.lines[-1].get_xydata().tolist() == [[30, 0], [30, 1]]


def test_chosen_checkpoint_between_validations_is_marked_by_the_line_alone():
    axes, lines = drawn_lines(chosen_step=35)
    assert not [label for label in lines if label.startswith("chosen")]
    assert axes.lines[-1].get_xydata().tolist() == [[35, 0], [35, 1]]


def test_losses_have_a_logarithmic_axis_and_scores_do_not():
    assert drawn_lines(loss=True)[0].get_yscale() == "log"
    assert drawn_lines(loss=False)[0].get_yscale() == "linear"


def test_running_mean_keeps_length_and_uses_what_there_is_at_the_ends():
    mean = curves.running_mean(np.array([1.0, 2.0, 3.0, 4.0, 8.0]), width=3)
    np.testing.assert_allclose(mean, [1.5, 2, 3, 5, 6])


def line(axes, number):
    return axes.lines[number].get_xydata().tolist()


def captured(monkeypatch):
    """The figures that are drawn in the light scheme."""
    figures = []

    def save(folder, name, title, draw):
        figures.append((name, title, draw(theme=curves.THEMES[0])))
        return {"name": name}

    monkeypatch.setattr(curves, "_save", save)
    return figures


def test_spectra_share_a_linear_axis_from_zero(tmp_path, monkeypatch):
    figures = captured(monkeypatch)
    curves.write_spectra(tmp_path, "noise", {
        "QDCT": {"frequencies": [0, 1, 2], "radial": [1.0, 50.0, 2.0]}, "None": None,
        "Model": {"frequencies": [0, 1, 2], "radial": [None, 5.0, 0.0]}}, frequency_unit="lp/cm")
    [(name, title, figure)] = figures
    axes, = figure.axes
    assert (name, title) == ("noise", "Noise power spectrum [HU² mm²]")
    assert axes.get_xlabel() == "spatial frequency [lp/cm]"
    assert axes.get_yscale() == axes.get_xscale() == "linear"
    assert axes.get_ylim() == (0, 52.5)
    assert axes.get_xlim() == (0, 2)
    assert line(axes, 0) == [[0, 1], [1, 50], [2, 2]]
    assert line(axes, 1) == []
    assert line(axes, 2)[1:] == [[1, 5], [2, 0]]


def test_terms_of_the_loss_are_shown_times_their_weights(tmp_path, monkeypatch):
    figures = captured(monkeypatch)
    rows = [{"kind": "train", "step": step, "intensity_loss": -2.0, "adversarial_loss": 0.5,
             "generator_loss": -0.5} for step in (10, 20)]
    curves.write_training(tmp_path, rows, chosen_step=None,
                          weights={"intensity": 1.5, "adversarial": 5.0, "real_label": 0.9})
    [(_, _, figure)] = [each for each in figures if each[0] == "loss_terms"]
    axes, = figure.axes
    assert sorted(zip(axes.get_legend_handles_labels()[1], (line(axes, 0), line(axes, 1)),
                      strict=True)) == [
        ("1.5 × intensity", [[10, -3], [20, -3]]), ("5 × adversarial", [[10, 2.5], [20, 2.5]])]


def test_no_spectrum_makes_no_figure(tmp_path):
    for spectra in ({}, {"QDCT": None}, {"QDCT": {"frequencies": [0.0], "radial": [0.0]}}):
        assert curves.write_spectra(tmp_path, "noise", spectra,
                                           frequency_unit="1/pixel") is None


def test_transfer_has_a_figure_for_each_contrast(tmp_path, monkeypatch):
    figures = captured(monkeypatch)

    def ttf(contrast_hu, value):
        return {"contrast_hu": contrast_hu, "frequencies": [0, 1], "ttf": [1.0, value]}

    curves.write_transfer(tmp_path, {
        "QDCT": [ttf(-800.0, 0.5), ttf(60.0, 0.6)], "None": None, "Model": [ttf(60.0, 0.7)]})
    assert [(name, title) for name, title, _ in figures] == [
        ("transfer_1", "Transfer at −800 HU"), ("transfer_2", "Transfer at +60 HU")]
    assert [[line(figure.axes[0], row) for row in range(3)] for *_, figure in figures] == [
        [[[0, 1], [1, 0.5]], [], []], [[[0, 1], [1, 0.6]], [], [[0, 1], [1, 0.7]]]]


def test_twenty_four_rows_are_told_apart():
    styles = [curves.line_style(row) for row in range(24)]
    assert len(set(styles)) == 24
    assert styles[0] == (0, "solid")
    assert styles[9] == (1, "dashed")
    for theme in curves.THEMES:
        assert len(set(theme.lines)) == 8


def test_the_frontier_joins_rows_that_no_row_beats_in_both():
    points = {"slow": (1.0, 5.0), "beaten": (2.0, 2.0), "fast": (100.0, 3.0)}
    figure = curves.draw_speeds(points, order=["QDCT", *points], theme=curves.THEMES[0])
    frontier, *rows = figure.axes[0].lines
    assert frontier.get_xydata().tolist() == [[100, 3], [1, 5]]
    assert {row.get_label(): row.get_xydata().tolist() for row in rows} == {
        name: [list(point)] for name, point in points.items()}
    assert figure.axes[0].get_xscale() == "log"
