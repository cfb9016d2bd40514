import itertools

import numpy as np
import pytest

from dfgan_jax.ct.pairs import Pairs
from dfgan_jax.errors import InputError
from dfgan_jax.training import input_pipeline
from dfgan_jax.training.input_pipeline import Sampling


@pytest.fixture
def pairs():
    numbers = np.arange(7, dtype=np.float32)[:, None, None] * np.ones((2, 2), np.float32)
    return Pairs(numbers, -numbers)


def numbers(batch):
    """Which slices a batch holds."""
    np.testing.assert_array_equal(batch["qdct"], -batch["ndct"])
    assert batch["ndct"].shape[1:] == (2, 2, 1)
    return batch["ndct"][:, 0, 0, 0].astype(int).tolist()


def epoch(batches, number, steps):
    return [numbers(batches[number * steps + i]) for i in range(steps)]


def test_an_epoch_takes_no_slice_twice_and_each_is_in_another_order(pairs):
    batches = input_pipeline.train_batches(pairs, Sampling(global_batch_size=2, seed=0))
    steps = input_pipeline.steps_per_epoch(pairs, global_batch_size=2)
    assert steps == 3
    epochs = [epoch(batches, number, steps) for number in range(5)]
    for batches_of_epoch in epochs:
        assert all(len(batch) == 2 for batch in batches_of_epoch)
        assert len({i for batch in batches_of_epoch for i in batch}) == 6
    assert len({str(e) for e in epochs}) > 1


def test_order_is_a_function_of_the_seed(pairs):
    def order(seed):
        sampling = Sampling(global_batch_size=3, seed=seed)
        return epoch(input_pipeline.train_batches(pairs, sampling), 0, 6)

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_iteration_goes_on_from_any_step(pairs):
    batches = input_pipeline.train_batches(pairs, Sampling(global_batch_size=2, seed=3))
    iterator = input_pipeline.iterate_from(batches, 4)
    assert [numbers(next(iterator)) for _ in range(6)] == [
        numbers(batches[step]) for step in range(4, 10)]


def test_batches_of_mapped_pairs_are_plain_copies_in_the_same_order(pairs, tmp_path):
    np.save(tmp_path / "ndct.npy", pairs.ndct)
    np.save(tmp_path / "qdct.npy", pairs.qdct)
    mapped = Pairs(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("ndct", "qdct")))
    assert mapped.fingerprint() == pairs.fingerprint()

    def both(iterate):
        return zip(iterate(mapped), iterate(pairs), strict=False)

    def train(pairs):
        batches = input_pipeline.train_batches(pairs, Sampling(global_batch_size=2, seed=3))
        return itertools.islice(input_pipeline.iterate_from(batches, 2), 5)

    def evaluation(pairs):
        return (batch for batch, _ in input_pipeline.evaluation_batches(pairs, batch_size=3))

    seen = [*both(train), *both(evaluation)]
    assert len(seen) == 8
    for ours, expected in seen:
        for name, images in ours.items():
            np.testing.assert_array_equal(images, expected[name])
            assert type(images) is np.ndarray
            assert images.dtype == np.float32
            assert images.flags.c_contiguous
            assert images.flags.writeable
            assert not np.shares_memory(images, getattr(mapped, name))


def test_refuses_fewer_slices_than_a_batch(pairs):
    with pytest.raises(InputError, match="7 slices; batch_size 8"):
        input_pipeline.train_batches(pairs, Sampling(global_batch_size=8, seed=0))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8])
def test_evaluation_takes_every_slice_once_in_order(pairs, batch_size):
    seen = []
    for batch, mask in input_pipeline.evaluation_batches(pairs, batch_size=batch_size):
        assert batch["ndct"].shape == (batch_size, 2, 2, 1)
        seen += np.array(numbers(batch))[mask].tolist()
    assert seen == list(range(7))
