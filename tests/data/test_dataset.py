import contextlib
import csv
import dataclasses
import hashlib
import pathlib

import numpy as np
import pytest

from dfgan_jax.data import dataset
from dfgan_jax.data.dataset import Entry
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.errors import InputError


def entry(patient, number, *, shape=(6, 5), ndct_digest=None, qdct_digest=None, read=None):
    """A pair whose normal dose is `number` everywhere and whose low dose is one more."""
    return Entry(patient=patient, ndct_digest=ndct_digest or f"n {patient} {number}",
                 qdct_digest=qdct_digest or f"q {patient} {number}",
                 source=f"{patient}/{number}.dcm", shape=shape, manifest={"number": number},
                 read=read or (lambda: (np.full(shape, number, np.float32),
                                        np.full(shape, number + 1, np.float32))))


def entries(counts):
    return [entry(patient, 100 * index + number)
            for index, (patient, count) in enumerate(counts.items()) for number in range(count)]


def hu(path):
    content = np.load(path, allow_pickle=True).item()
    return {key: np.rint(hounsfield.mu_to_hu(np.moveaxis(content[key], -1, 0)[:, 0, 0]))
            for key in ("f_nd", "f_qd")}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_file_holds_the_pairs_in_order_with_a_row_each(tmp_path):
    written = dataset.write_dataset(tmp_path / "x.npy", entries({"a": 20, "b": 3}), shares=None,
                                    description="writing")
    assert written == {str(tmp_path / "x.npy"): 23}
    expected = [*range(20), 100, 101, 102]
    held = hu(tmp_path / "x.npy")
    np.testing.assert_array_equal(held["f_nd"], expected)
    np.testing.assert_array_equal(held["f_qd"], np.add(expected, 1))
    manifest = rows(tmp_path / "x.manifest.csv")
    assert [int(row["number"]) for row in manifest] == expected
    assert [int(row["index"]) for row in manifest] == list(range(23))
    assert {row["patient"] for row in manifest} == {"a", "b"}


def test_a_manifest_has_the_columns_of_all_its_slices(tmp_path):
    pairs = [entry("a", 1), dataclasses.replace(entry("b", 2), manifest={"kernel": "B30f"})]
    dataset.write_dataset(tmp_path / "x.npy", pairs, shares=None, description="writing")
    assert [(row["number"], row["kernel"]) for row in rows(tmp_path / "x.manifest.csv")] == [
        ("1", ""), ("", "B30f")]


def test_splits_hold_whole_patients_and_the_manifest_says_which(tmp_path):
    dataset.write_dataset(tmp_path / "out", entries(dict.fromkeys("abcdefghij", 4)),
                          shares=(0.7, 0.1, 0.2), description="writing")
    patients = {}
    for split, expected in (("train", 7), ("valid", 1), ("test", 2)):
        held = hu(tmp_path / "out" / f"{split}.npy")["f_nd"] // 100
        patients[split] = set(held)
        assert len(patients[split]) == expected
        assert len(held) == 4 * expected
        of_split = [row for row in rows(tmp_path / "out" / "manifest.csv")
                    if row["split"] == split]
        np.testing.assert_array_equal([int(row["number"]) // 100 for row in of_split], held)
    assert not patients["train"] & patients["test"]
    assert len(set.union(*patients.values())) == 10


def test_a_split_without_a_share_has_no_file(tmp_path):
    dataset.write_dataset(tmp_path / "out", entries({"a": 2, "b": 2}), shares=(0.5, 0, 0.5),
                          description="writing")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.csv", "test.npy", "train.npy"]


def test_names_that_are_no_text_are_written_escaped(tmp_path):
    pairs = [dataclasses.replace(entry("a", 1), manifest={"file": "a\udcff.IMA"})]
    dataset.write_dataset(tmp_path / "x.npy", pairs, shares=None, description="writing")
    (row,) = rows(tmp_path / "x.manifest.csv")
    assert row["file"] == "a\\udcff.IMA"


def test_a_patient_s_split_depends_on_the_names_alone():
    shares = (0.5, 0.25, 0.25)
    split_of = dataset.split_patients(["d", "a", "c", "b", "a"], shares)
    assert split_of == dataset.split_patients("abcd", shares)
    order = sorted("abcd", key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert [split_of[name] for name in order] == ["train", "train", "valid", "test"]


def test_every_split_with_a_share_has_a_patient():
    assert sorted(dataset.split_patients("abc", (0.98, 0.01, 0.01)).values()) == [
        "test", "train", "valid"]
    assert sorted(dataset.split_patients("ab", (0.5, 0, 0.5)).values()) == ["test", "train"]
    with pytest.raises(InputError, match=r"2 patients \(a, b\) cannot be divided into 3 splits.*"
                                         "A share of 0, as in 0.8,0.2,0, leaves a split out"):
        dataset.split_patients("ab", (0.7, 0.1, 0.2))


@pytest.mark.parametrize("text", ["0.7,0.3", "0.7,0.1,0.1", "a,b,c", "1.2,-0.1,-0.1", "nan,0,1",
                                  ""])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(InputError, match=r"split is .*add up to 1"):
        dataset.parse_split(text)


def test_duplicates_of_one_patient_are_dropped():
    kept, notes = dataset.without_duplicates(
        [entry("a", 1, qdct_digest="x"), entry("a", 2), entry("a", 3, qdct_digest="x")])
    assert [each.manifest["number"] for each in kept] == [1, 2]
    assert notes == ["a/3.dcm left out: the same pixels as a/1.dcm"]


def test_several_low_doses_of_one_slice_are_no_duplicates():
    kept, _ = dataset.without_duplicates(
        [entry("a", 1, ndct_digest="x"), entry("a", 2, ndct_digest="x")])
    assert len(kept) == 2


@pytest.mark.parametrize("dose", ["ndct_digest", "qdct_digest"])
def test_the_same_pixels_of_two_patients_are_refused(dose):
    with pytest.raises(InputError, match=r"b/2\.dcm of patient 'b' holds pixels of a/1\.dcm"):
        dataset.without_duplicates([entry("a", 1, **{dose: "x"}), entry("b", 2, **{dose: "x"})])


def test_slices_of_other_sizes_than_most_are_named():
    assert dataset.of_other_sizes({"a": (6, 5), "b": (6, 5)}) == {}
    assert dataset.of_other_sizes({}) == {}
    odd = dataset.of_other_sizes({"a": (6, 5), "b": (5, 6), "c": (6, 5), "d": (8, 8)})
    assert list(odd) == ["b", "d"]
    assert odd["d"].startswith("is 8×8, and most slices are 6×5; a file holds one size")


def test_after_an_error_nothing_stands(tmp_path):
    def broken():
        raise InputError("broken.dcm: broken")

    shares = (0.4, 0.3, 0.3)
    # The file of the test split is the last to be written.
    pairs = [entry(name, 1, read=broken if split == "test" else None)
             for name, split in dataset.split_patients("abc", shares).items()]
    with pytest.raises(InputError, match="broken"):
        dataset.write_dataset(tmp_path / "out", pairs, shares=shares, description="writing")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("name", "shares", "message"), [
    ("x", None, r"expected a name that ends in \.npy"),
    ("x.npy", (0.7, 0.1, 0.2), "expected the name of a folder"),
    ("taken.npy", None, "exists"), ("old", (1, 0, 0), r"valid\.npy: exists"),
    ("taken.npy/x.npy", None, r"taken\.npy: is no folder")])
def test_outputs_that_cannot_be_are_refused(tmp_path, name, shares, message):
    (tmp_path / "taken.npy").touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "valid.npy").touch()
    with pytest.raises(InputError, match=message):
        dataset.write_dataset(tmp_path / name, entries({"a": 3, "b": 3, "c": 3}), shares=shares,
                              description="writing")


def read_patients(path, count):
    rows = dataset.read_manifest(path, count)
    return None if rows is None else [row["patient"] for row in rows]


@pytest.mark.parametrize("shares", [None, (0.4, 0.3, 0.3)])
def test_patients_are_read_back_from_the_manifest(tmp_path, shares):
    output = tmp_path / ("out.npy" if shares is None else "out")
    counts = dataset.write_dataset(output, entries({"a": 2, "b": 3, "c": 1}), shares=shares,
                                   description="writing")
    found = {path: read_patients(pathlib.Path(path), count)
             for path, count in counts.items()}
    sizes = {"a": 2, "b": 3, "c": 1}
    assert sorted(name for names in found.values() for name in names) == sorted("aabbbc")
    if shares is not None:
        assert all(names == names[:1] * sizes[names[0]] for names in found.values())


def test_patients_without_a_manifest_are_not_known(tmp_path):
    (tmp_path / "manifest.csv").write_text("split,index,patient\ntrain,0,a\n")
    assert read_patients(tmp_path / "test.npy", 1) is None
    assert read_patients(tmp_path / "train.npy", 1) == ["a"]


def test_the_manifest_of_a_renamed_file_of_a_split_is_read(tmp_path):
    (tmp_path / "x.manifest.csv").write_text("split,index,patient\ntest,0,a\n")
    assert read_patients(tmp_path / "x.npy", 1) == ["a"]


@pytest.mark.parametrize("rows", ["", "0,a\n", "0,a\n2,b\n", "0,a\n1,\n", "0,a\n1, \n",
                                  "0,a\n1,b\n2,c\n"])
def test_a_manifest_of_other_slices_is_refused(tmp_path, rows):
    (tmp_path / "x.manifest.csv").write_text("index,patient\n" + rows)
    with pytest.raises(InputError, match=r"x\.manifest\.csv: \d rows? for the 2 slices"):
        read_patients(tmp_path / "x.npy", 2)


@pytest.mark.parametrize(("content", "message"), [
    (b"index;patient\n0;a\n", "has the columns index;patient, separated by commas"),
    (b"index,patient\n0,M\xfcller\n", "not in UTF-8")])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, content, message):
    (tmp_path / "x.manifest.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_patients(tmp_path / "x.npy", 1)


@pytest.mark.parametrize(("column", "text", "fits"), [
    ("pixel_spacing_mm", "0.7", True), ("pixel_spacing_mm", "", True),
    ("pixel_spacing_mm", "0,7", False), ("pixel_spacing_mm", "0.0", False),
    ("dose_fraction", "nan", False), ("dose_fraction", "25", False), ("dose_fraction", "1", False),
    ("dose_fraction", "0.25", True), ("thickness_mm", "thin", False), ("thickness_mm", "0", True),
    ("location_mm", "n/a", False), ("location_mm", "-12.5", True)])
def test_numbers_of_a_manifest_are_checked(tmp_path, column, text, fits):
    (tmp_path / "x.manifest.csv").write_text(f'index,patient,{column}\n0,a,"{text}"\n')
    with (contextlib.nullcontext() if fits else pytest.raises(InputError, match=(
            rf"x\.manifest\.csv: {column} of index 0 is '?{text}'?; expected a number"))):
        assert read_patients(tmp_path / "x.npy", 1) == ["a"]


def test_names_that_are_no_text_are_split(tmp_path):
    assert set(dataset.split_patients(["M\udcfcller", "b", "c"], (0.4, 0.3, 0.3)).values()) == {
        "train", "valid", "test"}


def test_a_manifest_written_by_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "x.manifest.csv").write_bytes("\ufeffindex,patient\r\n0,Müller\r\n".encode())
    assert read_patients(tmp_path / "x.npy", 1) == ["Müller"]
