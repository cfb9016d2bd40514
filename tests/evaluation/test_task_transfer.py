import json

import numpy as np
import pytest
import scipy.ndimage

from dfgan_jax.evaluation.task_transfer import task_transfer
from dfgan_jax.simulation.quality_phantom import Disc
from dfgan_jax.support.errors import InputError

DISCS = (Disc(40.3, 44.8, 14.0, 200.0), Disc(121.6, 80.1, 14.0, 200.0))
SPACING_MM = 1.25


def blurred(sigma, discs=DISCS, contrast=200.0):
    """Discs averaged over pixels, from a grid eight times as fine, and a Gaussian blur."""
    fine = 8
    shape = np.array([130, 170]) * fine
    rows, columns = ((np.arange(length) + 0.5) / fine - 0.5 for length in shape)
    image = sum(np.hypot(columns - disc.x, rows[:, None] - disc.y) < disc.radius for disc in discs)
    image = image.reshape(130, fine, 170, fine).mean(axis=(1, 3)) * contrast
    return scipy.ndimage.gaussian_filter(image, sigma) if sigma else image


def pixel_transfer(f):
    """Of averaging over a square pixel, mean over directions; f in 1/pixel."""
    angle = np.linspace(0, np.pi / 4, 50)
    return np.mean(np.sinc(f[:, None] * np.cos(angle)) * np.sinc(f[:, None] * np.sin(angle)), 1)


@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0])
def test_blur_has_its_transfer(sigma):
    measured = task_transfer(blurred(sigma)[None].repeat(2, 0), DISCS, pixel_spacing_mm=SPACING_MM)
    f = measured.frequencies * SPACING_MM / 10
    np.testing.assert_allclose(f, np.linspace(0, 0.5, 41))
    expected = np.exp(-2 * np.pi**2 * sigma**2 * f**2) * pixel_transfer(f)
    np.testing.assert_allclose(measured.ttf, expected, atol=0.02)
    assert measured.contrast_hu == 200
    assert measured.recovered_contrast == pytest.approx(1, abs=2e-3)
    if sigma:
        crossings = np.interp([-0.5, -0.1], -expected, measured.frequencies)
        assert [measured.f50, measured.f10] == pytest.approx(crossings, rel=0.02)
        assert not measured.reason
    else:
        assert measured.f50 is None
        assert measured.f10 is None
        assert measured.reason == "above 0.5 up to the pixels' Nyquist frequency"


def test_a_small_disc_fills_few_bins():
    small = (Disc(40.3, 44.8, 5.5, 200.0),)
    images = blurred(0.7, discs=small)[None].repeat(2, 0)
    measured = task_transfer(images, small, pixel_spacing_mm=SPACING_MM)
    f = measured.frequencies * SPACING_MM / 10
    expected = np.exp(-2 * np.pi**2 * 0.49 * f**2) * pixel_transfer(f)
    np.testing.assert_allclose(measured.ttf[:25], expected[:25], atol=0.03)


def test_what_is_far_from_the_edge_hardly_counts():
    image = blurred(1.0)
    exact = task_transfer(image[None].repeat(2, 0), DISCS, pixel_spacing_mm=SPACING_MM)
    for disc in DISCS:
        image += 15 * np.exp(-((disc.distance(image.shape) - disc.radius + 9) ** 2))
    measured = task_transfer(image[None].repeat(2, 0), DISCS, pixel_spacing_mm=SPACING_MM)
    np.testing.assert_allclose(measured.ttf, exact.ttf, atol=0.06)  # 0.09 untapered


def test_a_darker_disc_of_half_its_contrast():
    """Linear in the image: a lost half of the contrast is no blur."""
    dark = tuple(disc._replace(contrast_hu=-200.0) for disc in DISCS)
    images = blurred(1.0, contrast=-100.0)[None].repeat(2, 0)
    images[..., 80:] += 30  # the discs need not lie on the same background
    measured = task_transfer(images, dark, pixel_spacing_mm=SPACING_MM)
    bright = task_transfer(blurred(1.0)[None].repeat(2, 0), DISCS, pixel_spacing_mm=SPACING_MM)
    assert measured.recovered_contrast == pytest.approx(0.5, abs=2e-3)
    np.testing.assert_allclose(measured.ttf, bright.ttf, atol=1e-9)


def test_noise_forbids_the_frequencies_of_a_low_contrast():
    noise = np.random.default_rng(0).normal(0, 60, (8, 130, 170))
    image = blurred(1.0)
    # 200 HU over 60 / √(8 · 2) HU: 13.3; over 48 / √16: 16.7.
    low = task_transfer(image + noise, DISCS, pixel_spacing_mm=SPACING_MM)
    assert low.f50 is None
    assert low.f10 is None
    assert low.reason.endswith("HU, not 15 times the noise of the mean, 15.0 HU")
    enough = task_transfer(image + 0.8 * noise, DISCS, pixel_spacing_mm=SPACING_MM)
    exact = task_transfer(image[None].repeat(2, 0), DISCS, pixel_spacing_mm=SPACING_MM)
    assert enough.f50 == pytest.approx(exact.f50, rel=0.15)
    assert enough.recovered_contrast == pytest.approx(1, abs=0.03)


def test_an_image_without_edges_has_no_transfer():
    measured = task_transfer(np.full((2, 130, 170), 7.0), DISCS, pixel_spacing_mm=SPACING_MM)
    assert not measured.ttf.any()
    assert measured.f50 is None
    assert measured.recovered_contrast == 0
    assert "contrast of 0 HU" in measured.reason


def test_one_disc_will_do_and_several_must_be_alike():
    images = blurred(0.0)[None].repeat(2, 0)
    one = task_transfer(images, DISCS[:1], pixel_spacing_mm=SPACING_MM)
    # Bins' centres in place of the mean distances of their pixels are off by 0.016.
    np.testing.assert_allclose(one.ttf, pixel_transfer(np.linspace(0, 0.5, 41)), atol=0.008)
    with pytest.raises(InputError, match=r"contrasts \[200.0, 50.0\]; expected one"):
        task_transfer(images, (DISCS[0], DISCS[1]._replace(contrast_hu=50.0)),
                      pixel_spacing_mm=SPACING_MM)


def test_json_holds_plain_numbers():
    fields = task_transfer(blurred(1.0)[None].repeat(2, 0), DISCS,
                           pixel_spacing_mm=SPACING_MM).as_json()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert set(fields) == {"contrast_hu", "frequencies", "ttf", "f50", "f10",
                           "recovered_contrast", "reason"}
