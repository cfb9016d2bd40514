"""Pictures: grey and colours are what the numbers say, pixel for pixel."""

import matplotlib
import numpy as np

from dfgan_jax.evaluation.report import pictures
from dfgan_jax.scans.windows import Window


def test_colours_run_from_blue_through_the_middle_to_red():
    colours = np.frombuffer(pictures.palette(), np.uint8).reshape(-1, 3)
    expected = matplotlib.colormaps["RdBu_r"]([0.0, 0.5, 1.0], bytes=True)[:, :3]
    np.testing.assert_array_equal(colours[[0, 127, 254]], expected)


def test_window_spans_black_to_white():
    image = np.array([[-1e4, -150.0, 50.0, 250.0, np.nan]], np.float32)
    grey = pictures.windowed(image, Window(-150.0, 250.0))
    assert grey.tolist() == [[0, 0, 128, 255, 0]]


def test_spectrum_is_shown_in_decibels_below_the_highest():
    spectrum = np.array([[100.0, 10.0], [0.1, 0.0]])
    # 0, −10, −30 and −∞ dB on a scale of 30 dB: all, two thirds, nothing, nothing.
    assert pictures.decibel_levels(spectrum, highest=100.0).tolist() == [[255, 170], [0, 0]]
    nothing = pictures.decibel_levels(np.zeros((2, 2)), highest=0.0)
    assert nothing.tolist() == [[0, 0], [0, 0]]


def test_scale_holds_all_but_a_hundredth_in_whole_steps():
    noise = np.arange(-100.0, 51.0)
    assert pictures.difference_limit_hu(noise) == 100.0
    assert pictures.difference_limit_hu(noise / 5) == 20.0
    assert pictures.difference_limit_hu(noise / 5, step=3.0) == 21.0
    assert pictures.difference_limit_hu(np.full(3, np.nan)) == 10.0
