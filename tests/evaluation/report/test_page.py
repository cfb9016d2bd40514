"""The report stands alone, states every number with its range, and escapes what it is given."""

import base64
import copy
import hashlib
import io
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dfgan_jax.evaluation.report import curves
from tests.evaluation.report.case import (
    RESULTS,
    VERDICT,
    Page,
    example,
    full_results,
    history,
    pictures,
    slices,
    write,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, write(folder, rows=history(), examples=[example(), example("slice 8", seed=1)])


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full_run")
    return folder, write(folder, results=full_results(), slices=slices(), pictures=pictures())


@pytest.fixture
def no_figures(monkeypatch):
    """Leaves out what takes the time."""
    monkeypatch.setattr(curves, "_png", lambda figure: b"")


def test_names_that_are_no_utf_8_are_escaped(tmp_path, no_figures):
    page = write(tmp_path, results=copy.deepcopy(RESULTS) | {"command": "main.py --input=a\udce9"})
    assert r"--input=a\udce9" in page


BEST = r'<td class="best"[^>]*>([^<]+)'


@pytest.mark.parametrize(("which", "fewest"), [("run", 30), ("full_run", 12)])
def test_page_needs_nothing_but_itself(request, which, fewest):
    _, page = request.getfixturevalue(which)
    found = Page(page)
    assert len(found.references) > fewest
    assert all(r.startswith(("data:image/png;base64,", "#")) for r in found.references)
    assert not {"link", "iframe", "object", "base"} & set(found.tags)
    without_data = re.sub(r"[A-Za-z0-9+/=]{100,}", "", page)
    assert not re.search(r"https?:|//\w|@import|url\(|fetch\(|import\(", without_data)


def test_policy_lets_the_pages_own_scripts_run_and_nothing_else(full_run):
    _, page = full_run
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    directives = dict(part.split(maxsplit=1) for part in policy.split("; "))
    scripts = [text for attributes, text in Page(page).scripts if "type" not in attributes]
    hashes = ["'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
              for script in scripts]
    assert len(hashes) == 3
    assert directives == {"default-src": "'none'", "img-src": "data:",
                          "style-src": "'unsafe-inline'", "script-src": " ".join(hashes)}


def test_without_slices_there_is_no_viewer(run):
    scripts = Page(run[1]).scripts
    assert [attributes for attributes, _ in scripts] == [{}, {}]
    assert 'id="viewer"' not in run[1]


@pytest.mark.parametrize("which", ["run", "full_run"])
def test_links_and_labels_lead_to_what_is_there_once(request, which):
    _, page = request.getfixturevalue(which)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    links = [r[1:] for r in Page(page).references if r.startswith("#")]
    labels = re.findall(r'aria-(?:controls|labelledby|describedby)="([^"]+)"', page)
    assert {"scores", "run"} <= set(links)
    assert {*links, *labels} <= set(ids)


def test_every_element_is_closed(full_run):
    void = {"meta", "img", "br", "input", "source"}
    opened = []

    class Nesting(Page):
        def handle_starttag(self, tag, attrs):
            super().handle_starttag(tag, attrs)
            if tag not in void:
                opened.append(tag)

        def handle_endtag(self, tag):
            super().handle_endtag(tag)
            assert opened.pop() == tag

    Nesting(full_run[1])
    # The standard lets a paragraph, an item and these three end by themselves; we let none.
    assert opened == []


def test_figures_are_png_files_and_all_embedded(run):
    folder, page = run
    files = sorted((folder / "figures").iterdir())
    # Two schemes of five curves; two examples of one window with details, and three differences.
    assert len(files) == 2 * 5 + 2 * (3 * 2 + 3)
    embedded = set(re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page))
    for file in files:
        data = file.read_bytes()
        assert Image.open(io.BytesIO(data)).format == "PNG"
        assert base64.b64encode(data).decode() in embedded


def header_of(page):
    return " ".join(Page(page[: page.index("</header>")]).text.split())


def test_headline_is_the_named_model_under_full_range(run):
    header = header_of(run[1])
    for shown in ("In PSNR, it is ahead. Phantoms are not patients.", "+5.50 dB PSNR over QDCT",
                  "600 slices", "simulated phantoms", "test data: simulated"):
        assert shown in header
    for absent in ("over Gaussian", "bias", "anatomy", "d′", "patient "):
        assert absent not in header


def test_first_screen_has_every_answer_and_what_the_verdict_calls_a_loss_in_red(full_run):
    page = full_run[1]
    header = header_of(page)
    for shown in ("+5.50 dB PSNR over QDCT 95 % interval +4.25 to +6.75",
                  "−1.25 dB over Gaussian, best classical 95 % interval −2.50 to −0.12",
                  "−1.00 dB over Sharper, best other network 95 % interval −2.50 to +0.50",
                  "+1.2 HU bias of soft tissue QDCT: −0.5 HU",
                  "4.6 HU anatomy removed, rms Gaussian: 3.2 HU",
                  "2.50 d′ of simulated lesions QDCT: 2.75, NDCT: 6.25",
                  "12 patients",
                  "pairs of scans, low dose acquired or simulated", "pixels of 0.78 mm"):
        assert shown in header
    worse = re.findall(r'class="tile worse"><b>([^<]*)', page)
    assert worse == ["−1.25", "+1.2", "4.6"]  # −1.00 dB is level, and so is d′


def test_lesions_that_are_harder_to_detect_are_in_red(tmp_path, no_figures):
    results = full_results()
    results["verdict"]["lesions"] = "harder"
    page = write(tmp_path, results=results)
    assert re.findall(r'class="tile worse"><b>([^<]*)', page)[-1] == "2.50"


def test_picture_of_the_first_screen_has_the_window_of_its_anatomy(tmp_path):
    page = write(tmp_path, overview=example("Slice 3"))
    header = header_of(page)
    for shown in ("QDCT", "Denoised", "NDCT", "Denoised − QDCT", "Slice 3",
                  "Abdomen window, −150 to 250 HU"):
        assert shown in header
    names = {file.stem for file in (tmp_path / "figures").iterdir()}
    assert names == {"overview_qdct", "overview_denoised", "overview_ndct", "overview_removed"}


def test_numbers_stand_in_the_tables(run):
    text = Page(run[1]).text
    for shown in ("46.50", "0.9400", "22.00", "+6.50", "+0.0400",
                  "33.50", "32.25", "−1.25", "−0.0100",
                  "33.79", "0.8532", "37.44", "0.9225"):
        assert f" {shown} " in text


def test_best_of_each_column_is_marked(run):
    best = re.findall(BEST, run[1])
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
    text = Page(run[1]).text
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
    assert [attributes for attributes, _ in Page(page).scripts] == [{}, {}]
    assert "alert(1)" in page


def test_hostile_names_stay_text_in_viewer_and_physics(tmp_path, no_figures):
    hostile = '</script><script>alert("1")</script><!--<script>$x_1$'
    results = full_results()
    row = results["protocols"]["full_range"]["rows"][1]
    row["name"] = results["model"] = row["parameters"] = hostile
    for part in results["physics"].values():
        part["rows"] = {hostile: part["rows"]["AttnDFGAN"]}
    given = slices()
    images = {hostile if name == "AttnDFGAN" else name: image
              for name, image in given.images.items()}
    shown = pictures()
    shown = {"spectra": {hostile: shown["spectra"]["QDCT"]}, "structure_slice": hostile,
             "structure": {hostile: shown["structure"]["AttnDFGAN"]}}
    page = write(tmp_path, results=results, slices=given._replace(names=[hostile] * 3,
                                                                  images=images), pictures=shown)
    found = Page(page)
    kinds = [attributes.get("type") for attributes, _ in found.scripts]
    assert kinds == [None, "application/json", *["text/plain"] * 9, None, None]
    data = json.loads(found.scripts[1][1])
    assert data["rows"][2] == data["slices"][0] == hostile
    assert found.text.count(hostile) >= 10


def test_only_protocols_and_slices_are_needed(tmp_path):
    results = {"slices": 1, "verdict": VERDICT, "protocols": {"full_range": {
        **RESULTS["protocols"]["full_range"], "size": 0}}}
    text = Page(write(tmp_path, results=results)).text
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
    assert "Discriminator" not in Page(page).text


def test_report_marks_the_checkpoint_of_its_results(tmp_path, monkeypatch):
    steps = []

    def draw(curves, **options):
        steps.append(options["chosen_step"])
        return Figure()

    monkeypatch.setattr(curves, "draw_training", draw)
    page = write(tmp_path, rows=history())
    assert set(steps) == {30}
    assert "step 30 (epoch 3)" in page


def test_nothing_not_finite_is_printed(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["protocols"]["full_range"]["rows"][1] |= {"psnr": float("nan"), "ssim": float("inf")}
    diverged = example()._replace(denoised=np.full((64, 64), np.nan, np.float32))
    perfect = example()._replace(denoised=example().ndct)
    page = write(tmp_path, results=results, examples=[diverged, perfect])
    assert not re.search(r"\b(nan|inf|infinity)\b", Page(page).text, re.IGNORECASE)
    # What is not finite is never best.
    assert re.findall(BEST, page)[:3] == ["21.75", "46.50", "0.9400"]


def test_file_stays_moderate(tmp_path):
    write(tmp_path, examples=[example(size=256)])
    assert (tmp_path / "report.html").stat().st_size < 2e6


def card(page, name):
    return next(c for c in page.split("<h3>") if c.startswith(name))


def test_window_of_each_protocol_is_stated(full_run):
    _, page = full_run
    assert "<span>not clipped</span>" in card(page, "full_range")
    assert "<span>clipped to −160 … 240 HU</span>" in card(page, "published")


def test_full_range_comes_first_and_is_open(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["protocols"] = dict(reversed(results["protocols"].items()))
    page = write(tmp_path, results=results)
    assert page.index("<h3>full_range") < page.index("<h3>published")
    panels = re.findall(r'class="(panel[^"]*)" role="tabpanel" id="(protocol-\d)"', page)
    assert panels == [("panel on", "protocol-1"), ("panel", "protocol-2")]


def test_intervals_seeds_tests_and_statistics_are_shown(full_run):
    found = Page(full_run[1]).text
    for shown in ("44.50 … 46.50", "baseline, σ 0.8 px", "AttnDFGAN, 2 seeds",
                  "AttnDFGAN, Second", "45.25", "± 0.12", "AttnDFGAN − QDCT", "+5.432",
                  "< 0.0001", "0.0123", "12 patients, 600 slices.",
                  "Patients were drawn, not slices."):
        assert shown in found


def test_numbers_that_are_null_are_dashes(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["protocols"]["full_range"]["rows"][1] |= {"psnr": None, "rmse_hu": None}
    results["verdict"]["over_input"]["psnr_db"] = None
    page = write(tmp_path, results=results)
    assert "– dB PSNR over QDCT" in header_of(page)
    assert "None" not in Page(page).text


def section(page, name):
    return Page(re.split(r"</section>|<details class=\"section\"|</main>",
                         page[page.index(f'id="{name}"'):])[0]).text


def test_physics_is_shown_row_by_row(full_run):
    found = section(full_run[1], "physics")
    for shown in ("256×256", "pixels of 1.41 mm", "16 scans of each object", "Discs in water.",
                  "31.50", "3.125", "−800 HU", "4.25", "98.7 %", "+20 HU, 8 mm", "2.75", "± 0.15",
                  "0.62", "lung (12 345 px)", "−1.50", "33.25", "12.3 %", "4.56",
                  "Mean frequency [1/pixel]", "Slice 12", "AttnDFGAN − QDCT",
                  "– above 0.1 up to the pixels' Nyquist frequency",
                  "– no patch lies within a body"):
        assert shown in found
    for hidden in ("bone", "99.25"):  # 99 pixels
        assert hidden not in found
    assert not re.search(r"\b(None|nan|inf)\b", found)


def test_physics_figures_are_in_both_colour_schemes_and_pictures_once(full_run):
    folder, page = full_run
    names = {file.stem for file in (folder / "figures").iterdir()}
    curves = {"noise_power_phantom", "noise_power_slices", "transfer_1", "transfer_2"}
    assert names == curves | {f"{name}_dark" for name in curves} | {
        "spectrum_1", "spectrum_2", "structure_1_removed", "structure_1_explained"}
    assert "−5 HU" not in section(page, "physics")
    assert "+2 HU" in section(page, "physics")  # the anatomy is 2 HU everywhere


def test_only_one_part_of_the_physics_is_needed(tmp_path, no_figures):
    for part in ("phantom", "slices"):
        results = full_results()
        results["physics"] = {part: results["physics"][part]}
        found = section(write(tmp_path, results=results), "physics")
        assert ("Discs in water." in found) == (part == "phantom")
        assert ("Test slices" in found) == (part == "slices")


def test_figures_of_an_earlier_report_are_gone_but_no_others(tmp_path):
    figures = tmp_path / "figures"
    figures.mkdir()
    stale = ("example_9_lung_qdct", "overview_removed", "spectrum_9", "structure_9_removed",
             "transfer_9_dark", "noise_power_slices")
    own = ("example_ndct", "overview_of_mine", "mine", "spectrum_of_mine", "structure_of_mine")
    for name in (*stale, *own):
        (figures / f"{name}.png").write_bytes(b"")
    write(tmp_path)
    assert {file.stem for file in figures.iterdir()} == set(own)


def test_viewer_names_the_rows_that_it_leaves_out(full_run):
    assert "Not in the viewer: Sharper." in section(full_run[1], "viewer")
    assert "3 of the 600 slices, evenly spaced" in section(full_run[1], "viewer")


def test_viewer_says_so_where_it_has_every_slice(tmp_path):
    page = write(tmp_path, results=RESULTS | {"slices": 3}, slices=slices())
    assert "All slices, " in section(page, "viewer")


def test_physics_of_a_model_that_diverged_is_shown_as_dashes(tmp_path, no_figures):
    results = full_results()
    for part in results["physics"].values():
        measured = r'("(?!contrast|diameter)\w+": )-?\d+\.\d+'
        part["rows"]["AttnDFGAN"] = json.loads(
            re.sub(measured, r"\1NaN", json.dumps(part["rows"]["AttnDFGAN"])))
    nothing = np.full((8, 8), np.nan)
    page = write(tmp_path, results=results, pictures={
        "spectra": {"AttnDFGAN": nothing}, "structure": {"AttnDFGAN": (nothing, nothing)}})
    assert not re.search(r"\b(nan|inf)\b", section(page, "physics"), re.IGNORECASE)


def test_speed_is_beside_quality(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["speed"] = {"AttnDFGAN": {"slices_per_s": 12.5, "gflop": 1.466},
                        "Sharper": {"slices_per_s": 0.25, "gflop": None}}
    page = write(tmp_path, results=results)
    table = page[page.index("<summary>Speed beside quality"):page.index("How to read the tables")]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table[table.index("<tbody>"):])
    assert cells == ["AttnDFGAN", "+5.50", "12.5", "80.0", "1.47",
                     "Sharper", "+6.50", "0.250", "4000.0", "–"]
    assert (tmp_path / "figures" / "speed.png").exists()
    write(tmp_path)
    assert not (tmp_path / "figures" / "speed.png").exists()
    assert "Speed beside quality" not in (tmp_path / "report.html").read_text()
