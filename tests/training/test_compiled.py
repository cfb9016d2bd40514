import numpy as np
import pytest

from configs import cnn10
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.pairs import Pairs, SliceStack
from dfgan_jax.devices.parallel import Parallelism
from dfgan_jax.training.compiled import compile_steps
from dfgan_jax.training.input_pipeline import Sampling


class Unread(SliceStack):
    """Slices of two files, which nothing may read."""

    def __getitem__(self, index):
        pytest.fail(f"slices {index} are read")


def test_streamed_validation_slices_are_not_read_in_advance():
    """They may be larger than memory."""
    slices = [np.zeros((4, 32, 32), np.float32)] * 2
    config = cnn10.get_config("demo")
    compile_steps(
        RunOptions.of(config).training(total_steps=1),
        {"train": Pairs(slices[0], slices[0]), "valid": Pairs(Unread(slices), Unread(slices))},
        sampling=Sampling(global_batch_size=4, seed=0), most=1, batch_statistics=True,
        devices=Parallelism("jit", global_batch_size=4), resident=False)
