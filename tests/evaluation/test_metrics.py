import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from dfgan_jax.evaluation import metrics
from dfgan_jax.scans.windows import Window


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    ndct = scipy.ndimage.gaussian_filter(rng.normal(0, 900, (3, 24, 20)), (0, 2, 2))
    return (ndct + rng.normal(0, 40, ndct.shape)).astype(np.float32), ndct.astype(np.float32)


def ssim_by_scipy(a, b, data_range):
    """Wang et al. (2004) by SciPy's Gaussian, in float64."""
    def blur(x):
        # truncate: a radius of 5 pixels at σ 1.5. "mirror" reflects about the edge pixel's centre.
        return scipy.ndimage.gaussian_filter(x, 1.5, mode="mirror", truncate=5 / 1.5)

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return np.mean((2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                   / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))


@pytest.mark.parametrize("data_range", [400.0, 4095.0])
def test_ssim_equals_its_definition(images, data_range):
    expected = [ssim_by_scipy(a, b, data_range) for a, b in zip(*images, strict=True)]
    np.testing.assert_allclose(metrics.ssim(*images, data_range=data_range), expected, atol=2e-6)


def test_psnr_and_rmse_by_hand(images):
    a, b = images
    mse = np.mean((a - b).astype(np.float64) ** 2, axis=(1, 2))
    np.testing.assert_allclose(metrics.psnr(a, b, data_range=2000.0),
                               10 * np.log10(2000.0**2 / mse), rtol=1e-6)
    np.testing.assert_allclose(metrics.rmse_hu(a, b), np.sqrt(mse), rtol=1e-6)


def test_equal_images_are_perfect(images):
    _, ndct = images
    np.testing.assert_allclose(metrics.ssim(ndct, ndct, data_range=4095.0), 1.0, atol=1e-6)
    np.testing.assert_array_equal(metrics.rmse_hu(ndct, ndct), 0.0)
    assert np.isposinf(metrics.psnr(ndct, ndct, data_range=4095.0)).all()


def vif_by_scipy(image, reference, noise_variance=2.0):
    """Sheikh & Bovik (2006), pixel domain, four scales, by SciPy's correlation."""
    numerator = denominator = 0.0
    for scale in range(4):
        side = 2 ** (4 - scale) + 1
        axis = np.arange(side) - side // 2
        window = np.exp(-(axis[:, None] ** 2 + axis ** 2) / (2 * (side / 5) ** 2))
        window /= window.sum()

        def blur(x, window=window):
            return scipy.signal.correlate(x, window, mode="valid", method="direct")

        if scale:
            image, reference = blur(image)[::2, ::2], blur(reference)[::2, ::2]
        variance = blur(reference**2) - blur(reference) ** 2
        covariance = blur(reference * image) - blur(reference) * blur(image)
        gain = np.maximum(covariance / variance, 0)
        left = np.maximum(blur(image**2) - blur(image) ** 2 - gain * covariance, 1e-10)
        numerator += np.log10(1 + gain**2 * variance / (left + noise_variance)).sum()
        denominator += np.log10(1 + variance / noise_variance).sum()
    return numerator / denominator


def test_vif_equals_its_definition():
    rng = np.random.default_rng(1)
    ndct = scipy.ndimage.gaussian_filter(rng.normal(0, 900, (2, 52, 48)), (0, 2, 2))
    images = ndct + rng.normal(0, 30, ndct.shape)
    expected = [vif_by_scipy(*pair) for pair in zip(images, ndct, strict=True)]
    found = metrics.vif(images.astype(np.float32), ndct.astype(np.float32),
                        window_hu=Window(-9e3, 9e3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics.vif(ndct, ndct, window_hu=Window(-1e3, 1e3)), 1.0, rtol=1e-9)


def test_vif_of_what_has_none_is_undefined():
    window = Window(-1e3, 1e3)
    small = np.random.default_rng(0).normal(0, 9, (1, 40, 48))
    assert np.isnan(metrics.vif(small, small, window_hu=window)).all()
    assert np.isnan(metrics.vif(np.eye(48)[None], np.ones((1, 48, 48)), window_hu=window)).all()


def test_vif_sees_what_is_in_its_window():
    rng = np.random.default_rng(2)
    ndct = rng.normal(0, 30, (1, 48, 48))
    far = np.where(rng.random(ndct.shape) < 0.1, 5000.0, 0.0)
    np.testing.assert_allclose(
        metrics.vif(np.clip(ndct, -50, 50) + far, ndct + far, window_hu=Window(-50, 50)), 1.0)
