import numpy as np
import pytest

from dfgan_jax.data.overlap import check_no_overlap, check_no_shared_patient, slice_digests
from dfgan_jax.support.errors import InputError


def test_a_slice_in_two_splits_is_refused():
    train, test = (np.random.default_rng(seed).random((count, 3, 3), np.float32)
                   for seed, count in enumerate((4, 2)))
    check_no_overlap({"train": {"a": slice_digests(train)}, "test": {"b": slice_digests(test)}})
    test[1] = train[2]
    with pytest.raises(InputError, match="b: slice 1 is also slice 2 of a; the scores of slices"):
        check_no_overlap({"train": {"a": slice_digests(train)}, "test": {"b": slice_digests(test)}})


def test_a_slice_in_two_files_of_one_split_would_count_twice():
    with pytest.raises(InputError, match="b: slice 0 is also slice 1 of a; its split would count "):
        check_no_overlap({"train": {"a": ["1", "2"], "b": ["2"]}})


def test_a_patient_in_two_splits_is_refused():
    splits = {"train": {"a.npy": ["L1", "L2"], "b.npy": ["L2", "L3"]}, "valid": {"v.npy": ["L4"]},
              "test": {"t.npy": ["L5", "L5"], "unknown.npy": []}}
    check_no_shared_patient(splits)  # several files of one split may have one patient
    splits["test"]["t.npy"] = ["L5", "L3 "]
    with pytest.raises(InputError, match=r"data\.test \(t\.npy\): patient 'L3 ' is also in "
                                         r"data\.train \(b\.npy\), by their manifests; .*need oth"):
        check_no_shared_patient(splits)
