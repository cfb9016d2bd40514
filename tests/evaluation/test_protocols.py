import numpy as np
import pytest

from dfgan_jax.errors import InputError
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS, PUBLISHED
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


def test_published_takes_the_range_of_each_batch_of_sixteen():
    images, ndct = flat(20, 10.0, peak=1000.0)
    psnr = PUBLISHED.score(images, ndct)["psnr"]
    np.testing.assert_allclose(psnr[1:16], 20 * np.log10(100.0), rtol=1e-6)
    np.testing.assert_allclose(psnr[16:], 0.0, atol=1e-5)  # the last four have a range of 10


def test_published_means_weigh_a_short_batch_like_a_full_one():
    scores = {"psnr": np.array([30.0] * 16 + [40.0] * 4)}
    assert PUBLISHED.mean(scores)["psnr"] == 35.0
    assert FULL_RANGE.mean(scores)["psnr"] == 32.0


def test_every_protocol_states_its_range():
    assert set(PROTOCOLS) == {"published", "full_range"}
    assert all("HU" in protocol.data_range for protocol in PROTOCOLS.values())


def test_refuses_shapes_that_differ():
    with pytest.raises(InputError, match=r"\(2, 16, 16\)"):
        FULL_RANGE.score(np.zeros((2, 16, 16)), np.zeros((1, 16, 16)))
