import pytest

from dfgan_jax.scans.pixel_pitch import square_pitch


@pytest.mark.parametrize(("spacing_mm", "pitch"), [
    ((0.7, 0.7), 0.7), ((0.703125, 0.7031), 0.703125), ((0.7, 0.8), None), (None, None),
    ((0.0, 0.0), None), ((-0.7, -0.7), None)])
def test_square_pixels_have_one_pitch(spacing_mm, pitch):
    assert square_pitch(spacing_mm) == pitch
