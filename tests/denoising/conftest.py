import pytest

from dfgan_jax.denoising import denoiser


@pytest.fixture
def two_at_a_time(monkeypatch):
    """Batches of two slices of the padded size of a test."""
    monkeypatch.setattr(denoiser, "MAX_BATCH_PIXELS_ON_CPU", 2 * 32 * 32)
