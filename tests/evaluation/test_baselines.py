import numpy as np
import pytest
import scipy.ndimage

from dfgan_jax.evaluation import baselines
from dfgan_jax.evaluation.baselines import BASELINES
from dfgan_jax.support.errors import InputError


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48] - 23.5
    ndct = np.where(np.hypot(x, y) < 15, 40.0, -900.0)[None].astype(np.float32)
    return (ndct + rng.normal(0, 20, ndct.shape)).astype(np.float32), ndct


def rmse(a, b):
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize("name", BASELINES)
def test_tuning_leaves_less_noise_and_keeps_hu(noisy, name):
    qdct, ndct = noisy
    baseline = BASELINES[name]
    parameters = baselines.tune(baseline, qdct, ndct)
    denoised = baseline.denoise(qdct[0], **parameters)
    assert rmse(denoised, ndct[0]) < (19.9 if name == "gaussian" else 12)
    # No rescaling of images: an offset of all HU stays one.
    moved = baseline.denoise(qdct[0] + np.float32(500), **parameters)
    np.testing.assert_allclose(moved - 500, denoised, atol=0.5)
    assert all(name in baseline.describe(parameters) for name in parameters)


def test_tuning_finds_the_best_gaussian(noisy):
    """Against a fine grid, by SciPy's filter."""
    qdct, ndct = noisy
    grid = np.arange(0.1, 1.5, 0.005)
    errors = [rmse(scipy.ndimage.gaussian_filter(qdct[0], sigma), ndct[0]) for sigma in grid]
    found = baselines.tune(BASELINES["gaussian"], qdct, ndct)["sigma"]
    assert found == pytest.approx(grid[np.argmin(errors)], abs=0.03)


def test_a_slice_that_is_blank_in_both_doses_changes_no_tuning(noisy):
    blank = np.full((1, 48, 48), -1024, np.float32)
    qdct, ndct = noisy
    alone = baselines.tune(BASELINES["gaussian"], qdct, ndct)["sigma"]
    both = baselines.tune(BASELINES["gaussian"], *(np.concatenate([each, blank])
                                                   for each in noisy))["sigma"]
    assert both == pytest.approx(alone, rel=0.03) != BASELINES["gaussian"].start(20.0)["sigma"]


def test_tuning_needs_noise(noisy):
    _, ndct = noisy
    with pytest.raises(InputError, match="nothing to tune"):
        baselines.tune(BASELINES["tv"], ndct, ndct)
