import mmap
import pathlib

import numpy as np
import pytest

from dfgan_jax.support.memory_maps import flush_pages, release_pages


def resident_kb(path: pathlib.Path) -> int:
    """How much of a mapped file counts as this process's memory."""
    here, total = False, 0
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in line.split()[0]:
            here = line.endswith(str(path))
        elif here and key == "Rss":
            total += int(value.split()[0])
    return total


def test_pages_of_mapped_files_are_let_go(tmp_path):
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.int16, (64, 64, 64))
    view = np.asarray(mapped)[::-1].transpose(2, 1, 0)
    view[...] = 7
    if not pathlib.Path("/proc/self/smaps").exists():
        pytest.skip("only Linux tells")
    assert resident_kb(tmp_path / "a.npy") >= 512
    release_pages(view)
    assert resident_kb(tmp_path / "a.npy") == 0
    assert (view == 7).all()
    release_pages(np.zeros(3))


class Recorded(mmap.mmap):
    flushed = 0

    def flush(self, *place):
        self.flushed += 1
        return super().flush(*place)


def test_what_is_written_into_a_mapping_is_flushed(tmp_path):
    (tmp_path / "a").write_bytes(bytes(64))
    with (tmp_path / "a").open("r+b") as file:
        mapping = Recorded(file.fileno(), 64)
    view = np.ndarray((4, 4), np.int16, mapping)[::-1].T
    view[...] = 7
    flush_pages(view)
    assert mapping.flushed == 1
    flush_pages(np.zeros(3))
