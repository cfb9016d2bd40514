"""The report stands alone, states every number with its range, and escapes what it is given."""

import base64
import copy
import html.parser
import io
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dfgan_jax.evaluation import report
from dfgan_jax.evaluation.report import Example, write_report

RESULTS = {
    "model": "AttnDFGAN",
    "config": {"batch_size": 16, "generator": {"width": 32}},
    "checkpoint": {"step": 30, "epoch": 3},
    "data": {"test": "simulated"},
    "slices": 600,
    "device": "TestDevice 9000",
    "versions": {"jax": "0.12.0"},
    "created": "2026-01-02T03:04:05+00:00",
    "protocols": {
        "full_range": {"data_range": 4095, "size": 256, "description": "Fixed range.", "rows": [
            {"name": "QDCT", "psnr": 40.0, "ssim": 0.9, "rmse_hu": 41.0},
            {"name": "AttnDFGAN", "psnr": 45.5, "ssim": 0.9512, "rmse_hu": 21.75},
            {"name": "Sharper", "psnr": 46.5, "ssim": 0.94, "rmse_hu": 22.0}]},
        "published": {"data_range": "moves with the prediction", "size": 128, "description": "",
                      "rows": [{"name": "QDCT", "psnr": 33.5, "ssim": 0.85, "rmse_hu": 41.0},
                               {"name": "AttnDFGAN", "psnr": 32.25, "ssim": 0.84,
                                "rmse_hu": 21.75}]},
    },
    "published": {"QDCT": {"psnr": 33.78583, "ssim": 0.853226},
                  "DFGAN": {"psnr": 37.43686, "ssim": 0.922514}},
}


def history(*, discriminator=True):
    rows = []
    for epoch in range(1, 5):
        train = {"kind": "train", "step": 10 * epoch, "epoch": epoch, "generator_loss": 1 / epoch,
                 "image_loss": 0.5 / epoch, "difference_loss": 0.5 / epoch}
        if discriminator:
            train |= {"adversarial_loss": 0.4, "discriminator_loss": 0.25 / epoch}
        rows += [train, {"kind": "valid", "step": 10 * epoch, "epoch": epoch,
                         "psnr": 40.0 + epoch, "ssim": 0.9, "rmse_hu": 20.0,
                         "generator_loss": 0.9 / epoch}]
    return rows


def example(name="slice 7", *, size=64, seed=0):
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    ndct = np.where(x**2 + y**2 < 0.16, 40.0, -1000.0).astype(np.float32)
    noise = random.normal(0, 30, (size, size)).astype(np.float32)
    return Example(name, ndct, ndct + noise, ndct + 0.25 * noise)


def write(folder, *, title="A run", results=RESULTS, rows=(), examples=()):
    path = write_report(folder, title=title, results=results, history=rows, examples=examples)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


class _Page(html.parser.HTMLParser):
    """Collects tags, references and the text outside of `<style>`."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.references, self.text, self._in_style = [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._in_style = tag == "style"
        self.references += [value for name, value in attrs
                            if name in ("src", "href", "srcset", "action", "data", "poster")]

    def handle_endtag(self, tag):
        self._in_style = False

    def handle_data(self, data):
        if not self._in_style:
            self.text += " " + " ".join(data.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, write(folder, rows=history(), examples=[example(), example("slice 8", seed=1)])


def pixels(folder, name):
    return Image.open(folder / "figures" / f"{name}.png")


def test_page_needs_nothing_but_itself(run):
    _, page = run
    found = _Page(page)
    assert len(found.references) > 30
    assert all(r.startswith(("data:image/png;base64,", "#")) for r in found.references)
    assert not {"script", "link", "iframe", "object", "base"} & set(found.tags)
    without_images = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//\w|@import|url\(", without_images)


def test_internal_links_lead_somewhere(run):
    _, page = run
    for reference in _Page(page).references:
        if reference.startswith("#"):
            assert f'id="{reference[1:]}"' in page


def test_figures_are_png_files_and_all_embedded(run):
    folder, page = run
    files = sorted((folder / "figures").iterdir())
    assert len(files) == 2 * 5 + 2 * (2 * 3 * 2 + 3)
    embedded = set(re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page))
    for file in files:
        data = file.read_bytes()
        assert Image.open(io.BytesIO(data)).format == "PNG"
        assert base64.b64encode(data).decode() in embedded


def test_headline_is_the_named_model_under_full_range(run):
    text = _Page(run[1]).text
    header = text[: text.index("Fixed range.")]
    for shown in ("+5.50", "+0.0512", "−19.2", "PSNR 40.00 → 45.50 dB", "SSIM 0.9000 → 0.9512",
                  "AttnDFGAN over QDCT", "test data: simulated"):
        assert shown in header


def test_headline_without_a_named_model_takes_the_highest_psnr(tmp_path):
    page = write(tmp_path, results={k: v for k, v in RESULTS.items() if k != "model"})
    assert "Sharper over QDCT" in _Page(page).text


def test_loss_against_qdct_is_shown_as_one(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["protocols"]["full_range"]["rows"][1]["psnr"] = 39.0
    page = write(tmp_path, results=results)
    assert page.count('class="tile worse"') == 1
    assert "−1.00" in _Page(page).text


def test_numbers_stand_in_the_tables(run):
    text = _Page(run[1]).text
    for shown in ("46.50", "0.9400", "22.00", "+6.50", "+0.0400",
                  "33.50", "32.25", "−1.25", "−0.0100",
                  "33.79", "0.8532", "37.44", "0.9225"):
        assert f" {shown} " in text


def test_best_of_each_column_is_marked(run):
    best = re.findall(r'<td class="best">([^<]+)', run[1])
    assert best == ["0.9512", "21.75", "46.50", "33.50", "0.8500", "21.75"]


def test_every_protocol_states_range_size_and_slices(run):
    cards = run[1].split("<h3>")
    for name, stamps in {"full_range": ("range 4095 HU", "256×256"),
                         "published": ("range moves with the prediction", "128×128")}.items():
        card = next(c for c in cards if c.startswith(name))
        for stamp in (*stamps, "600 slices"):
            assert f"<span>{stamp}</span>" in card


def test_published_numbers_are_labelled_as_other_data(run):
    assert run[1].count("not comparable unless run on the same data") == 1
    assert "Published, other data" in run[1]


def test_run_is_documented(run):
    text = _Page(run[1]).text
    for shown in ("TestDevice 9000", "0.12.0", '"batch_size": 16',
                  "Research software, not a medical device."):
        assert shown in text


@pytest.mark.parametrize("where", ["title", "config", "model", "protocol", "example", "data"])
def test_hostile_names_are_escaped(tmp_path, where):
    hostile = '"><script>alert(1)</script>'
    results = copy.deepcopy(RESULTS)
    if where == "config":
        results["config"] = {hostile: hostile}
    elif where == "model":
        results["protocols"]["full_range"]["rows"][1]["name"] = results["model"] = hostile
    elif where == "protocol":
        results["protocols"][hostile] = results["protocols"]["full_range"]
    elif where == "data":
        results["data"] = {hostile: hostile, "test": hostile}
    page = write(tmp_path, title=hostile if where == "title" else "A run", results=results,
                 examples=[example(hostile if where == "example" else "x", size=16)])
    assert "script" not in _Page(page).tags
    assert "alert(1)" in page


def test_only_protocols_and_slices_are_needed(tmp_path):
    results = {"slices": 1, "protocols": {"full_range": {
        **RESULTS["protocols"]["full_range"], "size": 0}}}
    text = _Page(write(tmp_path, results=results)).text
    assert "native size" in text
    assert "1 slice " in text
    for absent in ("None", "Configuration", "Published, other data"):
        assert absent not in text


def test_missing_full_range_is_an_error(tmp_path):
    results = {"slices": 1, "protocols": {"published": RESULTS["protocols"]["published"]}}
    with pytest.raises(KeyError, match="full_range"):
        write(tmp_path, results=results)


def test_empty_history_gives_no_curves(tmp_path):
    page = write(tmp_path, examples=[example()])
    assert 'id="training"' not in page
    assert not list((tmp_path / "figures").glob("*loss*"))


def test_supervised_history_has_no_discriminator(tmp_path):
    page = write(tmp_path, rows=history(discriminator=False))
    names = {file.stem for file in (tmp_path / "figures").iterdir()}
    assert {"validation_psnr", "generator_loss", "loss_terms"} <= names
    assert not [name for name in names if "discriminator" in name]
    assert "Discriminator" not in _Page(page).text


def test_curves_leave_out_what_is_not_finite():
    rows = [{"kind": "valid", "step": s, "psnr": v}
            for s, v in [(1, 30.0), (2, float("nan")), (3, float("inf")), (4, 31.0)]]
    curve = report._curve(rows, "valid", "psnr", "validation")
    np.testing.assert_array_equal(curve.steps, [1, 4])
    np.testing.assert_array_equal(curve.values, [30, 31])


def drawn_lines(**options):
    curve = report._curve(history(), "valid", "psnr", "validation")
    options = {"loss": False, "chosen_step": None, "level": None} | options
    axes, = report._draw_curves([curve], theme=report._THEMES[0], **options).axes
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


def test_report_marks_the_checkpoint_of_its_results(tmp_path, monkeypatch):
    steps = []

    def draw(curves, **options):
        steps.append(options["chosen_step"])
        return Figure()

    monkeypatch.setattr(report, "_draw_curves", draw)
    page = write(tmp_path, rows=history())
    assert set(steps) == {30}
    assert "step 30 (epoch 3)" in page


def test_running_mean_keeps_length_and_uses_what_there_is_at_the_ends():
    mean = report._running_mean(np.array([1.0, 2.0, 3.0, 4.0, 8.0]), width=3)
    np.testing.assert_allclose(mean, [1.5, 2, 3, 5, 6])


def test_nothing_not_finite_is_printed(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["protocols"]["full_range"]["rows"][1] |= {"psnr": float("nan"), "ssim": float("inf")}
    diverged = example()._replace(denoised=np.full((64, 64), np.nan, np.float32))
    perfect = example()._replace(denoised=example().ndct)
    page = write(tmp_path, results=results, examples=[diverged, perfect])
    assert not re.search(r"\b(nan|inf|infinity)\b", _Page(page).text, re.IGNORECASE)
    # What is not finite is never best.
    assert re.findall(r'<td class="best">([^<]+)', page)[:3] == ["21.75", "46.50", "0.9400"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_examples_are_all_shown(tmp_path, count):
    page = write(tmp_path, examples=[example(f"slice {i}", size=16, seed=i)
                                              for i in range(count)])
    assert page.count("<article") == count
    assert ('id="examples"' in page) == (count > 0)
    assert len(list((tmp_path / "figures").glob("*_qdct_minus_ndct.png"))) == count
    for i in range(count):
        assert f"slice {i}" in page


def test_scores_under_a_picture():
    ndct = np.zeros((8, 8), np.float32)
    # An error of 40.95 HU everywhere: 20 log10(4095 / 40.95) = 40 dB.
    scores = report._scores(ndct + np.float32(40.95), ndct)
    assert scores == pytest.approx({"psnr": 40.0, "rmse_hu": 40.95}, rel=1e-6)


def test_scores_are_written_under_the_pictures(tmp_path):
    ndct = np.zeros((32, 32), np.float32)
    page = write(tmp_path, examples=[
        Example("flat", ndct, ndct + np.float32(40.95), ndct + np.float32(4.095))])
    assert page.count("PSNR&nbsp;40.00&nbsp;dB<br>RMSE&nbsp;41.0&nbsp;HU") == 2
    assert page.count("PSNR&nbsp;60.00&nbsp;dB<br>RMSE&nbsp;4.1&nbsp;HU") == 2
    assert "range 4095 HU" in _Page(page[page.index('id="examples"'):]).text


def test_differences_share_one_symmetric_scale(tmp_path):
    ndct = np.zeros((32, 32), np.float32)
    qdct, denoised = ndct.copy(), ndct.copy()
    qdct[:, :16], qdct[:, 16:] = 60.0, -60.0
    denoised[:, :16], denoised[:, 16:] = 20.0, -600.0
    page = write(tmp_path, examples=[Example("steps", ndct, qdct, denoised)])
    assert "−60 HU<i></i>+60 HU" in page
    images = {name: pixels(tmp_path, f"example_1_{name}")
              for name in ("qdct_minus_ndct", "denoised_minus_ndct", "qdct_minus_denoised")}
    levels = {name: (np.asarray(image)[0, 0], np.asarray(image)[0, -1])
              for name, image in images.items()}
    # 127 is zero; 127 levels are 60 HU; 20 HU are 42.3 levels, 40 HU 84.7.
    assert levels == {"qdct_minus_ndct": (254, 0), "denoised_minus_ndct": (169, 0),
                      "qdct_minus_denoised": (212, 254)}
    palettes = {bytes(image.getpalette()[: 3 * 255]) for image in images.values()}
    assert len(palettes) == 1
    assert palettes == {report._palette()}


def test_colours_run_from_blue_through_the_middle_to_red():
    colours = np.frombuffer(report._palette(), np.uint8).reshape(-1, 3)
    expected = matplotlib.colormaps["RdBu_r"]([0.0, 0.5, 1.0], bytes=True)[:, :3]
    np.testing.assert_array_equal(colours[[0, 127, 254]], expected)


def test_window_spans_black_to_white():
    image = np.array([[-1e4, -150.0, 50.0, 250.0, np.nan]], np.float32)
    grey = report.windowed(image, window_center=50.0, window_width=400.0)
    assert grey.tolist() == [[0, 0, 128, 255, 0]]


def test_pictures_are_enlarged_by_a_whole_factor_without_interpolation(tmp_path):
    shown = example(size=96)
    write(tmp_path, examples=[shown])
    picture = np.asarray(pixels(tmp_path, "example_1_abdomen_qdct"))
    assert picture.shape == (480, 480)
    np.testing.assert_array_equal(picture[2::5, 2::5], report.windowed(
        shown.qdct, window_center=50.0, window_width=400.0))
    assert (picture == picture[2::5, 2::5].repeat(5, 0).repeat(5, 1)).all()


def test_detail_is_cut_at_the_same_place_from_all(tmp_path):
    shown = example(size=64)
    write(tmp_path, examples=[shown._replace(qdct=shown.ndct, denoised=shown.ndct)])
    for window in ("abdomen", "lung"):
        details = [np.asarray(pixels(tmp_path, f"example_1_{window}_{key}_detail"))
                   for key in ("qdct", "denoised", "ndct")]
        assert details[0].shape == (512, 512)
        assert (details[0] == details[1]).all()
        assert (details[0] == details[2]).all()


def body_on_a_table(size=128):
    """A disc of soft tissue with vessels low on the right, above a striped table."""
    y, x = np.mgrid[:size, :size]
    image = np.full((size, size), -1000.0)
    image[(x - 64) ** 2 + (y - 54) ** 2 < 45**2] = 40.0
    for i in range(3):
        image[66 + 7 * i: 69 + 7 * i, 72:92] = 140.0
    for i in range(0, size, 16):
        image[104:, i:i + 8], image[104:, i + 8:i + 16] = 240.0, -140.0
    return image.astype(np.float32)


def test_detail_is_found_in_the_patient_and_off_the_skin():
    region = report.detail_region(body_on_a_table(), tissue=(-150.0, 250.0), side=32)
    assert 50 <= region.top <= 66
    assert 60 <= region.left <= 76


def test_body_holds_lungs_but_no_table():
    image = body_on_a_table()
    image[40:60, 40:60] = -850.0
    image[:30, 60:68] = -1000.0  # a notch, open to the front
    body = report.body_mask(image)
    assert body[50, 50]
    assert body[20, 50]
    assert not body[104:].any()
    assert not body[20, 64]


def test_no_detail_without_the_tissue():
    assert report.detail_region(body_on_a_table(), tissue=(-950.0, -200.0), side=32) is None
    assert report.detail_region(np.full((64, 64), -1000.0), tissue=(-150.0, 250.0), side=16) is None


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 41)])
def test_shapes_that_differ_are_rejected(tmp_path, shape):
    wrong = example(size=40)._replace(denoised=np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="slice 7"):
        write(tmp_path, examples=[wrong])


def test_images_that_are_not_square_or_tiny_are_shown(tmp_path):
    cut = [image[:40, :30] for image in example()[1:]]
    write(tmp_path, examples=[Example("wide", *cut),
                                       Example("tiny", *(image[:3, :3] for image in cut))])


def test_file_stays_moderate(tmp_path):
    write(tmp_path, rows=history(), examples=[example(size=256, seed=i) for i in range(4)])
    assert (tmp_path / "report.html").stat().st_size < 8e6


def test_number_formats():
    assert report.format_number(1.005e3, 1) == "1005.0"
    assert report.format_number(-0.5, 2, signed=True) == "−0.50"
    assert report.format_number(None) == report.format_number(float("inf")) == "–"
    assert report.format_range(400.0) == "400 HU"
