import numpy as np
import pytest

from dfgan_jax.data.overlap import check_no_overlap, slice_digests
from dfgan_jax.support.errors import InputError


def test_a_slice_in_two_splits_is_refused():
    train, test = (np.random.default_rng(seed).random((count, 3, 3), np.float32)
                   for seed, count in enumerate((4, 2)))
    check_no_overlap({"train": slice_digests(train), "test": slice_digests(test)})
    test[1] = train[2]
    with pytest.raises(InputError, match="test: slice 1 is also slice 2 of train"):
        check_no_overlap({"train": slice_digests(train), "test": slice_digests(test)})
