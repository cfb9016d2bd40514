import pytest

pytest.importorskip(
    "torch", reason="PyTorch is not installed; make test installs it for Python 3.11")
pytest.importorskip(
    "ignite", reason="pytorch-ignite is not installed; make test installs it for Python 3.11")

from tests.parity import cases, our_runs
from tests.parity.published.metrics import metrics
from tests.reference import load

# Seen in float32: 1.3e-6 dB and 1e-7.
BOUNDS = {"float32": {"psnr": 5e-6, "ssim": 5e-7}, "float64": {"psnr": 1e-8, "ssim": 1e-8}}


@pytest.mark.parametrize("case", load.METRIC_CASES)
def test_the_twins_metrics_are_the_published_ones(case):
    scores = metrics(*load.metric_images(case))
    assert scores["psnr"] == pytest.approx(load.metrics()[f"{case}/psnr"], abs=1e-5)
    assert scores["ssim"] == pytest.approx(load.metrics()[f"{case}/ssim"], abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_published_protocol(precision):
    images, ndct = cases.metric_inputs(precision)
    ours, published = our_runs.metrics(images, ndct, precision), metrics(images, ndct)
    for name, bound in BOUNDS[precision].items():
        assert ours[name] == pytest.approx(published[name], rel=0, abs=bound)


def test_the_short_batch_weighs_as_much_as_the_full_one():
    """Else the two would agree on any weighting: the batches' scores do differ."""
    images, ndct = cases.metric_inputs("float32")
    full, short = metrics(images[:16], ndct[:16]), metrics(images[16:], ndct[16:])
    both = metrics(images, ndct)
    assert abs(full["psnr"] - short["psnr"]) > 3
    assert both["psnr"] == pytest.approx((full["psnr"] + short["psnr"]) / 2, abs=1e-9)
