import errno
import logging
import os
import warnings

import numpy as np
import pytest

from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom_file import NotACTSlice
from dfgan_jax.scans.dicom_folder import DicomFolder, find_files, search
from dfgan_jax.support.errors import InputError
from tests.scans.dicom_files import write


def files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names(root):
    return [str(path.relative_to(root)) for path in find_files(root)]


def test_links_to_folders_and_files_are_followed(tmp_path):
    files(tmp_path, "store/P1/S1/0", "store/P1/S1/1", "store/one", "in/a")
    (tmp_path / "in" / "P1").symlink_to(tmp_path / "store" / "P1")
    (tmp_path / "in" / "b").symlink_to("../store/one")
    assert names(tmp_path / "in") == ["P1/S1/0", "P1/S1/1", "a", "b"]
    assert search(tmp_path / "in").folders == [(tmp_path / "store" / "P1").resolve()]
    (tmp_path / "only").symlink_to(tmp_path / "in")
    assert names(tmp_path / "only") == ["P1/S1/0", "P1/S1/1", "a", "b"]


def test_links_behind_links_are_followed(tmp_path):
    files(tmp_path, "far/x", "near/y")
    (tmp_path / "near" / "far").symlink_to(tmp_path / "far")
    files(tmp_path, "in/z")
    (tmp_path / "in" / "near").symlink_to(tmp_path / "near")
    assert names(tmp_path / "in") == ["near/far/x", "near/y", "z"]


@pytest.mark.parametrize(("with_volumes", "kind"), [
    (True, "an .npy, which is read only if the file is named itself, not its folder"),
    (False, "an .npy, not a DICOM file")])
def test_arrays_are_counted_apart_from_other_files(tmp_path, with_volumes, kind):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 4, 4)))
    files(tmp_path, "notes.npy")
    with pytest.raises(InputError) as caught:
        DicomFolder(tmp_path, with_volumes=with_volumes)
    assert str(caught.value).endswith(f"among 3 files; skipped 2 × {kind}; skipped 1 × not a DICOM "
                                      "file")


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_to_a_folder_that_it_lies_in_is_skipped_and_named(tmp_path, target):
    files(tmp_path, "in/a/x", "beside")
    link = tmp_path / "in" / "a" / "loop"
    link.symlink_to(target)
    found = search(tmp_path / "in")
    assert found.files == [tmp_path / "in" / "a" / "x"]
    real = link.resolve()
    assert found.skipped == {link: f"a link to {real}, a folder that it lies in"}


def test_links_in_a_circle_end(tmp_path):
    files(tmp_path, "in/x", "other/y")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "in")
    found = search(tmp_path / "in")
    assert found.files == [tmp_path / "in" / "other" / "y", tmp_path / "in" / "x"]
    assert found.skipped == {tmp_path / "in" / "other" / "back":
                             f"the folder {tmp_path / 'in'}, which is read under another name"}


def test_every_folder_is_read_once_and_first_without_a_link(tmp_path):
    files(tmp_path, "in/m/x", "out/sub/y")
    for link, target in (("a", "m"), ("b", "../out/sub"), ("c", "../out")):
        (tmp_path / "in" / link).symlink_to(target)
    found = search(tmp_path / "in")
    assert names(tmp_path / "in") == ["b/y", "m/x"]
    assert found.skipped == {
        tmp_path / "in" / "a": f"the folder {tmp_path / 'in' / 'm'}, which is read under another "
                               "name",
        tmp_path / "in" / "c" / "sub": f"the folder {tmp_path / 'out' / 'sub'}, which is read "
                                       "under another name"}


@pytest.mark.parametrize(("target", "shown"), [("gone", "gone"), ("/gone/too", "/gone/too"),
                                               ("broken", "broken")])
def test_links_to_nothing_are_named(tmp_path, target, shown):
    link = tmp_path / "in" / "broken"
    files(tmp_path, "in/x")
    link.symlink_to(target)
    found = search(tmp_path / "in")
    assert found.files == [tmp_path / "in" / "x"]
    assert found.unreadable == {link: f"a link to {shown}, which leads to no file"}


def test_what_killed_runs_left_is_no_input_and_named(tmp_path):
    left = [f".scan.nii.gz.{'0' * 16}", f".out.nii.{'f' * 16}"]
    files(tmp_path, "in/scan.nii.gz", f"in/{left[0]}/unpacked.nii", f"in/{left[1]}", "in/.b.0123")
    found = search(tmp_path / "in")
    assert names(tmp_path / "in") == [".b.0123", "scan.nii.gz"]
    assert found.leftovers == sorted(tmp_path / "in" / name for name in left)
    folder = DicomFolder(tmp_path / "in", with_volumes=True)
    assert folder.volumes == [tmp_path / "in" / "scan.nii.gz"]
    assert "skipped 2 × unfinished, of a run that was killed or is writing" in folder.lines()


def test_a_folder_names_its_links_one_by_one_and_counts_the_rest(tmp_path):
    root = tmp_path / "in"
    write(root / "1.dcm")
    for name in ("n.txt", "o.txt"):
        (root / name).write_text("notes")
    (root / "up").symlink_to("..")
    for number in range(25):
        (root / f"gone{number:02}").symlink_to("nowhere")
    folder = DicomFolder(root)
    lines = folder.lines()
    assert lines[0] == f"skipped: {root / 'up'}: a link to {tmp_path}, a folder that it lies in"
    assert lines[1] == f"skipped: {root / 'gone00'}: a link to nowhere, which leads to no file"
    assert lines[-2:] == ["and 6 more skipped links", "skipped 2 × not a DICOM file"]
    assert len(lines) == 22
    assert folder.link_lines() == lines[:21]
    assert len(folder.broken) == 25
    assert [header.path for header in folder.headers] == [root / "1.dcm"]


def test_a_folder_of_links_alone_is_read(tmp_path):
    write(tmp_path / "store" / "S1" / "0.dcm")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "P1").symlink_to(tmp_path / "store")
    assert [header.path for header in DicomFolder(tmp_path / "in").headers] == [
        tmp_path / "in" / "P1" / "S1" / "0.dcm"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "P1").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"no CT slice among 0 files; skipped: .*P1: a link to "
                                         "nowhere"):
        DicomFolder(tmp_path / "empty")


APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\x02" + bytes(60)


@pytest.mark.parametrize("content", [APPLE_DOUBLE, APPLE_DOUBLE + bytes(4096), bytes(4096), b""])
@pytest.mark.parametrize("name", ["._IM1.dcm", "._IM1", "._1.ima"])
def test_attributes_of_macos_beside_slices_are_no_dicom_files(tmp_path, name, content):
    write(tmp_path / "IM1.dcm")
    (tmp_path / name).write_bytes(content)
    folder = DicomFolder(tmp_path)
    assert folder.skipped == {tmp_path / name: "not a DICOM file"}
    assert folder.broken == {}
    with pytest.raises(NotACTSlice):
        dicom.read_slice(tmp_path / name)


def test_a_slice_may_have_such_a_name(tmp_path):
    assert dicom.read_header(write(tmp_path / "._1.dcm")).rows == 16


@pytest.mark.parametrize("character_set", ["ISO IR 192", "ISO-IR 100", "ISO 2022-IR 100",
                                           "ISO_IR 999", "utf8", ["", "ISO IR 144"]])
def test_misspelled_character_sets_are_taken_quietly(tmp_path, caplog, capfd, character_set):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write(tmp_path / "a.dcm", SpecificCharacterSet=character_set)
    caplog.clear()
    # As absl does it for the command line: what is logged goes to stderr.
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.filterwarnings("ignore", module="pydicom")
            read = dicom.read_slice(path)
    finally:
        logging.getLogger().removeHandler(handler)
    assert read.header.patient_id == "patient-1"
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def test_a_folder_that_cannot_be_read_is_broken_by_itself(tmp_path, monkeypatch):
    write(tmp_path / "in" / "1.dcm")
    closed = tmp_path / "in" / "lost+found"
    closed.mkdir()
    scandir = os.scandir

    def refuse(path):
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    folder = DicomFolder(tmp_path / "in")
    assert [header.path.name for header in folder.headers] == ["1.dcm"]
    assert folder.broken == {closed: "Permission denied"}
