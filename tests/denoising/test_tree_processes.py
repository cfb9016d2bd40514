import json
import signal

import numpy as np
import pytest

from dfgan_jax.scans.dicom import read_headers, read_slice_of
from tests.denoising.test_dicom_tree import (
    SECOND_SERIES,
    copy_volume,
    files,
    run,
    slices,
    stored,
)
from tests.devices.test_processes import ends, start
from tests.scans import enhanced_files
from tests.scans.dicom_files import write


def pixels(folder):
    return {f"{path.relative_to(folder)} {header.instance}": read_slice_of(header).stored
            for path in sorted(folder.rglob("*.dcm")) for header in read_headers(path)}


def make_input(source):
    slices(source / "a", 7)
    for i in range(1, 4):
        write(source / "b" / f"{i}.dcm", instance=i, position=(0, 0, 3 * i), series=SECOND_SERIES,
              stored=stored(20, seed=i), PixelSpacing=[0.8, 0.8])
    enhanced_files.write(source / "frames.dcm", series="1.2.826.0.1.3680043.8.498.3")
    cut = write(source / "cut.dcm", instance=9)
    cut.write_bytes(cut.read_bytes()[:-100])
    for name, content in (("v.nii", b"v"), ("w.nii", b""), ("x.nii.gz", b"x")):
        (source / name).write_bytes(content)


def test_two_processes_write_what_one_writes(tmp_path):
    make_input(tmp_path / "in")
    expected = run(tmp_path, denoise_volume=copy_volume)
    for status, output in ends(start(2, "-m", "tests.denoising.process", str(tmp_path / "in"),
                                     str(tmp_path / "two"), "none")):
        assert status == 0, output
        assert output.splitlines()[-1] == str(expected["slices"])
    assert json.loads((tmp_path / "two" / "summary.json").read_text()) == expected
    assert list(expected["broken"]) == ["cut.dcm", "w.nii"]
    assert [each["file"] for each in expected["volumes"]] == ["v.nii", "x.nii.gz"]
    assert expected["series"][1]["noise_after_hu"] is not None
    assert files(tmp_path / "two") == files(tmp_path / "out")
    actual = pixels(tmp_path / "two")
    for name, values in pixels(tmp_path / "out").items():
        np.testing.assert_array_equal(actual[name], values)


def test_when_one_of_two_is_killed_the_other_ends_and_the_folder_is_resumed(tmp_path):
    slices(tmp_path / "in", 12)
    (first, told), (second, _) = ends(start(
        2, "-m", "tests.denoising.process", str(tmp_path / "in"), str(tmp_path / "out"), "1"))
    assert (first, second) == (75, -signal.SIGKILL), told
    assert "process 1 of this run" in told
    assert not (tmp_path / "out").exists()
    written = files(tmp_path / "out.incomplete")
    assert written
    summary = run(tmp_path)
    assert (summary["slices"], summary["written_before"]) == (12, len([
        name for name in written if name.endswith(".dcm") and not name.startswith(".")]))


@pytest.mark.parametrize(("how", "process", "message"), [
    # The folder of process 1 lacks a file: every later slice would be in no share.
    ("other input", 1, "this process finds other files than process 0"),
    ("other output", 0, "expected one file system for the output of all processes")])
def test_processes_of_other_folders_do_not_call_theirs_complete(tmp_path, how, process, message):
    slices(tmp_path / "in", 6)
    slices(tmp_path / "in-1", 5)
    ended = ends(start(2, "-m", "tests.denoising.process", str(tmp_path / "in"),
                       str(tmp_path / "out"), how))
    assert message in ended[process][1]
    assert all(status for status, _ in ended)
    assert not (tmp_path / "out").exists()
