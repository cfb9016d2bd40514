import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cnn10
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.pairs import Pairs, SliceStack
from dfgan_jax.devices import agreement
from dfgan_jax.devices.parallel import Parallelism
from dfgan_jax.training import compiled
from dfgan_jax.training.compiled import compile_steps
from dfgan_jax.training.input_pipeline import Sampling
from dfgan_jax.training.training import Training
from tests.training.kept import counted


class Unread(SliceStack):
    """Slices of two files, which nothing may read."""

    def __getitem__(self, index):
        pytest.fail(f"slices {index} are read")


def test_a_validation_on_the_device_asks_between_its_calls_and_keeps_the_order():
    devices = Parallelism("jit", global_batch_size=2, devices=jax.devices()[:1])
    images = np.arange(35, dtype=np.float32)[:, None, None, None]
    score = compiled._score_resident(
        lambda state, batch: {"psnr": state.step + batch["ndct"][:, 0, 0, 0]},
        devices.place({"ndct": images}), 2, devices)  # 18 batches, 8 a call
    polls = []
    scores = score(counted(100), lambda: polls.append(True))
    np.testing.assert_array_equal(scores["psnr"], 100 + images.ravel())
    assert len(polls) == 3


class SizesOfBatches(Training):
    """Scores each slice by the size of its batch."""

    @property
    def validation_step(self):
        return lambda state, batch: jax.tree.map(
            lambda images: jnp.full(len(images), len(images)), {"psnr": batch["ndct"]})


@pytest.mark.parametrize("resident", [True, False])
def test_validation_takes_no_more_whole_slices_at_once_than_a_part_of_a_batch(resident):
    """`accumulate` is given where more crops at once do not fit."""
    training = RunOptions.of(cnn10.get_config("demo")).training(total_steps=1)
    slices = np.zeros((4, 32, 32), np.float32)
    validate = compile_steps(
        SizesOfBatches(**vars(training) | {"accumulate": 2}), dict.fromkeys(
            ("train", "valid"), Pairs(slices, slices)),
        sampling=Sampling(global_batch_size=4, seed=0), most=1, batch_statistics=True,
        devices=Parallelism("jit", global_batch_size=2, devices=jax.devices()[:1]),
        resident=resident).validate
    assert dict(validate.score(counted(0), lambda: None))["psnr"].tolist() == [2, 2, 2, 2]
    assert validate.batch_size == 4  # whose statistics are those of a whole batch, as published


class Roomy(Parallelism):
    def fits(self, size):
        return True


@pytest.mark.parametrize(("all_fit", "expected"), [([True, True], True), ([True, False], False)])
def test_pairs_stay_on_the_devices_where_they_fit_in_all_processes(monkeypatch, all_fit, expected):
    """One that decides otherwise would run other programs, and all would wait for ever."""
    monkeypatch.setattr(agreement, "gathered", lambda fits: all_fit * fits)
    slices = np.zeros((4, 32, 32), np.float32)
    data = dict.fromkeys(("train", "valid"), Pairs(slices, slices))
    assert compiled.is_resident(data, "auto", Roomy("jit", global_batch_size=4)) == expected


def test_streamed_validation_slices_are_not_read_in_advance():
    """They may be larger than memory."""
    slices = [np.zeros((4, 32, 32), np.float32)] * 2
    config = cnn10.get_config("demo")
    compile_steps(
        RunOptions.of(config).training(total_steps=1),
        {"train": Pairs(slices[0], slices[0]), "valid": Pairs(Unread(slices), Unread(slices))},
        sampling=Sampling(global_batch_size=4, seed=0), most=1, batch_statistics=True,
        devices=Parallelism("jit", global_batch_size=4), resident=False)
