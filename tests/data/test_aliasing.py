import numpy as np
import pytest

from dfgan_jax.data.aliasing import aliasing_notes, share_read
from dfgan_jax.scans.resizing import resize


@pytest.mark.parametrize(("native", "resized"), [
    ((64, 64), (16, 16)), ((64, 64), (32, 32)), ((64, 64), (48, 48)), ((60, 64), (20, 32)),
    ((32, 32), (64, 64)), ((80, 80), (16, 16))])
def test_the_share_is_that_of_the_pixels_that_change_the_resized_slice(native, resized):
    """The sum of the resized slice depends on the pixels that the resize reads, and no others."""
    weights = np.zeros(native)
    for row in range(native[0]):
        for column in range(native[1]):
            one = np.zeros(native, np.float32)
            one[row, column] = 1
            weights[row, column] = resize(one, resized).sum()
    read = (weights > 1e-6).mean()
    assert share_read(native, resized) == pytest.approx(read)


def test_a_note_names_both_sizes_and_the_share_once():
    sizes = [((512, 512), (128, 128)), ((512, 512), (256, 256)), ((512, 512), (128, 128))]
    assert aliasing_notes(sizes) == [
        "The resize from 512×512 to 128×128 pixels has no antialiasing, as published: it reads "
        "25% of the pixels, so that noise and fine structure alias, unlike those of a scan with "
        "such pixels."]
