"""The report clicked through in a browser: what a reader sees after each click.

Skipped where there is no Chromium; none is downloaded.
"""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from dfgan_jax.evaluation.report import curves, pictures
from tests.evaluation.report import case
from tests.evaluation.report.case import example, full_results, slices, write
from tests.evaluation.report.test_denoising import write as write_denoising

CHROMIUM = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A report with everything; one grey picture for all figures, which take the time."""
    folder = tmp_path_factory.mktemp("report")
    figure = pictures.png(np.full((4, 6), 128, np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "_png", lambda _: figure)
        write(folder, results=full_results(), slices=slices(), pictures=case.pictures(),
              examples=[example(size=32)])
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        # Tests may run as root, and in containers without a GPU.
        browser = started.chromium.launch(executable_path=CHROMIUM,
                                          args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Reader:
    """Someone with the report open."""

    def __init__(self, browser, address, *, viewport=WIDE, **options):
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)  # a busy machine
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.hear(message.type == "error", message.text))
        self.page.on("pageerror", lambda error: self.hear(True, str(error)))
        self.page.on("request", lambda request: self.hear(
            not request.url.startswith(("file:", "data:")), request.url))
        self.page.goto(address)

    def hear(self, wrong, words):
        if wrong:
            self.complaints.append(words)

    def part(self, name):
        return self.page.locator(f'[data-part="{name}"]')

    def settle(self):
        self.page.wait_for_selector('[data-part="stage"][aria-busy="false"]')

    def press(self, key):
        self.part("stage").focus()
        self.page.keyboard.press(key)

    def button(self, name):
        return self.page.locator("#slice-viewer").get_by_role("button", name=name, exact=True)

    def colour(self, column, row, *, canvas="first-picture"):
        """What a canvas holds at a pixel of the slice."""
        self.settle()
        return self.part(canvas).evaluate(
            "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]",
            [column, row])

    def grey(self, column, row, **options):
        red, green, blue, alpha = self.colour(column, row, **options)
        assert red == green == blue
        assert alpha == 255
        return red

    def drag(self, start, by):
        """With the mouse, from a place in the picture (fractions of it) by CSS pixels."""
        self.settle()
        self.part("stage").scroll_into_view_if_needed()
        box = self.part("first-picture").bounding_box()
        x, y = box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"]
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + by[0] / 2, y + by[1] / 2)
        self.page.mouse.move(x + by[0], y + by[1])
        self.page.mouse.up()

    def column_of(self, table, number):
        rows = self.page.locator(f'[aria-label="{table}"] tbody tr')
        return [row.split("\n")[0] for row in
                rows.locator(f"> :nth-child({number})").all_inner_texts()]


@pytest.fixture
def open_report(browser, address):
    readers = []

    def open_report(**options):
        readers.append(Reader(browser, address, **options))
        return readers[-1]

    yield open_report
    for reader in readers:
        reader.context.close()
        assert reader.complaints == []


def grey_of(hu, *, center=50, width=400):
    return min(max(round((hu - (center - width / 2)) * 255 / width), 0), 255)


# In slice k of `slices()`, NDCT at (column, row) is 10·column − 100 + k + 100·row HU.

def test_viewer_opens_split_between_input_and_model_in_the_middle_slice(open_report):
    reader = open_report()
    assert reader.button("Split").get_attribute("aria-pressed") == "true"
    # Slice 1, column 20, row 0: 101 HU, QDCT 30 above, the model 15 below:
    # (86 + 150) · 255 / 400 = 150.45.
    assert reader.grey(20, 0) == grey_of(131)
    assert reader.grey(20, 0, canvas="second-picture") == 150
    assert reader.part("slice-name").inner_text() == "Scan 1 (2 of 3)"
    # 15 HU off everywhere: 20 log10(4095 / 15) = 48.72 dB.
    assert reader.part("second-caption").inner_text() == (
        "AttnDFGAN\nPSNR 48.72 dB (range 4095 HU), RMSE 15.0 HU")
    assert reader.part("scale-length").count() == 0  # the pixel size is not known


def test_keys_work_without_a_click_while_the_viewer_is_in_sight(open_report):
    reader = open_report(viewport={"width": 1280, "height": 400})
    name = reader.part("slice-name")
    reader.settle()
    reader.page.keyboard.press("ArrowRight")
    assert name.inner_text().startswith("Scan 1")
    reader.part("stage").scroll_into_view_if_needed()
    reader.page.keyboard.press("ArrowRight")
    assert name.inner_text().startswith("Scan 2")
    reader.page.keyboard.press("2")
    assert reader.button("Lung").get_attribute("aria-pressed") == "true"
    reader.page.get_by_role("tab", name="published").focus()
    reader.page.keyboard.press("ArrowLeft")  # of the tabs
    assert name.inner_text().startswith("Scan 2")


def test_zoom_keeps_the_place_and_shift_moves_the_picture(open_report):
    reader = open_report()
    reader.button("One").click()
    reader.press("+")
    # Twice as large about the middle: column 16 − 8 + 20 / 2, row 12 − 6 + 10 / 2.
    assert reader.grey(20, 10) == grey_of(10 * 18 - 100 + 1 + 1100 + 30)
    reader.button("Full range").click()
    assert reader.grey(20, 10) == grey_of(1211, center=1023.5, width=4095)
    assert reader.part("zoom").inner_text() == "2×"
    width = reader.part("first-picture").bounding_box()["width"]
    reader.page.keyboard.down("Shift")
    reader.drag((0.5, 0.5), (width / 4, 0))  # an eighth of the slice: four columns to the left
    reader.page.keyboard.up("Shift")
    assert reader.grey(20, 10) == grey_of(1171, center=1023.5, width=4095)
    reader.part("stage").hover(position={"x": 20.5 / 32 * width, "y": 10.5 / 32 * width})
    assert "column 14, row 11: QDCT 1171 HU" in reader.part("readout").inner_text()
    reader.press("-")
    reader.press("-")  # no smaller than the whole
    assert reader.part("zoom").inner_text() == "1×"
    assert reader.grey(20, 10) == grey_of(10 * 20 - 100 + 1 + 1000 + 30, center=1023.5, width=4095)
    reader.page.keyboard.down("Shift")
    reader.page.mouse.wheel(0, -100)
    reader.page.keyboard.up("Shift")
    assert reader.part("zoom").inner_text() == "1.3×"
    reader.press("r")
    assert reader.part("zoom").inner_text() == "1×"


def test_links_unfold_their_sections(open_report):
    page = open_report().page
    assert page.locator("#physics .cards").first.is_hidden()
    page.get_by_role("link", name="Physics").click()
    # The click returns before the page hears of its new address.
    page.locator("#physics .cards").first.wait_for(state="visible")


@pytest.mark.parametrize(("viewport", "screens"), [
    ({"width": 1400, "height": 900}, 6), (PHONE, 6)])
def test_page_is_short_until_it_is_unfolded_and_prints_on_few_sheets(open_report, viewport,
                                                                     screens):
    page = open_report(viewport=viewport).page
    height = page.evaluate("document.documentElement.scrollHeight")
    assert height <= screens * viewport["height"]
    pages = re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))
    assert 1 <= len(pages) <= 8


def test_table_sorts_by_numbers_both_ways_with_dashes_last(open_report):
    reader = open_report()
    table = "Scores, full_range"
    head = reader.page.locator(f'[aria-label="{table}"] th').get_by_role("button", name="VIF")
    assert reader.column_of(table, 1) == ["QDCT", "AttnDFGAN", "Sharper"]
    head.click()
    assert reader.column_of(table, 5) == ["0.5000", "0.5000", "–"]
    psnr = reader.page.locator(f'[aria-label="{table}"] th').nth(1)
    psnr.get_by_role("button").click()
    assert reader.column_of(table, 2) == ["40.00", "45.50", "46.50"]
    assert psnr.get_attribute("aria-sort") == "ascending"
    psnr.get_by_role("button").click()
    assert reader.column_of(table, 1) == ["Sharper", "AttnDFGAN", "QDCT"]
    assert psnr.get_attribute("aria-sort") == "descending"
    head.click()
    head.click()
    assert reader.column_of(table, 5) == ["0.5000", "0.5000", "–"]
    assert psnr.get_attribute("aria-sort") == "none"
    reader.page.get_by_role("button", name="Image").first.click()
    assert reader.column_of(table, 1) == ["AttnDFGAN", "QDCT", "Sharper"]


def test_one_protocol_is_in_view_and_tabs_change_it(open_report):
    reader = open_report()
    full, published = (reader.page.locator(f"#protocol-{i}") for i in (1, 2))
    assert (full.is_visible(), published.is_visible()) == (True, False)
    reader.page.get_by_role("tab", name="published").click()
    assert (full.is_visible(), published.is_visible()) == (False, True)
    reader.page.keyboard.press("ArrowRight")  # round to the first
    assert (full.is_visible(), published.is_visible()) == (True, False)
    assert reader.page.get_by_role("tab", name="full_range").get_attribute(
        "aria-selected") == "true"
    reader.page.locator("#physics > summary").click()
    assert reader.page.locator("#transfer-2").is_hidden()
    reader.page.get_by_role("tab", name="f10").click()
    assert reader.page.locator("#transfer-2").is_visible()


def test_slices_change_by_slider_keys_and_wheel(open_report):
    reader = open_report()
    part, page = reader.part("slice-name"), reader.page
    part.scroll_into_view_if_needed()
    reader.part("slice").fill("2")
    assert part.inner_text() == "Scan 2 (3 of 3)"
    assert reader.grey(20, 0) == grey_of(132)  # one HU more than in slice 1
    for key, name in (("ArrowLeft", "Scan 1"), ("Home", "Scan 0"), ("ArrowUp", "Scan 1"),
                      ("PageUp", "Scan 2"), ("ArrowRight", "Scan 2")):
        reader.press(key)
        assert part.inner_text().startswith(name)
    reader.part("stage").hover()
    scrolled = page.evaluate("scrollY")
    page.mouse.wheel(0, -100)
    page.wait_for_function("document.querySelector('[data-part=slice]').value === '1'")
    assert page.evaluate("scrollY") == scrolled


def test_presets_and_numbers_set_the_window(open_report):
    reader = open_report()
    reader.button("Flip").click()
    reader.button("Lung").click()
    # (86 − (−1350)) · 255 / 1500 = 244.12.
    assert reader.grey(20, 0) == 244
    assert reader.button("Lung").get_attribute("aria-pressed") == "true"
    assert reader.button("Abdomen").get_attribute("aria-pressed") == "false"
    reader.press("3")
    assert reader.grey(20, 0) == grey_of(86, center=400, width=1800)  # 82.73
    assert reader.button("Bone").get_attribute("aria-pressed") == "true"
    reader.part("center").fill("86")
    reader.part("width").fill("2")
    reader.part("width").press("Enter")
    assert reader.grey(20, 0) == 128  # 127.5, half to even
    assert (reader.grey(19, 0), reader.grey(21, 0)) == (0, 255)


def test_drag_on_the_picture_sets_the_window(open_report):
    reader = open_report()
    # Right by 256 pixels doubles the width; down by 64 raises the centre by 400 · 64 / 256.
    reader.drag((0.1, 0.1), (256, 64))
    assert reader.part("width").input_value() == "800"
    assert reader.part("center").input_value() == "150"
    assert reader.grey(20, 0) == grey_of(131, center=150, width=800)


def test_flip_shows_the_other_image_in_place(open_report):
    reader = open_report()
    reader.button("One").click()
    assert reader.grey(20, 0) == grey_of(131)
    reader.button("Flip").click()
    assert reader.grey(20, 0) == grey_of(86)
    reader.press("f")
    assert reader.grey(20, 0) == grey_of(131)
    reader.part("first").select_option("NDCT")
    assert reader.grey(20, 0) == grey_of(101)
    assert reader.part("first-caption").inner_text() == "NDCT\nreference"


def shown(reader, across, down):
    """The colour on the screen at a place in the picture."""
    reader.settle()
    stage = Image.open(io.BytesIO(reader.part("stage").screenshot())).convert("RGB")
    return stage.getpixel((int(across * stage.width), int(down * stage.height)))


def test_split_shows_one_image_on_either_side_of_the_divider(open_report):
    reader = open_report()
    reader.part("second").select_option("NDCT")
    # Columns 8 and 24 of 32, row 1 of 24, well off the divider in the middle.
    first, second = grey_of(10 * 8 + 1 + 30), grey_of(10 * 24 + 1)
    assert shown(reader, 8.5 / 32, 1.5 / 24) == (first,) * 3
    assert shown(reader, 24.5 / 32, 1.5 / 24) == (second,) * 3
    width = reader.part("first-picture").bounding_box()["width"]
    reader.drag((0.5, 0.9), (-0.375 * width, 0))
    assert reader.part("divider").get_attribute("aria-valuenow") in ("12", "13")
    assert shown(reader, 8.5 / 32, 1.5 / 24) == (grey_of(10 * 8 + 1),) * 3
    assert reader.part("width").input_value() == "400"
    reader.part("divider").press("ArrowRight")
    assert reader.part("divider").get_attribute("aria-valuenow") in ("17", "18")
    assert reader.part("slice-name").inner_text().startswith("Scan 1")


def test_two_images_stand_side_by_side(open_report):
    reader = open_report()
    reader.button("Two").click()
    assert reader.grey(20, 0) == grey_of(131)
    assert reader.grey(20, 0, canvas="second-picture") == grey_of(86)
    boxes = [reader.part(f"{name}-picture").bounding_box() for name in ("first", "second")]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert reader.part("second-caption").inner_text().startswith("AttnDFGAN\nPSNR 48.72 dB")


def test_difference_has_the_colours_of_the_figures(open_report):
    reader = open_report()
    palette = np.frombuffer(pictures.palette(), np.uint8).reshape(-1, 3).tolist()
    reader.button("Difference").click()
    assert reader.part("first-caption").inner_text() == (
        "AttnDFGAN − QDCT\nmean −45.0 HU, SD 0.0 HU")
    reader.part("first").select_option("NDCT")
    # −15 HU on a scale of ±30 HU, of the noise: −63.5 levels, of which JavaScript makes −63.
    assert reader.part("highest").inner_text() == "+30 HU"
    assert reader.colour(20, 0)[:3] == palette[127 - 63]
    assert reader.part("first-caption").inner_text() == (
        "AttnDFGAN − NDCT\nmean −15.0 HU, SD 0.0 HU")
    reader.press("f")
    assert reader.colour(20, 0)[:3] == palette[127 + 64]
    reader.part("limit").fill("15")
    reader.part("limit").press("Enter")
    assert reader.colour(20, 0)[:3] == palette[254]
    reader.drag((0.1, 0.1), (512, 0))  # two doublings
    assert reader.part("limit").input_value() == "60"
    assert reader.colour(20, 0)[:3] == palette[127 + 32]  # 31.75
    reader.part("first").select_option("AttnDFGAN")
    reader.part("second").select_option("AttnDFGAN")
    assert reader.colour(20, 0)[:3] == palette[127]


def test_hu_under_the_pointer_are_read_out(open_report):
    reader = open_report()
    reader.settle()
    box = reader.part("first-picture").bounding_box()
    reader.part("stage").hover(position={"x": 20.5 / 32 * box["width"],
                                         "y": 3.5 / 24 * box["height"]})
    assert reader.part("readout").inner_text() == (
        "column 20, row 3: QDCT 431 HU, AttnDFGAN 386 HU, difference −45 HU")


def test_phone_never_scrolls_sideways_and_takes_touch(open_report):
    reader = open_report(viewport=PHONE, has_touch=True, is_mobile=True)
    page = reader.page
    reader.settle()
    for summary in page.locator("details.section > summary").all():
        summary.tap()
    for tab in page.get_by_role("tab").all():
        tab.tap()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for view in ("Two", "Split", "Difference", "One"):
        reader.button(view).tap()
        reader.settle()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.get_by_role("tab", name="full_range").tap()
    page.locator("summary", has_text="Paired tests").tap()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.evaluate("document.querySelector('[data-part=stage]').scrollIntoView()")
    box = reader.part("stage").bounding_box()
    touch = reader.context.new_cdp_session(page)
    for kind, x in (("touchStart", 20), ("touchMove", 148), ("touchMove", 276), ("touchEnd", None)):
        points = [] if x is None else [{"x": box["x"] + x, "y": box["y"] + 40}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert reader.part("width").input_value() == "800"


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"),
                                                ("dark", "rgb(14, 17, 20)")])
def test_page_follows_the_colour_scheme(open_report, scheme, ground):
    page = open_report(color_scheme=scheme).page
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground


def test_without_scripts_everything_but_the_viewer_is_there(open_report):
    page = open_report(java_script_enabled=False).page
    page.locator("#physics > summary").click()
    for panel in page.locator(".panel").all():
        assert panel.is_visible()
    assert page.locator("#slice-viewer").is_hidden()
    assert page.get_by_role("tablist").count() == 0
    page.locator("#examples > summary").click()
    assert page.locator("#examples img").first.is_visible()


def test_paper_has_the_chosen_protocol_and_no_viewer(open_report):
    page = open_report().page
    page.get_by_role("tab", name="published").click()
    page.emulate_media(media="print")
    assert page.locator("#protocol-1").is_hidden()
    assert page.locator("#protocol-2").is_visible()
    assert page.locator("#viewer").is_hidden()


def test_a_denoised_scan_is_compared_without_a_reference(tmp_path, browser):
    write_denoising(tmp_path / "r.html")
    reader = Reader(browser, (tmp_path / "r.html").as_uri())
    reader.settle()
    assert reader.part("first-caption").inner_text().strip() == "Input"
    assert reader.part("slice-name").inner_text() == "20 mm, b.dcm (2 of 2)"
    reader.button("Difference").click()
    reader.settle()
    # 3 HU more, and three quarters of a noise of 20 HU less.
    title, numbers = reader.part("first-caption").inner_text().split("\n")
    assert title == "Denoised − Input"
    mean, deviation = map(float, re.findall(r"[\d.]+", numbers))
    assert mean == pytest.approx(3, abs=0.6)
    assert deviation == pytest.approx(15, rel=0.05)
    reader.button("Split").click()
    reader.settle()
    assert reader.part("second-caption").inner_text().strip() == "Denoised"
    reader.button("Flip").click()
    reader.settle()
    assert reader.part("first-caption").inner_text().strip() == "Denoised"
    assert reader.complaints == []
    reader.context.close()
