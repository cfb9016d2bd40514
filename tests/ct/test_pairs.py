import os
import pickle

import numpy as np
import pytest

from dfgan_jax.ct.pairs import (
    Pairs,
    check_no_overlap,
    preprocess,
    read_pairs,
    slice_digests,
    write_pairs,
)
from dfgan_jax.errors import InputError
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


def test_reads_what_np_save_wrote(tmp_path):
    content = {"f_nd": mu(), "f_qd": mu()}
    path = tmp_path / "pairs.npy"
    np.save(path, content)  # as the published files are made
    pairs = read_pairs(path)
    assert len(pairs) == 3
    np.testing.assert_array_equal(pairs.ndct[1], content["f_nd"][..., 1])
    np.testing.assert_array_equal(pairs.qdct[2], content["f_qd"][..., 2])
    assert pairs.ndct.dtype == np.float32


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_every_pickle_protocol(tmp_path, protocol):
    content = {"f_nd": np.asfortranarray(mu()), "f_qd": mu().astype(np.float64)}
    path = save_pickle(tmp_path / "pairs.npy", pickle.dumps(content, protocol=protocol))
    pairs = read_pairs(path)
    np.testing.assert_array_equal(pairs.ndct, np.moveaxis(content["f_nd"], -1, 0))
    np.testing.assert_array_equal(pairs.qdct,
                                  np.moveaxis(content["f_qd"], -1, 0).astype(np.float32))


def test_reads_the_names_of_older_numpy(tmp_path):
    payload = pickle.dumps({"f_nd": mu(), "f_qd": mu()}, protocol=2)
    older = payload.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert older != payload
    assert len(read_pairs(save_pickle(tmp_path / "older.npy", older))) == 3


def test_round_trip_in_the_published_format(tmp_path):
    pairs = Pairs(mu((3, 6, 4)), mu((3, 6, 4)))
    path = tmp_path / "new" / "pairs.npy"
    write_pairs(path, pairs)
    np.testing.assert_array_equal(read_pairs(path).qdct, pairs.qdct)
    content = np.load(path, allow_pickle=True).item()
    assert content["f_nd"].shape == (6, 4, 3)
    assert [p.name for p in path.parent.iterdir()] == ["pairs.npy"]


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
        read_pairs(path)
    assert not mark.exists()


@pytest.mark.parametrize("payload", [
    b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x",  # a length that lies
    b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b"x",  # the same of a bytearray
    b"\x80\x04Nr\xff\xff\xff\x7f.",  # a memo index that would take gigabytes
    b"\x80\x04\x82\x01.",  # an extension code
    b"", b"\x80", b"garbage",
])
def test_broken_pickles_are_refused(tmp_path, payload):
    with pytest.raises(InputError, match=r"broken\.npy"):
        read_pairs(save_pickle(tmp_path / "broken.npy", payload))


def test_every_truncation_is_refused(tmp_path):
    whole = save(tmp_path / "whole.npy", {"f_nd": mu((2, 2, 1)), "f_qd": mu((2, 2, 1))})
    content = whole.read_bytes()
    cut = tmp_path / "cut.npy"
    for length in range(len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.npy"):
            read_pairs(cut)


def test_mutated_files_are_read_or_refused(tmp_path, fuzz_files):
    whole = save(tmp_path / "whole.npy", {"f_nd": mu((2, 2, 1)), "f_qd": mu((2, 2, 1))})
    content = whole.read_bytes()
    path = tmp_path / "mutated.npy"
    messages = refusals(read_pairs, path, mutated(content, count=fuzz_files, rng=RNG))
    assert len(messages) > fuzz_files / 3
    assert all(m.startswith(str(path)) and "\n" not in m for m in messages)


def test_a_dtype_with_flags_of_its_own_is_not_believed(tmp_path):
    """NumPy would take the number 63 from the file, and free the floats as if they were objects."""
    payload = pickle.dumps({"f_nd": mu(), "f_qd": mu()}, protocol=2)
    plain = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    assert plain in payload
    path = save_pickle(tmp_path / "flags.npy", payload.replace(plain, plain[:-2] + b"\x3ft"))
    assert not read_pairs(path).ndct.dtype.hasobject


def test_text_that_is_encoded_over_and_over_is_refused(tmp_path):
    """A megabyte of text, turned into bytes three hundred times, would take 300 MB."""
    text = b"X" + (10_000).to_bytes(4, "little") + b"a" * 10_000
    call = b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR0"
    payload = b"\x80\x02" + text + b"q\x000" + call * 300 + b"N."
    with pytest.raises(InputError, match="unusual way"):
        read_pairs(save_pickle(tmp_path / "bomb.npy", payload))


def test_big_endian_files_are_read(tmp_path):
    content = {"f_nd": mu().astype(">f4"), "f_qd": mu().astype(">f8")}
    pairs = read_pairs(save(tmp_path / "big.npy", content))
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
        read_pairs(path)
    assert str(caught.value).startswith(str(path))


def test_other_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_pairs(tmp_path / "absent.npy")
    np.save(tmp_path / "plain.npy", mu())
    with pytest.raises(InputError, match=r"holds an array of shape \(6, 4, 3\)"):
        read_pairs(tmp_path / "plain.npy")
    (tmp_path / "text.npy").write_text("slices")
    with pytest.raises(InputError, match=r"not an \.npy file"):
        read_pairs(tmp_path / "text.npy")


def test_preprocess_resizes_and_normalises():
    water, vacuum = np.full((2, 8, 8), 0.0192, np.float32), np.zeros((8, 8), np.float32)
    small = preprocess(water, size=4)
    assert small.shape == (2, 4, 4)
    np.testing.assert_allclose(small, 1.0, atol=1e-6)
    np.testing.assert_allclose(preprocess(vacuum, size=4), -1.0, atol=1e-6)
    assert preprocess(water, size=0).shape == (2, 8, 8)


def test_a_slice_in_two_splits_is_refused():
    train, test = mu((4, 3, 3)), mu((2, 3, 3))
    check_no_overlap({"train": slice_digests(train), "test": slice_digests(test)})
    test[1] = train[2]
    with pytest.raises(InputError, match="test: slice 1 is also slice 2 of train"):
        check_no_overlap({"train": slice_digests(train), "test": slice_digests(test)})
