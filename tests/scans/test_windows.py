from dfgan_jax.scans import windows
from dfgan_jax.scans.windows import Window


def test_a_window_has_ends_a_centre_and_a_width():
    assert Window.centered(-600.0, width=1500.0) == (-1350.0, 150.0)
    assert (Window(0.0, 80.0).center, Window(0.0, 80.0).width) == (40.0, 80.0)


def test_the_full_range_is_that_of_twelve_bits():
    assert windows.FULL_RANGE == (-1024.0, 3071.0)
    assert windows.FULL_RANGE.width == 2**12 - 1
