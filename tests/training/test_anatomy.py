import jax
import numpy as np
import pytest
import scipy.ndimage

from dfgan_jax.evaluation.structure import fit_structure
from dfgan_jax.scans import hounsfield
from dfgan_jax.training.anatomy import removed_anatomy

RNG = np.random.default_rng(0)


def phantom(size=48):
    """A slice of HU with a bone and noise."""
    ndct = RNG.normal(0, 10, (size, size))
    ndct[20:30, 12:26] += 800
    return ndct.astype(np.float32)


def normalised(hu):
    return hounsfield.normalise(hu)[..., None].astype(np.float32)


def rms_hu(denoised, ndct, qdct):
    power = removed_anatomy(*map(normalised, (denoised, ndct, qdct)))
    return np.sqrt(power) * hounsfield.HU_SCALE


def test_it_is_the_anatomy_that_the_evaluation_measures():
    ndct = np.stack([phantom(), phantom()])
    qdct = ndct + RNG.normal(0, 20, ndct.shape).astype(np.float32)
    denoised = np.stack([scipy.ndimage.gaussian_filter(each, 1) for each in qdct])
    whole = np.ones(ndct.shape[1:], bool)
    expected = [fit_structure(after - before, normal, whole)[0].rms_hu
                for after, normal, before in zip(denoised, ndct, qdct, strict=True)]
    np.testing.assert_allclose(rms_hu(denoised, ndct, qdct), expected, rtol=1e-3)
    assert np.min(expected) > 5  # the blurred edges of the bone


def test_air_around_the_body_counts_neither_in_the_fit_nor_in_the_mean():
    ndct = np.full((48, 96), -1000, np.float32)
    ndct[:, :48] = phantom()
    denoised = ndct.copy()
    denoised[:, :48] = scipy.ndimage.gaussian_filter(ndct[:, :48], 1)
    changed = denoised.copy()
    changed[:, 70:] += RNG.normal(0, 300, (48, 26))
    expected = rms_hu(denoised, ndct, ndct)
    assert rms_hu(changed, ndct, ndct) == pytest.approx(expected, rel=1e-5)
    without_air = [each[:, :64] for each in (denoised, ndct, ndct)]  # the Gaussians reach 16 pixels
    assert rms_hu(*without_air) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("hu", [-1000, 0])
def test_a_slice_without_anatomy_has_none_and_a_finite_gradient(hu):
    ndct = normalised(np.full((1, 32, 32), hu, np.float32))
    denoised = ndct + RNG.normal(0, 0.1, ndct.shape).astype(np.float32)
    value, slope = jax.value_and_grad(lambda image: removed_anatomy(image, ndct, ndct).sum())(
        denoised)
    assert float(value) == pytest.approx(0, abs=1e-9)
    assert np.isfinite(slope).all()


def test_descent_gives_the_removed_edges_back():
    ndct = phantom()
    qdct = ndct + RNG.normal(0, 20, ndct.shape).astype(np.float32)
    denoised = scipy.ndimage.gaussian_filter(qdct, 1)
    images = [normalised(each) for each in (denoised, ndct, qdct)]
    slope = jax.grad(lambda image: removed_anatomy(image, *images[1:]))(images[0])
    lost = (ndct - denoised)[..., None]
    edges = np.abs(lost) > 100
    assert np.corrcoef(-np.asarray(slope)[edges], lost[edges])[0, 1] > 0.8
