import numpy as np
import pytest

from benchmarks.ceiling import ceiling, clipped_mean, removed_anatomy
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS
from dfgan_jax.scans.tissues import body_mask

REDCNN = PROTOCOLS["redcnn"]


def noise(dose_fraction, std):
    """What a low dose adds, and the noise of the normal dose, of standard deviation `std` [HU]."""
    rng = np.random.default_rng(0)
    own, added = rng.standard_normal((2, 2, 96, 96)) * std
    return added * np.sqrt(1 / dose_fraction - 1), own


@pytest.mark.parametrize("dose_fraction", [0.25, 0.5])
@pytest.mark.parametrize("protocol", [FULL_RANGE, REDCNN])
def test_it_is_the_share_of_the_dose_where_nothing_is_clipped(dose_fraction, protocol):
    added, own = noise(dose_fraction, 10.0)
    gain = ceiling(np.full(own.shape, 40.0), added, own, dose_fraction=dose_fraction,
                   protocol=protocol)
    assert gain == pytest.approx(10 * np.log10(1 / dose_fraction), abs=0.1)


@pytest.mark.parametrize("level_hu", [-160.0, -100.0, 40.0])
def test_no_share_of_the_noise_is_a_better_estimate_in_a_window(level_hu):
    added, own = noise(0.25, 40.0)
    anatomy = np.full(own.shape, level_hu)
    best = ceiling(anatomy, added, own, dose_fraction=0.25, protocol=REDCNN)

    def psnr(images):
        return REDCNN.score(images.astype(np.float32), (anatomy + own).astype(np.float32))["psnr"]

    others = [(psnr(anatomy + share * (own + added)) - psnr(anatomy + own + added)).mean()
              for share in (0.0, 0.1, 0.2, 0.25, 0.3, 0.5)]
    assert best > max(others) - 0.01


def test_the_mean_of_clipped_gaussians_is_that_of_draws():
    mean, std = np.array([-500.0, -150.0, 40.0, 260.0]), np.array([1.0, 60.0, 5.0, 40.0])
    draws = mean + std * np.random.default_rng(0).standard_normal((200_000, 4))
    np.testing.assert_allclose(clipped_mean(mean, std, -160.0, 240.0),
                               draws.clip(-160, 240).mean(0), atol=0.5)


def test_the_normal_doses_noise_counts_as_anatomy_where_it_is_removed():
    """Noise of 40 HU in a tenth of a body of 5 HU passes the threshold of noise, like an edge."""
    added, own = noise(0.25, 5.0)
    own[0, :30, :30] *= 8
    ndct, qdct = own, own + added
    bodies = np.stack([body_mask(hu, margin=2) for hu in ndct])
    strong = own[0, :30, :30][bodies[0, :30, :30]]
    expected = 0.75 * np.sqrt((strong**2).sum() / bodies.sum())
    assert removed_anatomy(0.25 * (own + added), ndct, qdct) == pytest.approx(expected, rel=0.01)
    assert removed_anatomy(ndct, ndct, qdct) < 0.5
