import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.data.pairs import Pairs, joined
from dfgan_jax.support.errors import InputError
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


@pytest.mark.parametrize("shares", [None, (0.5, 0.5)])
def test_no_epoch_of_a_seed_has_the_order_of_another_seeds_epochs(shares):
    """Runs of seeds 0, 1 and 2 would see nearly the same orders, one epoch later each."""
    pairs = joined([textured(8, 4, 4), textured(8, 4, 4, first=8)])

    def orders(seed):
        views = input_pipeline.train_views(pairs, Sampling(global_batch_size=16, seed=seed,
                                                           shares=shares))
        rows = [views[step].rows for step in range(4)]
        return [tuple(part - part.min()) for each in rows
                for part in ([each] if shares is None else [each[each < 8], each[each >= 8]])]

    found = [order for seed in range(3) for order in orders(seed)]
    assert len(set(found)) == len(found)


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


def textured(count, height, width, *, first=0):
    """Slices whose pixels tell slice, row and column; the quarter dose is the negative."""
    ndct = (1e6 * (first + np.arange(count))[:, None, None]
            + 1e3 * np.arange(height)[:, None] + np.arange(width)).astype(np.float32)
    return Pairs(ndct, -ndct)


def test_crops_of_both_doses_are_the_same_part_of_the_slice():
    pairs = textured(5, 8, 12)
    sampling = Sampling(global_batch_size=4, seed=0, crop=4)
    batches = input_pipeline.train_batches(pairs, sampling)
    corners = set()
    for step in range(40):
        batch = batches[step]
        np.testing.assert_array_equal(batch["qdct"], -batch["ndct"])
        assert batch["ndct"].shape == (4, 4, 4, 1)
        for crop in batch["ndct"][..., 0]:
            row, column = divmod(int(crop[0, 0]) % 10**6, 1000)
            corners.add((row, column))
            np.testing.assert_array_equal(
                crop - crop[0, 0], 1e3 * np.arange(4)[:, None] + np.arange(4))
    assert {row for row, _ in corners} == set(range(5))
    assert {column for _, column in corners} == set(range(9))


def test_each_slice_comes_in_all_eight_orientations():
    image = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    pairs = Pairs(image[None], -image[None])
    expected = {turned.tobytes() for flipped in (image, image[::-1])
                for turned in (np.rot90(flipped, k).copy() for k in range(4))}
    assert len(expected) == 8
    batches = input_pipeline.train_batches(pairs, Sampling(global_batch_size=1, seed=0,
                                                           augment=True))
    seen = set()
    for step in range(100):
        np.testing.assert_array_equal(batches[step]["qdct"], -batches[step]["ndct"])
        seen.add(batches[step]["ndct"][0, ..., 0].tobytes())
    assert seen == expected


def test_views_are_a_function_of_the_seed_and_the_step(pairs):
    def views(seed, steps):
        found = input_pipeline.train_views(textured(5, 8, 8), Sampling(
            global_batch_size=3, seed=seed, crop=4, augment=True))
        return [[part.tolist() for part in found[step]] for step in steps]

    assert views(1, range(3, 6)) == views(1, range(6))[3:]
    assert views(1, range(3)) != views(2, range(3))
    assert views(1, [0])[0][1:] != views(1, [1])[0][1:]


def test_the_order_of_slices_is_that_of_whole_slices():
    plain, changed = (
        [input_pipeline.train_views(textured(5, 8, 8), sampling)[step].rows.tolist()
         for step in range(6)]
        for sampling in (Sampling(global_batch_size=2, seed=3),
                         Sampling(global_batch_size=2, seed=3, crop=4, augment=True)))
    assert plain == changed


@pytest.mark.parametrize("options", [{}, {"crop": 4}, {"augment": True},
                                     {"crop": 4, "augment": True}])
def test_pairs_on_the_device_are_viewed_as_those_that_the_host_sends(options):
    pairs = textured(5, 8, 8)
    sampling = Sampling(global_batch_size=3, seed=0, **options)
    batches = input_pipeline.train_batches(pairs, sampling)
    views = input_pipeline.train_views(pairs, sampling)
    placed = {name: jnp.array(images) for name, images in
              input_pipeline.batch_of(pairs).items()}
    take = jax.jit(functools.partial(input_pipeline.take_views, sampling=sampling))
    for step in range(8):
        jax.tree.map(np.testing.assert_array_equal, take(placed, views[step]), batches[step])


def test_each_process_views_its_share_of_the_batch():
    pairs = textured(5, 8, 8)
    sampling = Sampling(global_batch_size=4, seed=0, crop=4, augment=True)
    whole = input_pipeline.train_batches(pairs, sampling)[7]
    parts = [input_pipeline.train_batches(
        pairs, sampling, share=lambda rows, part=part: np.split(rows, 2)[part])[7]
        for part in range(2)]
    for name, images in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), images)


def test_files_of_several_sizes_are_cropped_each_by_its_own():
    pairs = joined([textured(3, 8, 12), textured(2, 16, 4, first=3)])
    assert (len(pairs), pairs.counts, pairs.sizes) == (5, [3, 2], [(8, 12), (16, 4)])
    batches = input_pipeline.train_batches(pairs, Sampling(global_batch_size=5, seed=0, crop=4))
    rows: dict[int, set[int]] = {}
    for step in range(40):
        for crop in batches[step]["ndct"][..., 0]:
            number, place = divmod(int(crop[0, 0]), 10**6)
            rows.setdefault(number, set()).add(place // 1000)
    assert {number: max(tops) for number, tops in rows.items()} == {0: 4, 1: 4, 2: 4, 3: 12, 4: 12}


def test_shares_mix_files_whatever_their_sizes():
    pairs = joined([textured(30, 4, 4), textured(3, 4, 4, first=30)])
    sampling = Sampling(global_batch_size=4, seed=0, shares=(0.25, 0.75))
    batches = input_pipeline.train_batches(pairs, sampling)
    numbers = [int(image[0, 0]) // 10**6 for step in range(30)
               for image in batches[step]["ndct"][..., 0]]
    assert sum(number >= 30 for number in numbers) == pytest.approx(90, abs=1)
    # Each file is gone through before any of its slices comes again, in another order each time.
    of_second = [number for number in numbers if number >= 30]
    rounds = [of_second[i:i + 3] for i in range(0, 90, 3)]
    assert all(set(each) == {30, 31, 32} for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert len({number for number in numbers if number < 30}) == 30
    again = input_pipeline.train_batches(pairs, sampling)
    np.testing.assert_array_equal(again[17]["ndct"], batches[17]["ndct"])


@pytest.mark.parametrize(("options", "message"), [
    ({"crop": 16}, r"data\.crop is 16, larger than slices of data\.train \(8×12\)"),
    ({"augment": True}, r"data\.augment turns slices of data\.train that are not square"),
])
def test_views_that_slices_do_not_allow_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        input_pipeline.train_views(textured(3, 8, 12), Sampling(global_batch_size=1, seed=0,
                                                                **options))
