import concurrent.futures
import errno
import json
import os
import pathlib
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from dfgan_jax.data import pairs_cache, pairs_file
from dfgan_jax.data.overlap import slice_digests
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_cache import preprocess, read_preprocessed
from dfgan_jax.data.pairs_file import read_pairs, write_pairs
from dfgan_jax.support import locks
from dfgan_jax.support.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
MU_WATER = 0.0192


def write(path, *, count=3, seed=0):
    rng = np.random.default_rng(seed)
    pairs = Pairs(*(rng.uniform(0, 0.05, (count, 6, 4)).astype(np.float32) for _ in range(2)))
    write_pairs(path, pairs)
    return path


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "pairs.npy")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch):
    """Names of the files that were converted."""
    names = []

    def counted(path):
        names.append(path.name)
        return read_pairs(path)

    monkeypatch.setattr(pairs_cache, "read_pairs", counted)
    return names


def files(folder):
    """Names of all files but the locks of the entries."""
    return sorted(path.name for path in folder.rglob("*")
                  if path.is_file() and path.name != "lock")


def test_slices_are_halved_and_normalised_by_hand(tmp_path, folder):
    """A pixel of half the size is the mean of four; water is 1, twice its attenuation 3."""
    ndct = np.full((2, 4, 4), MU_WATER, np.float32)
    qdct = np.zeros((2, 4, 4), np.float32)
    qdct[1, :2, :2] = [[0, MU_WATER], [2 * MU_WATER, 5 * MU_WATER]]
    write_pairs(tmp_path / "pairs.npy", Pairs(ndct, qdct))
    expected = np.full((2, 2, 2), -1.0)
    expected[1, 0, 0] = 3.0
    for _ in range(2):  # made, then from the cache
        pairs, _, digests = read_preprocessed(tmp_path / "pairs.npy", size=2, folder=folder)
        np.testing.assert_allclose(pairs.ndct, 1.0, atol=1e-6)
        np.testing.assert_allclose(pairs.qdct, expected, atol=1e-6)
        assert digests == slice_digests(qdct)
        assert pairs.qdct.dtype == np.float32


def test_a_file_is_converted_once(source, folder, conversions, capsys):
    made = read_preprocessed(source, size=2, folder=folder)
    assert "preprocessing pairs.npy: 6/6 slices" in capsys.readouterr().err
    moved = source.rename(source.with_name("renamed.npy"))
    again = read_preprocessed(moved, size=2, folder=folder)
    assert conversions == ["pairs.npy"]
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(again.pairs.ndct, made.pairs.ndct)
    np.testing.assert_array_equal(again.pairs.qdct, made.pairs.qdct)
    assert again.raw_ndct_digests == made.raw_ndct_digests
    assert again.raw_qdct_digests == made.raw_qdct_digests
    assert again.pairs.fingerprint() == made.pairs.fingerprint()


def test_an_entry_is_two_arrays_that_np_load_maps_and_a_sidecar(source, folder):
    pairs = read_preprocessed(source, size=0, folder=folder).pairs
    assert files(folder) == ["entry.json", "ndct.npy", "qdct.npy"]
    (entry,) = folder.iterdir()
    mapped = np.load(entry / "qdct.npy", mmap_mode="r")
    assert mapped.shape == (3, 6, 4)
    np.testing.assert_array_equal(mapped, pairs.qdct)
    content = json.loads((entry / "entry.json").read_text())["content"]
    assert content["source"] == "pairs.npy"
    assert content["shape"] == [3, 6, 4]
    assert content["raw_qdct_sha256"] == slice_digests(read_pairs(source).qdct)


@pytest.mark.parametrize("block_slices", [1, 2])
def test_entries_do_not_depend_on_the_blocks(source, folder, tmp_path, monkeypatch, block_slices):
    read_preprocessed(source, size=2, folder=folder)
    monkeypatch.setattr(pairs_file, "_BLOCK_BYTES", block_slices * 6 * 4 * 4)
    read_preprocessed(source, size=2, folder=tmp_path / "other")
    one, other = ({path.relative_to(each): path.read_bytes() for path in each.glob("*/*")}
                  for each in (folder, tmp_path / "other"))
    assert one == other
    assert len(one) == 4  # with the lock


def test_a_conversion_keeps_one_block_in_memory(source, folder, monkeypatch):
    monkeypatch.setattr(pairs_file, "_BLOCK_BYTES", 1)
    blocks, alive = pairs_file.PairsFile.blocks, []

    def watched(self):
        references: list[weakref.ref] = []
        for block in blocks(self):
            alive.append(sum(each() is not None for each in references))
            references += [weakref.ref(block.ndct), weakref.ref(block.qdct)]
            yield block
            del block

    monkeypatch.setattr(pairs_file.PairsFile, "blocks", watched)
    read_preprocessed(source, size=2, folder=folder)
    assert alive == [0, 0, 0]


def test_pairs_are_plain_arrays_that_cannot_be_written_to(source, folder):
    for _ in range(2):
        pairs = read_preprocessed(source, size=2, folder=folder).pairs
        assert type(pairs.ndct) is np.ndarray
        assert isinstance(pairs.ndct.base, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            pairs.ndct[0] = 0


def test_other_content_or_another_size_is_another_entry(source, folder, conversions, capsys):
    first = read_preprocessed(source, size=2, folder=folder).pairs
    larger = read_preprocessed(source, size=4, folder=folder).pairs
    native = read_preprocessed(source, size=0, folder=folder).pairs
    assert (first.ndct.shape, larger.ndct.shape, native.ndct.shape) == (
        (3, 2, 2), (3, 4, 4), (3, 6, 4))
    write(source, seed=1)
    changed = read_preprocessed(source, size=2, folder=folder).pairs
    assert not np.array_equal(changed.ndct, first.ndct)
    assert len(conversions) == len(list(folder.iterdir())) == 4
    assert "made again" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["PREPROCESSING_VERSION", "MU_WATER", "HU_OFFSET", "HU_SCALE"])
def test_other_preprocessing_is_another_entry(source, folder, conversions, monkeypatch, name):
    read_preprocessed(source, size=2, folder=folder)
    module = pairs_cache if name == "PREPROCESSING_VERSION" else pairs_cache.hounsfield
    monkeypatch.setattr(module, name, 2 * getattr(module, name))
    read_preprocessed(source, size=2, folder=folder)
    assert len(conversions) == len(list(folder.iterdir())) == 2


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def change_a_digest(path):
    sidecar = json.loads(path.read_text())
    sidecar["content"]["raw_qdct_sha256"][0] = "0" * 64
    path.write_text(json.dumps(sidecar))


@pytest.mark.parametrize(("name", "damage", "message"), [
    ("ndct.npy", flip, "ndct.npy was changed"),
    ("qdct.npy", flip, "qdct.npy was changed"),
    ("ndct.npy", cut, "ndct.npy was changed"),
    ("qdct.npy", lambda path: path.write_bytes(b""), "qdct.npy was changed"),
    ("qdct.npy", pathlib.Path.unlink, "FileNotFoundError"),
    ("entry.json", lambda path: path.write_text("{"), "JSONDecodeError"),
    ("entry.json", lambda path: path.write_bytes(b"\xff"), "UnicodeDecodeError"),
    ("entry.json", lambda path: path.write_text("{}"), "KeyError"),
    ("entry.json", lambda path: path.write_text("3"), "TypeError"),
    ("entry.json", change_a_digest, "entry.json was changed"),
])
def test_what_is_damaged_is_told_and_made_again(
        source, folder, conversions, capsys, name, damage, message):
    made = read_preprocessed(source, size=2, folder=folder)
    (entry,) = folder.iterdir()
    before = {path.name: path.read_bytes() for path in entry.iterdir()}
    damage(entry / name)
    capsys.readouterr()

    again = read_preprocessed(source, size=2, folder=folder)
    said, *bar = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{entry}: it is broken (")
    assert message in said
    assert said.endswith(f"; made again from {source}")
    assert len(bar) == 1
    assert again.raw_qdct_digests == made.raw_qdct_digests
    assert {path.name: path.read_bytes() for path in entry.iterdir()} == before
    read_preprocessed(source, size=2, folder=folder)
    assert len(conversions) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("slices_done", [0, 2, 5])
def test_an_interrupted_conversion_leaves_no_entry(
        source, folder, monkeypatch, error, slices_done):
    preprocess, left = pairs_cache.preprocess, iter(range(slices_done))

    def interrupted(mu, *, size):
        if next(left, None) is None:
            raise error
        return preprocess(mu, size=size)

    with monkeypatch.context() as patch:
        patch.setattr(pairs_cache, "preprocess", interrupted)
        with pytest.raises(error):
            read_preprocessed(source, size=2, folder=folder)
    assert files(folder) == []


def test_arrays_without_a_sidecar_are_no_entry(source, folder, conversions):
    """A conversion that was killed between two renames leaves them."""
    made = read_preprocessed(source, size=2, folder=folder).pairs.fingerprint()
    (entry,) = folder.iterdir()
    (entry / "entry.json").unlink()
    (entry / "ndct.npy").write_bytes(b"half")
    assert read_preprocessed(source, size=2, folder=folder).pairs.fingerprint() == made
    assert len(conversions) == 2


def test_the_sidecar_gets_its_name_last(source, folder, monkeypatch):
    order, replace = [], pathlib.Path.replace

    def recorded(self, target):
        order.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", recorded)
    read_preprocessed(source, size=2, folder=folder)
    assert sorted(order[:2]) == ["ndct.npy", "qdct.npy"]
    assert order[2:] == ["entry.json"]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_told_with_the_folder_and_the_way_out(source, folder, monkeypatch):
    plain_open = pathlib.Path.open

    def open_on_a_full_disk(self, mode="r", *arguments, **options):
        return plain_open(pathlib.Path("/dev/full") if mode == "wb" else self, mode, *arguments,
                          **options)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", open_on_a_full_disk)
        with pytest.raises(InputError) as caught:
            read_preprocessed(source, size=2, folder=folder)
    assert str(caught.value) == (
        f"{folder}: the cache cannot be written ({os.strerror(errno.ENOSPC)}); "
        "config.data.cache_dir puts it elsewhere")
    assert files(folder) == []


def test_a_source_that_cannot_be_used_is_named_and_not_cached(tmp_path, folder):
    with pytest.raises(InputError, match=r"absent\.npy: no such file"):
        read_preprocessed(tmp_path / "absent.npy", size=2, folder=folder)
    (tmp_path / "text.npy").write_text("slices")
    with pytest.raises(InputError, match=r"text\.npy: is no \.npy file"):
        read_preprocessed(tmp_path / "text.npy", size=2, folder=folder)
    assert not folder.exists()


def test_another_process_that_replaces_an_entry_takes_nothing_away(source, folder, monkeypatch):
    """Both convert at once, without locks; the other one is whole before we are."""
    monkeypatch.setattr(locks, "fcntl", None)
    preprocess = pairs_cache.preprocess
    theirs: list[Pairs] = []

    def meanwhile(mu, *, size):
        if not theirs:
            monkeypatch.setattr(pairs_cache, "preprocess", preprocess)
            theirs.append(read_preprocessed(source, size=size, folder=folder).pairs)
        return preprocess(mu, size=size)

    monkeypatch.setattr(pairs_cache, "preprocess", meanwhile)
    ours = read_preprocessed(source, size=2, folder=folder).pairs
    np.testing.assert_array_equal(theirs[0].qdct, ours.qdct)
    assert files(folder) == ["entry.json", "ndct.npy", "qdct.npy"]


def test_those_that_come_during_a_conversion_wait_for_it(source, folder, monkeypatch):
    waiting, flock = threading.Semaphore(0), locks.fcntl.flock
    slices: list[np.ndarray] = []
    others: list[concurrent.futures.Future] = []

    def watched(file, flags):
        if not flags & locks.fcntl.LOCK_NB:
            waiting.release()
        flock(file, flags)

    def with_others(mu, *, size):
        if not others:
            others.extend(pool.submit(read_preprocessed, source, size=2, folder=folder)
                          for _ in range(3))
            assert all(waiting.acquire(timeout=20) for _ in range(3))
        slices.append(mu)
        return preprocess(mu, size=size)

    monkeypatch.setattr(locks.fcntl, "flock", watched)
    monkeypatch.setattr(pairs_cache, "preprocess", with_others)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        ours = read_preprocessed(source, size=2, folder=folder)
        theirs = [other.result(timeout=60) for other in others]
    assert len(slices) == 2 * 3  # of one conversion: both doses
    for each in theirs:
        np.testing.assert_array_equal(each.pairs.qdct, ours.pairs.qdct)
        assert each.raw_qdct_digests == ours.raw_qdct_digests


def test_processes_that_start_at_once_all_get_the_pairs(source, folder):
    code = ("import pathlib, sys; from dfgan_jax.data.pairs_cache import "
            "read_preprocessed as read; "
            "read = read(sys.argv[1], size=2, folder=pathlib.Path(sys.argv[2])); "
            "print(read.pairs.fingerprint())")
    processes = [subprocess.Popen([sys.executable, "-c", code, source, folder], cwd=ROOT,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    expected = read_preprocessed(source, size=2, folder=folder).pairs.fingerprint()
    assert [out.split()[-1] for out, _ in outputs] == [expected] * 3, outputs
    assert sum("preprocessing pairs.npy: 6/6" in err for _, err in outputs) == 1
    assert not any("made again" in err for _, err in outputs)
    assert files(folder) == ["entry.json", "ndct.npy", "qdct.npy"]


def test_preprocess_resizes_and_normalises():
    water, vacuum = np.full((2, 8, 8), 0.0192, np.float32), np.zeros((8, 8), np.float32)
    small = preprocess(water, size=4)
    assert small.shape == (2, 4, 4)
    np.testing.assert_allclose(small, 1.0, atol=1e-6)
    np.testing.assert_allclose(preprocess(vacuum, size=4), -1.0, atol=1e-6)
    assert preprocess(water, size=0).shape == (2, 8, 8)
