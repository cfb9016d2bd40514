import jax
import numpy as np

from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation.rows import Model, model_rows
from dfgan_jax.models.generators import build_generator, initial_variables


def test_as_many_test_slices_as_they_are_high_are_denoised(tmp_path):
    """Which looks like (H, W, N); but a file of pairs has shown its axes."""
    generator = build_generator(architecture="cnn10", width=2)
    (tmp_path / "x.pth").touch()
    denoiser = Denoiser(generator, initial_variables(generator, jax.random.key(0)),
                        path=tmp_path / "x.pth")
    (row,) = model_rows([Model(denoiser=denoiser, name="CNN-10", seed=None, shared=None)]).values()
    assert row.denoise(np.zeros((16, 16, 24), np.float32), None).shape == (16, 16, 24)
