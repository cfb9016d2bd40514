"""The viewer's slices: packed text holds the HU given, within the budget."""

import base64
import re
import zlib

import numpy as np
import pytest

from dfgan_jax.evaluation.report import viewer
from dfgan_jax.evaluation.report.viewer import Slices
from dfgan_jax.support.errors import InputError
from tests.evaluation.report.case import Page, slices, write


def unpack(text, *, shape, step_hu):
    """(H, W) HU by the words of the module's docstring, one pixel after the other."""
    planes = zlib.decompress(base64.b64decode(text))
    size = shape[0] * shape[1]
    assert len(planes) == 2 * size
    levels: dict[tuple[int, int], int] = {}
    for i in range(size):
        y, x = divmod(i, shape[1])
        zigzag = planes[i] + 256 * planes[size + i]
        residual = zigzag // 2 if zigzag % 2 == 0 else -(zigzag + 1) // 2
        left, up, corner = (levels.get(place, 0) for place in
                            ((y, x - 1), (y - 1, x), (y - 1, x - 1)))
        level = residual + (3 * left + 3 * up - 2 * corner) // 4
        levels[y, x] = (level + 2**15) % 2**16 - 2**15
    hu = np.array([np.nan if level == viewer.UNDEFINED else level * step_hu
                   for level in levels.values()])
    return hu.reshape(shape)


@pytest.mark.parametrize("step_hu", [1, 2])
def test_packed_slice_holds_hu_to_half_a_step(step_hu):
    image = np.random.default_rng(0).normal(0, 800, (17, 23)).astype(np.float32)
    hu = unpack(viewer.pack(image, step_hu=step_hu), shape=image.shape, step_hu=step_hu)
    assert np.abs(hu - image).max() <= step_hu / 2
    np.testing.assert_array_equal(hu % step_hu, 0)


def test_extremes_are_clipped_and_what_is_not_finite_is_undefined():
    image = np.array([[-1e9, 1e9, -32767, 32767], [np.nan, np.inf, -np.inf, -1024]], np.float32)
    hu = unpack(viewer.pack(image, step_hu=1), shape=(2, 4), step_hu=1)
    np.testing.assert_array_equal(hu, [[-32767, 32767, -32767, 32767],
                                       [np.nan, np.nan, np.nan, -1024]])


def test_smooth_slices_pack_small():
    y, x = np.mgrid[:128, :128]
    assert len(viewer.pack((x + 2 * y).astype(np.float32), step_hu=1)) < 128 * 128 / 20


def noisy(count, *, size=32):
    random = np.random.default_rng(1)
    images = {name: random.normal(0, 30, (count, size, size)).astype(np.float32)
              for name in ("NDCT", "QDCT", "Model")}
    return Slices([str(i) for i in range(count)], images)


def embedded(given, **options):
    return viewer.embed(given, **({"model": "Model"} | options))


def size_of(shown):
    return sum(len(text) for row in shown["images"] for text in row)


def test_fifty_slices_are_shown_evenly_spaced_with_both_ends():
    shown = embedded(noisy(393, size=4))
    assert [len(row) for row in shown["images"]] == [50, 50, 50]
    # 392 / 49 = 8 apart.
    assert shown["data"]["slices"] == [str(i) for i in range(0, 393, 8)]


def test_budget_makes_hu_coarser_and_then_slices_fewer():
    given = noisy(20)
    fine = embedded(given)
    assert fine["step_hu"] == 1
    coarse = embedded(given, budget_bytes=size_of(fine) - 1)
    assert coarse["step_hu"] == 2
    assert len(coarse["data"]["slices"]) == 20
    fewer = embedded(given, budget_bytes=size_of(coarse) // 2)
    assert fewer["step_hu"] == 2
    assert 8 <= len(fewer["data"]["slices"]) <= 10
    assert size_of(fewer) <= size_of(coarse) // 2
    assert fewer["data"]["slices"][0] == "0"
    assert fewer["data"]["slices"][-1] == "19"
    least = embedded(given, budget_bytes=1)
    assert least["data"]["slices"] == ["10"]


def test_chosen_slices_are_the_ones_named():
    given = noisy(7)
    shown = embedded(given, budget_bytes=size_of(embedded(given)) // 2)
    assert 1 < len(shown["data"]["slices"]) < 7
    for row, images in zip(shown["images"], given.images.values(), strict=True):
        for name, text in zip(shown["data"]["slices"], row, strict=True):
            hu = unpack(text, shape=(32, 32), step_hu=shown["step_hu"])
            assert np.abs(hu - images[int(name)]).max() <= 1


def test_model_or_else_the_last_row_is_beside_the_input():
    given = noisy(1, size=4)
    for model, second in (("AttnDFGAN", 2), ("QDCT", 1), ("elsewhere", 2)):
        data = embedded(given, model=model)["data"]
        assert (data["first"], data["second"], data["reference"]) == (1, second, 0)


def test_window_fits_the_middle_slice():
    ndct = np.full((3, 128, 128), 40.0, np.float32)
    ndct[1, 24:104, 24:104] = -850.0
    given = viewer.Slices(["a", "b", "c"], {"NDCT": ndct, "QDCT": ndct})
    data = viewer.embed(given, model="QDCT")["data"]
    assert data["presets"][data["preset"]][0] == "Lung"
    ndct[1] = 40.0
    data = viewer.embed(given, model="QDCT")["data"]
    assert data["presets"][data["preset"]][0] == "Abdomen"


def test_difference_scale_is_of_the_noise():
    given = slices()  # 30 HU everywhere
    assert viewer.embed(given, model="")["data"]["limitHu"] == 30.0


@pytest.mark.parametrize(("change", "message"), [
    ({"images": {"NDCT": np.zeros((1, 2, 2))}}, "expected QDCT"),
    ({"names": ["a", "b"]}, r"\(1, 2, 2\); expected \(N, H, W\) for 2 names"),
    ({"images": {"NDCT": np.zeros((1, 2, 2)), "QDCT": np.zeros((1, 2, 3))}},
     r"QDCT has shape \(1, 2, 3\); expected \(1, 2, 2\)"),
    ({"names": [], "images": {"NDCT": np.zeros((0, 2, 2)), "QDCT": np.zeros((0, 2, 2))}},
     "N not 0"),
    ({"images": {"NDCT": np.zeros((2, 2)), "QDCT": np.zeros((2, 2))}}, r"\(N, H, W\)"),
])
def test_what_does_not_belong_together_is_refused(change, message):
    given = Slices(["a"], {"NDCT": np.zeros((1, 2, 2)), "QDCT": np.zeros((1, 2, 2))})
    with pytest.raises(InputError, match=message):
        viewer.embed(given._replace(**change), model="")


def test_page_says_so_where_scripts_do_not_run(tmp_path):
    page = write(tmp_path, slices=slices())
    assert re.search(r"<noscript><p>The viewer needs a script;[^<]*</p></noscript>", page)


def test_page_holds_every_slice_of_every_row(tmp_path):
    given = slices()
    found = {attributes["id"]: text for attributes, text in
             Page(write(tmp_path, slices=given)).scripts if "id" in attributes}
    assert len(found) == 1 + 3 * 3
    for row, images in enumerate(given.images.values()):
        for index, image in enumerate(images):
            hu = unpack(found[f"image-{row}-{index}"], shape=image.shape, step_hu=1)
            np.testing.assert_array_equal(hu, image)
