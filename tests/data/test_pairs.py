import numpy as np
import pytest

from dfgan_jax.data.pairs import Pairs, SliceStack, joined


def test_slices_of_several_files_are_read_as_those_of_one(tmp_path):
    parts = [np.random.default_rng(n).random((n, 4, 6), np.float32) for n in (3, 1, 2)]
    for number, part in enumerate(parts):
        np.save(tmp_path / f"{number}.npy", part)
    stack = SliceStack([np.load(tmp_path / f"{number}.npy", mmap_mode="r")
                        for number in range(3)])
    whole = np.concatenate(parts)
    assert (len(stack), stack.shape, stack.dtype, stack.nbytes) == (
        6, whole.shape, whole.dtype, whole.nbytes)
    for index in (0, 3, 5, np.int32(4), slice(1, 5), slice(None), slice(4, 4), [5, 0, 3, 3],
                  np.array([2, 1])):
        np.testing.assert_array_equal(stack[index], whole[index])
    np.testing.assert_array_equal(np.asarray(stack), whole)


def test_slices_of_several_sizes_have_no_common_shape():
    stack = SliceStack([np.zeros((1, 4, 4)), np.ones((2, 8, 4))])
    assert stack[2].shape == (8, 4)
    with pytest.raises(ValueError, match=r"several sizes: \[\(4, 4\), \(8, 4\)\]"):
        stack.shape  # noqa: B018


def test_some_of_several_files_are_evenly_spaced():
    numbered = [Pairs(*(np.full((count, 2, 2), 10 * file, np.float32)
                        + np.arange(count)[:, None, None] for _ in range(2)))
                for file, count in ((1, 4), (2, 5))]
    pairs = joined(numbered)
    assert pairs.some(3).ndct[:, 0, 0].tolist() == [10, 20, 24]
    assert pairs.some(9) is pairs


def test_the_digest_depends_on_every_pixel_of_either_dose():
    def pairs(**changed):
        doses = {name: np.zeros((2, 16, 16), np.float32) for name in ("ndct", "qdct")}
        for name, place in changed.items():
            doses[name][place] = 1
        return Pairs(**doses)

    digests = {each.sha256() for each in (
        pairs(), pairs(ndct=(1, 3, 5)), pairs(qdct=(1, 3, 5)), pairs(qdct=(0, 3, 5)))}
    assert len(digests) == 4
    assert joined([pairs(), pairs()]).sha256() == joined([pairs(), pairs()]).sha256()


def test_the_fingerprint_of_several_files_depends_on_each_and_on_their_order():
    first, second = (Pairs(*np.random.default_rng(seed).random((2, 2, 16, 16), np.float32))
                     for seed in range(2))
    assert joined([first]) is first
    prints = {joined(parts).fingerprint() for parts in (
        [first, second], [second, first], [first, first], [first])}
    assert len(prints) == 4
