import numpy as np

from dfgan_jax.denoising import denoiser
from dfgan_jax.denoising.batches import (
    MAX_PADDED_SIZES,
    Program,
    in_batches,
    programs,
    shared_sizes,
)
from dfgan_jax.scans.dicom import read_headers
from tests.denoising.test_dicom_tree import FakeDenoiser
from tests.scans.dicom_files import ramp, write


def test_few_sizes_are_kept():
    sizes = [(512, 512), (256, 256), (512, 256), (32, 48)]
    assert shared_sizes(dict.fromkeys(sizes, 1)) == {size: size for size in sizes}


def test_the_sizes_that_add_the_fewest_pixels_are_merged():
    counts = {(256, 256): 50, (320, 320): 1, (336, 336): 2, (512, 512): 900, (512, 496): 4,
              (768, 768): 5}
    assert shared_sizes(counts) == {
        (256, 256): (256, 256), (320, 320): (336, 336), (336, 336): (336, 336),
        (512, 496): (512, 512), (512, 512): (512, 512), (768, 768): (768, 768)}


def test_many_slices_keep_their_size_where_few_can_grow():
    counts = {(64, 64): 1, (128, 128): 100, (256, 256): 1, (512, 512): 1, (1024, 1024): 1}
    assert shared_sizes(counts)[64, 64] == (128, 128)
    counts = {(64, 64): 1000, (128, 128): 1, (160, 160): 1, (512, 512): 1, (1024, 1024): 1}
    assert shared_sizes(counts)[64, 64] == (64, 64)
    assert shared_sizes(counts)[128, 128] == (160, 160)


def test_any_sizes_become_few_that_hold_them():
    random = np.random.default_rng(0)
    counts = {(int(height), int(width)): int(count) for height, width, count
              in random.integers(1, 700, (60, 3))}
    shared = shared_sizes(counts)
    assert len(set(shared.values())) <= MAX_PADDED_SIZES
    assert all(larger[0] >= size[0] and larger[1] >= size[1] for size, larger in shared.items())


def test_batches_have_one_size_and_all_slices(tmp_path, monkeypatch):
    monkeypatch.setattr(denoiser, "MAX_BATCH_PIXELS_ON_CPU", 4 * 32 * 32)
    headers = [header for index, size in enumerate([20, 30, 20, 20, 31, 20, 20])
               for header in read_headers(write(tmp_path / f"{index}.dcm", instance=index,
                                                stored=ramp((16, size))))]
    found = programs(headers, FakeDenoiser())
    shared = Program(batch_size=4, padded_size=(32, 32))
    assert found == {(16, 20): shared, (16, 30): shared, (16, 31): shared}
    grouped = list(in_batches(headers, found))
    assert [[header.columns for header in batch.headers] for batch in grouped] == [
        [20] * 4, [20], [30], [31]]
    assert {batch.program for batch in grouped} == {shared}
