import json

import numpy as np
import pytest

from dfgan_jax.evaluation.detectability import (
    CHANNELS,
    channel_outputs,
    channel_templates,
    detectability,
    hotelling,
)
from dfgan_jax.simulation.quality_phantom import Disc
from dfgan_jax.support.errors import InputError

LESIONS = tuple(Disc(x, y, 4.0, 10.0) for x, y in ((24.3, 25.0), (74.0, 26.6), (49.9, 72.5)))


def test_channels_are_those_of_abbey_and_barrett():
    offsets = np.arange(-128, 128.0)
    templates = channel_templates(offsets, offsets)
    assert templates.shape == (10, 256, 256)
    np.testing.assert_allclose((templates**2).sum(axis=(1, 2)), 1)
    response = np.abs(np.fft.fft2(templates))[:, 0, :128]
    f = np.arange(128) / 256
    f = np.stack([f, 1 - f])
    for j, measured in enumerate(response, start=1):
        sigma = 0.005 * 1.4**j
        channel = np.exp(-0.5 * (f / (1.67 * sigma)) ** 2) - np.exp(-0.5 * (f / sigma) ** 2)
        # Sampled by pixels, the finest reaches beyond Nyquist: 1 − f looks like f.
        expected = channel.sum(axis=0)
        np.testing.assert_allclose(measured / measured.max(), expected / expected.max(),
                                   atol=0.005)


def test_channels_are_centred_on_the_lesion():
    image = np.zeros((1, 100, 100))
    image[0, 60, 41] = 1.0
    outputs = channel_outputs(image, [Disc(41.0, 60.0, 3.0, 1.0)], pixel_spacing_mm=2.0)
    templates = channel_templates(np.arange(-10, 11.0), np.arange(-10, 11.0))
    np.testing.assert_allclose(outputs[0, 0], templates[:, 10, 10])
    # Between pixels, too: the same offset to either side gives the same.
    left, right, above, below = (
        channel_outputs(image, [Disc(x, y, 3.0, 1.0)], pixel_spacing_mm=2.0)
        for x, y in ((40.6, 60.0), (41.4, 60.0), (41.0, 59.6), (41.0, 60.4)))
    np.testing.assert_allclose([right, above, below], [left] * 3)
    assert outputs[0, 0, 9] > 1.2 * left[0, 0, 9]


def test_a_signal_of_one_channel_in_white_noise():
    """In white noise of σ a signal s within the channels' span has d′ = |s| / σ."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, (2, 120, 100, 100))
    signal = np.zeros((100, 100))
    for lesion in LESIONS:
        rows, columns = (np.arange(round(centre) - 20, round(centre) + 21)
                         for centre in (lesion.y, lesion.x))
        signal[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1] += (
            24 * channel_templates(columns - lesion.x, rows - lesion.y)[7])
    d_prime, error = hotelling(*(channel_outputs(images, LESIONS, pixel_spacing_mm=1.0)
                                 for images in (noise[0] + signal, noise[1])))
    assert d_prime == pytest.approx(2, abs=3 * error)
    assert 0.05 < error < 0.12


def outputs(rng, difference, *, repeats=8, places=4):
    shape = (repeats, places, CHANNELS)
    present, absent = rng.standard_normal((2, *shape))
    present[..., 0] += difference
    return present, absent


@pytest.mark.parametrize("difference", [1.5, 3.0])
def test_few_samples_give_no_bias_and_their_own_error(difference):
    """Without the correction, 56 degrees of freedom for ten channels give d′² + 40 %."""
    rng = np.random.default_rng(1)
    trials = np.array([hotelling(*outputs(rng, difference)) for _ in range(300)])
    assert (trials[:, 0] ** 2).mean() == pytest.approx(difference**2, rel=0.06)
    # The jackknife is known to be a little wide.
    assert trials[:, 1].mean() == pytest.approx(trials[:, 0].std(), rel=0.35)


def test_nothing_to_detect():
    rng = np.random.default_rng(2)
    trials = np.array([hotelling(*outputs(rng, 0.0, repeats=40)) for _ in range(50)])
    assert np.median(trials[:, 0]) < 0.3
    assert trials[:, 0].max() < 0.7
    assert 0.2 < (trials[:, 0] == 0).mean() < 0.8  # d′² is as often below 0 as above
    assert np.isfinite(trials).all()
    assert (trials[:, 1] > 0).all()


def test_linear_mixing_and_known_places_change_nothing():
    rng = np.random.default_rng(3)
    present, absent = outputs(rng, 2.0)
    expected = hotelling(present, absent)
    mixing = rng.standard_normal((CHANNELS, CHANNELS))
    background = 50 * rng.standard_normal((4, CHANNELS))
    np.testing.assert_allclose(hotelling(present @ mixing + background,
                                         absent @ mixing + background), expected, rtol=1e-6)


def test_too_few_or_unequal_samples_are_refused():
    rng = np.random.default_rng(4)
    with pytest.raises(InputError, match="3 repeats of 5 places; expected more for 10 channels"):
        hotelling(*outputs(rng, 1.0, repeats=3, places=5))
    hotelling(*outputs(rng, 1.0, repeats=3, places=6))
    with pytest.raises(InputError, match=r"shapes \(4, 9, 10\) and \(5, 9, 10\); expected"):
        hotelling(np.zeros((4, 9, 10)), np.zeros((5, 9, 10)))


def test_contrast_to_noise_by_hand():
    rng = np.random.default_rng(5)
    without = rng.normal(0, 5, (30, 100, 100)).astype(np.float32)
    with_lesions = rng.normal(0, 5, (30, 100, 100)).astype(np.float32)
    pattern = rng.normal(0, 50, (100, 100)).astype(np.float32)  # the same in all repeats
    without += pattern
    with_lesions += pattern
    for lesion in LESIONS:
        with_lesions[:, lesion.distance((100, 100)) < lesion.radius + 1] += 8
    measured = detectability(with_lesions, without, LESIONS, pixel_spacing_mm=0.9)
    assert measured.cnr == pytest.approx(8 / 5, rel=0.03)
    assert measured.contrast_hu == 10
    assert measured.diameter_mm == pytest.approx(7.2)
    expected = hotelling(*(channel_outputs(images, LESIONS, pixel_spacing_mm=0.9)
                           for images in (with_lesions, without)))
    assert (measured.d_prime, measured.d_prime_se) == expected
    fields = measured.as_json()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert set(fields) == {"contrast_hu", "diameter_mm", "cnr", "d_prime", "d_prime_se"}


def test_without_noise_nothing_is_claimed():
    flat = np.zeros((30, 100, 100), np.float32)
    measured = detectability(flat + 1, flat, LESIONS, pixel_spacing_mm=0.9)
    assert (measured.cnr, measured.d_prime, measured.d_prime_se) == (None, None, None)
