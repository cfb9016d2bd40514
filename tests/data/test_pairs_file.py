import errno
import io
import mmap
import os
import pathlib
import pickle
import pickletools
import tracemalloc

import numpy as np
import pytest

from dfgan_jax.data import pairs_file
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import read_pairs, write_pairs, write_slices
from dfgan_jax.support.errors import InputError
from tests.mutations import mutated, refusals

RNG = np.random.default_rng(0)


def mu(shape=(6, 4, 3)):
    return RNG.uniform(0, 0.05, shape).astype(np.float32)


def save(path, content):
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    return path


def save_pickle(path, payload):
    """An `.npy` of an object whose pickle is given byte by byte."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(payload)
    return path


def saved_by_numpy(path, *, shape):
    return save(path, {"f_nd": mu(shape), "f_qd": mu(shape)})


def written_here(path, *, shape):
    write_pairs(path, Pairs(*(np.moveaxis(mu(shape), -1, 0) for _ in range(2))))
    return path


def whole(path):
    """All pairs of a file, by way of its blocks."""
    blocks = list(read_pairs(path).blocks())
    return Pairs(np.concatenate([block.ndct for block in blocks]),
                 np.concatenate([block.qdct for block in blocks]))


def test_reads_what_np_save_wrote(tmp_path):
    content = {"f_nd": mu(), "f_qd": mu()}
    path = tmp_path / "pairs.npy"
    np.save(path, content)  # as the published files are made
    pairs = read_pairs(path)
    assert len(pairs) == 3
    np.testing.assert_array_equal(pairs.ndct[1], content["f_nd"][..., 1])
    np.testing.assert_array_equal(pairs.qdct[2], content["f_qd"][..., 2])
    (block,) = pairs.blocks()
    np.testing.assert_array_equal(block.ndct[1], content["f_nd"][..., 1])
    np.testing.assert_array_equal(block.qdct[2], content["f_qd"][..., 2])
    assert block.ndct.dtype == np.float32


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("block_slices", [1, 2, 3, 9])
def test_reads_every_pickle_protocol_and_order_in_blocks(
        tmp_path, monkeypatch, protocol, block_slices):
    content = {"f_nd": np.asfortranarray(mu()), "f_qd": mu().astype(np.float64)}
    path = save_pickle(tmp_path / "pairs.npy", pickle.dumps(content, protocol=protocol))
    monkeypatch.setattr(pairs_file, "_BLOCK_BYTES", block_slices * 6 * 4 * 8)  # of float64
    blocks = list(read_pairs(path).blocks())
    assert [len(block) for block in blocks] == {1: [1, 1, 1], 2: [2, 1]}.get(block_slices, [3])
    for dose, key in (("ndct", "f_nd"), ("qdct", "f_qd")):
        slices = np.concatenate([getattr(block, dose) for block in blocks])
        np.testing.assert_array_equal(slices,
                                      np.moveaxis(content[key], -1, 0).astype(np.float32))
        for block in blocks:
            assert getattr(block, dose).flags.c_contiguous
            assert getattr(block, dose).dtype == np.float32


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_mapped_and_cannot_be_written_to(tmp_path, protocol, order):
    content = {key: np.array(mu((64, 64, 64)), order=order) for key in ("f_nd", "f_qd")}
    path = save_pickle(tmp_path / "pairs.npy", pickle.dumps(content, protocol=protocol))
    tracemalloc.start()
    try:
        pairs = read_pairs(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < content["f_nd"].nbytes / 2
    np.testing.assert_array_equal(pairs.qdct[5], content["f_qd"][..., 5])
    with pytest.raises(ValueError, match="read-only"):
        pairs.ndct[0] = 0


@pytest.mark.parametrize("make", [saved_by_numpy, written_here])
def test_no_more_than_the_blocks_stands_in_memory(tmp_path, monkeypatch, make):
    path = make(tmp_path / "pairs.npy", shape=(32, 32, 256))  # 1 MiB each
    monkeypatch.setattr(pairs_file, "_BLOCK_BYTES", 2**16)
    tracemalloc.start()
    try:
        counts = [len(block) for block in read_pairs(path).blocks()]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counts == [16] * 16
    assert peak < 2**19


def test_a_nan_is_told_with_its_place_in_the_file(tmp_path, monkeypatch):
    path = save(tmp_path / "pairs.npy", {"f_nd": mu(), "f_qd": nan(mu())})
    monkeypatch.setattr(pairs_file, "_BLOCK_BYTES", 1)
    blocks = read_pairs(path).blocks()
    assert [len(next(blocks)), len(next(blocks))] == [1, 1]
    with pytest.raises(InputError, match="f_qd has a NaN or an infinity in slice 2"):
        next(blocks)


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="needs madvise")
@pytest.mark.skipif(not pathlib.Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_pages_that_were_read_are_given_back(tmp_path):
    shape = (64, 64, 64)
    path = save(tmp_path / "pairs.npy", {"f_nd": mu(shape), "f_qd": mu(shape)})
    pairs = read_pairs(path)

    def resident_kilobytes():
        _, after = pathlib.Path("/proc/self/smaps").read_text().split(str(path))
        return int(after.split("Rss:")[1].split()[0])

    assert pairs.ndct.sum() > 0
    assert resident_kilobytes() > 512
    list(pairs.blocks())
    assert resident_kilobytes() < 128


def test_reads_the_names_of_older_numpy(tmp_path):
    payload = pickle.dumps({"f_nd": mu(), "f_qd": mu()}, protocol=2)
    older = payload.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert older != payload
    assert len(whole(save_pickle(tmp_path / "older.npy", older))) == 3


def test_round_trip_in_the_published_format(tmp_path):
    pairs = Pairs(mu((3, 6, 4)), mu((3, 6, 4)))
    path = tmp_path / "new" / "pairs.npy"
    write_pairs(path, pairs)
    np.testing.assert_array_equal(whole(path).qdct, pairs.qdct)
    content = np.load(path, allow_pickle=True).item()
    assert content["f_nd"].shape == (6, 4, 3)
    assert [p.name for p in path.parent.iterdir()] == ["pairs.npy"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 300])
def test_slices_written_as_they_come_are_what_np_load_gives(tmp_path, count):
    ndct, qdct = mu((count, 6, 4)), mu((count, 6, 4))
    path = tmp_path / "pairs.npy"
    write_slices(path, zip(ndct, qdct, strict=True), count=count, shape=(6, 4))
    with path.open("rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        np.lib.format.read_array_header_1_0(file)
        pickletools.dis(file, io.StringIO())  # raises where a pickle is not well-formed
        assert file.read() == b""
    content = np.load(path, allow_pickle=True).item()
    assert list(content) == ["f_nd", "f_qd"]
    for array, slices in zip(content.values(), (ndct, qdct), strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, np.moveaxis(slices, 0, -1))
    pairs = whole(path)
    np.testing.assert_array_equal(pairs.ndct, ndct)
    np.testing.assert_array_equal(pairs.qdct, qdct)


def test_slices_are_written_before_the_next_ones_come(tmp_path):
    def slices():
        for _ in range(64):
            yield mu((64, 64)), mu((64, 64))  # 16 KiB each, 2 MiB in all

    path = tmp_path / "pairs.npy"
    tracemalloc.start()
    try:
        write_slices(path, slices(), count=64, shape=(64, 64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 2**21
    assert peak < 2**19


def broken_off():
    yield mu((6, 4)), mu((6, 4))
    raise KeyboardInterrupt


@pytest.mark.parametrize(("slices", "error", "message"), [
    (lambda: [(mu((6, 4)), mu((6, 4)))], ValueError, "only 1 slices came; expected 2"),
    (lambda: [(mu((6, 4)), mu((6, 4)))] * 3, ValueError, "more than the 2 slices expected came"),
    (lambda: [(mu((6, 4)), mu((4, 6)))] * 2, ValueError,
     r"slice 0 has shapes \[\(6, 4\), \(4, 6\)\]; expected \(6, 4\)"),
    (lambda: [(mu((6, 4)),)] * 2, ValueError, "shorter"),
    (broken_off, KeyboardInterrupt, None),
])
@pytest.mark.parametrize("older", [None, b"older"])
def test_an_error_leaves_what_was_there(tmp_path, slices, error, message, older):
    path = tmp_path / "pairs.npy"
    if older is not None:
        path.write_bytes(older)
    with pytest.raises(error, match=message):
        write_slices(path, slices(), count=2, shape=(6, 4))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([] if older is None else [older])


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    plain_open = pathlib.Path.open

    def open_on_a_full_disk(self, mode="r"):
        self.touch()
        return plain_open(pathlib.Path("/dev/full"), mode)

    pair = mu((1, 6, 4))
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", open_on_a_full_disk)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            write_pairs(tmp_path / "pairs.npy", Pairs(pair, pair))
    assert list(tmp_path.iterdir()) == []


class Hostile:
    def __init__(self, function, *arguments):
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("make", [
    lambda mark: Hostile(os.system, f"touch {mark}"),
    lambda mark: Hostile(eval, f"open({str(mark)!r}, 'w')"),
    lambda mark: {"f_nd": mu(), "f_qd": Hostile(os.mkdir, str(mark))},
    lambda mark: Hostile(np.ndarray, (10**13,)),
    lambda mark: Hostile(np.load, str(mark)),
    lambda mark: {"f_nd": mu(), "f_qd": np.array([1, "two"], object)},
    lambda mark: {"f_nd": mu(), "f_qd": np.zeros(2, [("x", "f4")])},
])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_pickle_is_refused_before_it_runs(tmp_path, make, protocol):
    mark = tmp_path / "mark"
    path = save_pickle(tmp_path / "hostile.npy", pickle.dumps(make(mark), protocol=protocol))
    with pytest.raises(InputError, match=r"hostile\.npy: refused"):
        whole(path)
    assert not mark.exists()


@pytest.mark.parametrize("payload", [
    b"\x80\x04B" + (2**32 - 1).to_bytes(4, "little") + b"x",
    b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x",  # a length that lies
    b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b"x",  # the same of a bytearray
    b"\x80\x04Nr\xff\xff\xff\x7f.",  # a memo index that would take gigabytes
    b"\x80\x04\x82\x01.",  # an extension code
    b"", b"\x80", b"garbage",
])
def test_broken_pickles_are_refused(tmp_path, payload):
    with pytest.raises(InputError, match=r"broken\.npy"):
        whole(save_pickle(tmp_path / "broken.npy", payload))


@pytest.mark.parametrize("make", [saved_by_numpy, written_here])
@pytest.mark.parametrize("shape", [(2, 2, 1), (4, 4, 4)])  # bytes that are read, and mapped
def test_every_truncation_is_refused(tmp_path, make, shape):
    content = make(tmp_path / "whole.npy", shape=shape).read_bytes()
    cut = tmp_path / "cut.npy"
    for length in range(len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.npy"):
            whole(cut)


@pytest.mark.parametrize("make", [saved_by_numpy, written_here])
@pytest.mark.parametrize("shape", [(2, 2, 1), (4, 4, 4)])
def test_mutated_files_are_read_or_refused(tmp_path, fuzz_files, make, shape):
    content = make(tmp_path / "whole.npy", shape=shape).read_bytes()
    path = tmp_path / "mutated.npy"
    messages = refusals(whole, path, mutated(content, count=fuzz_files, rng=RNG))
    assert len(messages) > fuzz_files / 3
    assert all(m.startswith(str(path)) and "\n" not in m for m in messages)


def test_a_dtype_with_flags_of_its_own_is_not_believed(tmp_path):
    """NumPy would take the number 63 from the file, and free the floats as if they were objects."""
    payload = pickle.dumps({"f_nd": mu(), "f_qd": mu()}, protocol=2)
    plain = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    assert plain in payload
    path = save_pickle(tmp_path / "flags.npy", payload.replace(plain, plain[:-2] + b"\x3ft"))
    assert not read_pairs(path).ndct.dtype.hasobject
    assert len(whole(path)) == 3


def test_text_that_is_encoded_over_and_over_is_refused(tmp_path):
    """A megabyte of text, turned into bytes three hundred times, would take 300 MB."""
    text = b"X" + (10_000).to_bytes(4, "little") + b"a" * 10_000
    call = b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR0"
    payload = b"\x80\x02" + text + b"q\x000" + call * 300 + b"N."
    with pytest.raises(InputError, match="unusual way"):
        read_pairs(save_pickle(tmp_path / "bomb.npy", payload))


def test_a_memory_order_that_is_long_as_a_text_is_not_written_out(tmp_path):
    """Each of its pairs holds the former twice."""
    order = b"]" + b"2\x86" * 18
    payload = (b"\x80\x04cnumpy._core.numeric\n_frombuffer\n(C\0cnumpy\ndtype\n\x8c\x02f4\x85R"
               b"K\0\x85" + order + b"tR.")
    path = save_pickle(tmp_path / "bomb.npy", payload)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"has a memory order of type tuple$"):
            read_pairs(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**19


def test_big_endian_files_are_read(tmp_path):
    content = {"f_nd": mu().astype(">f4"), "f_qd": mu().astype(">f8")}
    (pairs,) = read_pairs(save(tmp_path / "big.npy", content)).blocks()
    np.testing.assert_array_equal(pairs.ndct[0], content["f_nd"][..., 0])
    assert pairs.ndct.dtype == np.dtype("float32")


def nan(array):
    array = array.copy()
    array[0, 0, 2] = np.nan
    return array


@pytest.mark.parametrize(("content", "message"), [
    ({"f_nd": mu()}, r"has no key 'f_qd', but \['f_nd'\]"),
    ({"f_nd": mu(), "f_qd": mu((6, 4, 2))}, r"f_nd has shape \(6, 4, 3\), f_qd \(6, 4, 2\)"),
    ({"f_nd": mu((6, 4, 0)), "f_qd": mu((6, 4, 0))}, "at least one slice"),
    ({"f_nd": mu((6, 4)), "f_qd": mu((6, 4))}, r"expected \(H, W, N\)"),
    ({"f_nd": nan(mu()), "f_qd": mu()}, "f_nd has a NaN or an infinity in slice 2"),
    ({"f_nd": mu(), "f_qd": mu() * 1e5}, r"f_qd has values .* in slice 0.*are they HU\?"),
    ({"f_nd": mu().astype(int), "f_qd": mu()}, "f_nd is int64; expected an array of float32"),
    ({"f_nd": [1.0], "f_qd": mu()}, "f_nd is list"),
    ([1, 2], "holds list"),
])
def test_unusable_content_is_named(tmp_path, content, message):
    path = tmp_path / "pairs.npy"
    save_pickle(path, pickle.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        whole(path)
    assert str(caught.value).startswith(str(path))


def test_other_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_pairs(tmp_path / "absent.npy")
    np.save(tmp_path / "plain.npy", mu())
    with pytest.raises(InputError, match=r"holds an array of shape \(6, 4, 3\)"):
        read_pairs(tmp_path / "plain.npy")
    (tmp_path / "text.npy").write_text("slices")
    with pytest.raises(InputError, match=r"is no \.npy file"):
        read_pairs(tmp_path / "text.npy")


def scan(shape=(32, 48, 3)):
    """A disc of soft tissue in air, (H, W, N) float32 HU."""
    y, x = np.mgrid[:shape[0], :shape[1]]
    disc = np.hypot(y - shape[0] / 2, x - shape[1] / 2) < shape[0] / 3
    return np.where(disc, 40.0, -1000.0)[..., None] + RNG.normal(0, 20, shape)


@pytest.mark.parametrize(("values", "message"), [
    ((scan() + 1024) / 4096, r"\(HU \+ 1024\) / 4096, as RED-CNN's preparation writes, or "),
    (np.clip((scan() + 1024) / 4096, 0, 1), r"\(HU \+ 1024\) / 4096"),
    ((scan() + 500) / 500, r"\(HU \+ 500\) / 500"), (scan() / 1000 + 1, "attenuation in 1/cm"),
    ((scan() / 1000 + 1) * 0.192, "attenuation in 1/cm")])
@pytest.mark.parametrize("key", ["f_nd", "f_qd"])
def test_values_in_other_units_are_refused(tmp_path, key, values, message):
    good = (scan() / 1000 + 1) * 0.0192
    content = {"f_nd": good, "f_qd": good, key: values.astype(np.float32)}
    path = save(tmp_path / "pairs.npy", content | {
        name: array.astype(np.float32) for name, array in content.items()})
    with pytest.raises(InputError, match=rf"pairs\.npy: {key} has values from \S+ to \S+; expected "
                                         rf"linear attenuation in 1/mm.*look like .*{message}"):
        list(read_pairs(path).blocks())


def test_metal_and_padding_are_no_other_unit(tmp_path):
    hu = scan()
    hu[14:18, 20:24] = 30_000
    hu[:, :12] = -3024
    array = ((hu / 1000 + 1) * 0.0192).astype(np.float32)
    (block,) = read_pairs(save(tmp_path / "pairs.npy", {"f_nd": array, "f_qd": array})).blocks()
    np.testing.assert_array_equal(block.ndct, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("shape", [(6, 64, 64), (300, 64, 64), (3, 64, 80), (1, 32, 32),
                                   (64, 16, 16), (65, 64, 64)])
def test_arrays_of_slices_first_are_refused(tmp_path, shape):
    content = {name: np.full(shape, 0.0192, np.float32) for name in ("f_nd", "f_qd")}
    with pytest.raises(InputError, match=rf"have shape \({shape[0]}, .*expected \(H, W, N\), "
                                         rf"{shape[2]} slices of {shape[0]}×{shape[1]}; they look "
                                         r"like \(N, H, W\), .*np\.moveaxis\(array, 0, -1\)"):
        read_pairs(save(tmp_path / "pairs.npy", content))
    read = read_pairs(save(tmp_path / "moved.npy", {
        name: np.moveaxis(array, 0, -1) for name, array in content.items()}))
    assert read.ndct.shape == shape


@pytest.mark.parametrize("shape", [(64, 64, 3), (64, 80, 3), (16, 20, 300), (8, 8, 8), (64, 48, 1)])
def test_arrays_of_slices_last_are_read(tmp_path, shape):
    array = np.full(shape, 0.0192, np.float32)
    assert len(read_pairs(save(tmp_path / "pairs.npy", {"f_nd": array, "f_qd": array}))
               ) == shape[2]


def test_as_many_slices_as_they_are_wide_are_read_from_files_of_this_package(tmp_path):
    path = written_here(tmp_path / "pairs.npy", shape=(16, 20, 20))
    assert read_pairs(path).ndct.shape == (20, 16, 20)
