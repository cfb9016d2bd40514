"""Examples: every picture, its scores and its detail are of the images given."""

import numpy as np
import pytest
from PIL import Image

from dfgan_jax.evaluation.report import examples, pictures
from dfgan_jax.evaluation.report.page import Example
from dfgan_jax.scans.windows import Window
from dfgan_jax.support.errors import InputError
from tests.evaluation.report.case import Page, example, write


def pixels(folder, name):
    return Image.open(folder / "figures" / f"{name}.png")


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
    scores = examples._scores(ndct + np.float32(40.95), ndct)
    assert scores == pytest.approx({"psnr": 40.0, "rmse_hu": 40.95}, rel=1e-6)


def test_scores_are_written_under_the_pictures(tmp_path):
    ndct = np.zeros((32, 32), np.float32)
    page = write(tmp_path, examples=[
        Example("flat", ndct, ndct + np.float32(40.95), ndct + np.float32(4.095))])
    assert page.count("PSNR&nbsp;40.00&nbsp;dB<br>RMSE&nbsp;41.0&nbsp;HU") == 1
    assert page.count("PSNR&nbsp;60.00&nbsp;dB<br>RMSE&nbsp;4.1&nbsp;HU") == 1
    assert "range 4095 HU" in Page(page[page.index('id="examples"'):]).text


def test_differences_share_one_symmetric_scale(tmp_path):
    ndct = np.zeros((32, 32), np.float32)
    qdct, denoised = ndct.copy(), ndct.copy()
    qdct[:, :16], qdct[:, 16:] = 60.0, -60.0
    denoised[:, :16], denoised[:, 16:] = 20.0, -600.0
    page = write(tmp_path, examples=[Example("steps", ndct, qdct, denoised)])
    assert "−60 HU<i></i>+60 HU" in page
    images = {name: pixels(tmp_path, f"example_1_{name}")
              for name in ("qdct_minus_ndct", "denoised_minus_ndct", "denoised_minus_qdct")}
    levels = {name: (np.asarray(image)[0, 0], np.asarray(image)[0, -1])
              for name, image in images.items()}
    # 127 is zero; 127 levels are 60 HU; 20 HU are 42.3 levels, 40 HU 84.7.
    assert levels == {"qdct_minus_ndct": (254, 0), "denoised_minus_ndct": (169, 0),
                      "denoised_minus_qdct": (42, 0)}
    palettes = {bytes(image.getpalette()[: 3 * 255]) for image in images.values()}
    assert len(palettes) == 1
    assert palettes == {pictures.palette()}


def test_pictures_are_enlarged_by_a_whole_factor_without_interpolation(tmp_path):
    shown = example(size=96)
    write(tmp_path, examples=[shown])
    picture = np.asarray(pixels(tmp_path, "example_1_abdomen_qdct"))
    assert picture.shape == (480, 480)
    np.testing.assert_array_equal(picture[2::5, 2::5], pictures.windowed(
        shown.qdct, Window(-150.0, 250.0)))
    assert (picture == picture[2::5, 2::5].repeat(5, 0).repeat(5, 1)).all()


def test_detail_is_cut_at_the_same_place_from_all(tmp_path):
    ndct = example(size=256).ndct
    ndct[96:160, 64:192] = -850.0
    write(tmp_path, examples=[Example("lungs", ndct, ndct, ndct)])
    for window in ("abdomen", "lung"):
        details = [np.asarray(pixels(tmp_path, f"example_1_{window}_{key}_detail"))
                   for key in ("qdct", "denoised", "ndct")]
        assert details[0].shape == (512, 512)
        assert (details[0] == details[1]).all()
        assert (details[0] == details[2]).all()


def test_windows_fit_the_anatomy():
    body = example(size=256).ndct
    assert [view.name for view in examples.views_of(body)] == ["Abdomen"]
    # Of 32,700 pixels of the body, about 24·120 (9 %) and then 120² (44 %).
    body[112:144, 64:192] = -850.0
    assert [view.name for view in examples.views_of(body)] == ["Abdomen", "Lung"]
    body[64:192, 64:192] = -850.0
    assert [view.name for view in examples.views_of(body)] == ["Lung", "Abdomen"]
    y, x = np.mgrid[:256, :256] / 256 - 0.5
    radius = np.hypot(x, y)
    head = np.where(radius < 0.3, 35.0, np.where(radius < 0.42, 1100.0, -1000.0))
    assert [view.name for view in examples.views_of(head.astype(np.float32))] == ["Brain"]


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
    region = examples.detail_region(body_on_a_table(), tissue=(-150.0, 250.0), side=32)
    assert 50 <= region.top <= 66
    assert 60 <= region.left <= 76


def test_body_holds_lungs_but_no_table():
    image = body_on_a_table()
    image[40:60, 40:60] = -850.0
    image[:30, 60:68] = -1000.0  # a notch, open to the front
    body = examples.body_mask(image)
    assert body[50, 50]
    assert body[20, 50]
    assert not body[104:].any()
    assert not body[20, 64]


def test_no_detail_without_the_tissue():
    air = np.full((64, 64), -1000.0)
    lung, soft = (-950.0, -200.0), (-150.0, 250.0)
    assert examples.detail_region(body_on_a_table(), tissue=lung, side=32) is None
    assert examples.detail_region(air, tissue=soft, side=16) is None


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 41)])
def test_shapes_that_differ_are_rejected(tmp_path, shape):
    wrong = example(size=40)._replace(denoised=np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="slice 7"):
        write(tmp_path, examples=[wrong])


def test_images_that_are_not_square_or_tiny_are_shown(tmp_path):
    cut = [image[:40, :30] for image in example()[1:]]
    write(tmp_path, examples=[Example("wide", *cut),
                                       Example("tiny", *(image[:3, :3] for image in cut))])
