import numpy as np
import pytest

from benchmarks.comparison import check_same
from benchmarks.worker_processes import WorkerError


@pytest.mark.parametrize(("exact", "error"), [(True, 2e-4), (False, 0.05)])
def test_different_images_end_the_benchmark(exact, error):
    images = np.random.default_rng(0).normal(size=(2, 32, 32))
    with pytest.raises(WorkerError, match="denoised differs by"):
        check_same({"denoised": images + error * images.std()}, {"denoised": images}, exact=exact,
                   what="x")
    check_same({"denoised": images + error / 10 * images.std()}, {"denoised": images}, exact=exact,
               what="x")


@pytest.mark.parametrize("loss", [1.0001, float("nan")])
def test_different_losses_end_the_benchmark(loss):
    with pytest.raises(WorkerError, match="generator_loss differs by"):
        check_same({"generator_loss": np.asarray(loss)}, {"generator_loss": np.asarray(1.0)},
                   exact=True, what="x")
