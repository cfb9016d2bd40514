import numpy as np
import pytest
import skimage.metrics

from dfgan_jax.evaluation.protocols import FULL_RANGE, METRICS, PROTOCOLS, PUBLISHED
from dfgan_jax.support.errors import InputError
from tests.reference import load


@pytest.mark.parametrize("case", load.METRIC_CASES)
def test_published_agrees_with_the_published_code(case):
    images, ndct = (each[:, 0] for each in load.metric_images(case))
    mean = PUBLISHED.mean(PUBLISHED.score(images, ndct))
    assert mean["psnr"] == pytest.approx(load.metrics()[f"{case}/psnr"], abs=1e-5)
    assert mean["ssim"] == pytest.approx(load.metrics()[f"{case}/ssim"], abs=1e-6)


def flat(count, error, *, peak):
    """References of zero, and images that are off by `error` [HU] but for one bright pixel."""
    images = np.full((count, 16, 16), error, np.float32)
    images[0, 0, 0] = peak
    return images, np.zeros_like(images)


def test_full_range_scores_each_slice_by_a_fixed_range():
    images, ndct = flat(3, 10.0, peak=10.0)
    scores = FULL_RANGE.score(images, ndct)
    np.testing.assert_allclose(scores["psnr"], 20 * np.log10(409.5), rtol=1e-6)
    np.testing.assert_allclose(scores["rmse_hu"], 10.0, rtol=1e-6)
    np.testing.assert_array_equal(scores["data_range_hu"], 4095.0)


def test_published_takes_the_range_of_each_batch_of_sixteen():
    images, ndct = flat(20, 10.0, peak=1000.0)
    scores = PUBLISHED.score(images, ndct)
    np.testing.assert_allclose(scores["psnr"][1:16], 20 * np.log10(100.0), rtol=1e-6)
    np.testing.assert_allclose(scores["psnr"][16:], 0.0, atol=1e-5)  # the last four: range 10
    np.testing.assert_array_equal(scores["data_range_hu"], [1000.0] * 16 + [10.0] * 4)


def test_published_has_no_range_where_no_pixel_is_above_zero():
    """Slices of air alone: a range below zero would give numbers that mean nothing."""
    images, ndct = flat(20, -10.0, peak=1000.0)
    scores = PUBLISHED.score(images, ndct)
    assert np.isfinite(scores["psnr"][:16]).all()
    for name in ("psnr", "ssim", "data_range_hu"):
        assert np.isnan(scores[name][16:]).all()
    np.testing.assert_allclose(scores["rmse_hu"][16:], 10.0)


def test_published_means_weigh_a_short_batch_like_a_full_one():
    scores = {metric: np.array([30.0] * 16 + [40.0] * 4) for metric in METRICS}
    assert PUBLISHED.mean(scores)["psnr"] == pytest.approx(35.0)
    assert FULL_RANGE.mean(scores)["psnr"] == pytest.approx(32.0)


# What each project's test code clips to, and the range: FIELD.md's constants.
WINDOWS = {"redcnn": (-160, 240, 400), "ldct_benchmark_chest": (-1350, 150, 1500),
           "ldct_benchmark_abdomen": (-150, 250, 400), "ldct_benchmark_neuro": (0, 80, 80),
           "dugan": (-300, 300, 600), "corediff": (-1000, 1000, 2000)}


def test_there_are_no_others():
    assert set(PROTOCOLS) == {"published", "full_range", *WINDOWS}


@pytest.mark.parametrize("name", WINDOWS)
def test_windowed_protocols_score_what_is_in_their_window(name):
    low, high, data_range = WINDOWS[name]
    inside = (low + high) / 2
    ndct = np.full((1, 48, 48), inside, np.float32)
    ndct[0, :24] = low - 500  # with its error below the window, which then counts as none
    images = ndct + np.float32(8.0)
    scores = PROTOCOLS[name].score(images, ndct)
    assert scores["psnr"] == pytest.approx(20 * np.log10(data_range / (8 / 2**0.5)), rel=1e-5)
    assert scores["data_range_hu"] == data_range
    # ldct-benchmark's RMSE has a window of its own, -1024 to 1900, which holds both halves.
    whole = name in ("ldct_benchmark_abdomen", "ldct_benchmark_neuro")
    assert scores["rmse_hu"] == pytest.approx(8.0 if whole else 8 / 2**0.5, rel=1e-5)
    assert ("vif" in scores) == name.startswith("ldct_benchmark")
    assert str(data_range) in PROTOCOLS[name].data_range


@pytest.mark.parametrize("name", [name for name in WINDOWS if name != "ldct_benchmark_neuro"])
def test_ssim_has_the_zero_of_the_projects_own_code(name):
    """RED-CNN scores HU; the others move the window's lower end to 0 first.

    Near that end the zero matters most. That of the brain's window is 0 HU.
    """
    low, high, data_range = WINDOWS[name]
    rng = np.random.default_rng(0)
    ndct = rng.uniform(low, low + data_range / 20, (1, 48, 48)).astype(np.float32)
    images = (ndct + rng.normal(0, data_range / 20, ndct.shape)).astype(np.float32)

    def ssim(zero):
        return skimage.metrics.structural_similarity(
            *(np.clip(each[0], low, high) - zero for each in (images, ndct)),
            data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)

    zero, other = (0, low) if name == "redcnn" else (low, 0)
    assert PROTOCOLS[name].score(images, ndct)["ssim"] == pytest.approx(ssim(zero), abs=0.01)
    assert abs(ssim(zero) - ssim(other)) > 0.02


def test_vif_is_asked_for_under_the_error_window():
    images = np.zeros((2, 48, 48), np.float32)
    asked = []

    def vif(window_hu):
        asked.append(window_hu)
        return np.array([0.25, 0.75])

    scores = PROTOCOLS["ldct_benchmark_neuro"].score(images + 1, images, vif=vif)
    assert asked == [(-1024.0, 1900.0)]
    assert PROTOCOLS["ldct_benchmark_neuro"].mean(scores)["vif"] == 0.5


def test_every_protocol_states_its_range():
    assert all("HU" in protocol.data_range for protocol in PROTOCOLS.values())


def test_refuses_shapes_that_differ():
    with pytest.raises(InputError, match=r"\(2, 16, 16\)"):
        FULL_RANGE.score(np.zeros((2, 16, 16)), np.zeros((1, 16, 16)))
