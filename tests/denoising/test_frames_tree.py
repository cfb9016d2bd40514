"""Enhanced multi-frame CT in a folder: its frames are slices of series; a file stays a file."""

import numpy as np
import pytest

from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom import read_headers, read_slice_of
from dfgan_jax.support.errors import InputError
from tests.denoising.alive import Alive
from tests.denoising.test_dicom_tree import (
    DERIVATION,
    SECOND_SERIES,
    FakeDenoiser,
    files,
    run,
    slices,
)
from tests.scans import enhanced_files
from tests.scans.dicom_files import SERIES, ramp
from tests.scans.enhanced_files import frames

pytestmark = pytest.mark.usefixtures("two_at_a_time")


def stored_of(path):
    return np.stack([read_slice_of(header).stored for header in read_headers(path)])


def test_frames_are_denoised_beside_single_slices(tmp_path):
    single = slices(tmp_path / "in" / "a", 3, series=SECOND_SERIES)
    enhanced_files.write(tmp_path / "in" / "b" / "e.dcm", step_mm=-3, slopes=[1, 5, 1, 1])
    fake = FakeDenoiser()
    summary = run(tmp_path, denoiser=fake)
    assert files(tmp_path / "out") == ["a/01.dcm", "a/02.dcm", "a/03.dcm", "b/e.dcm",
                                       "summary.json"]
    # From the last frame to the first, as they are positioned.
    assert fake.shapes == [(2, 16, 20)] * 3 + [(1, 16, 20)]
    np.testing.assert_array_equal(stored_of(tmp_path / "out" / "b" / "e.dcm"),
                                  frames() + np.array([5, 1, 5, 5])[:, None, None])
    np.testing.assert_array_equal(stored_of(tmp_path / "out" / "a" / single[0].name)[0],
                                  ramp() + 5)
    assert (summary["slices"], summary["broken"], summary["skipped"]) == (7, {}, {})
    assert {each["source_series_uid"]: (each["slices"], each["missing"], each["notes"])
            for each in summary["series"]} == {SERIES: (4, [], []), SECOND_SERIES: (3, [], [])}
    written = {header.series_uid for header in read_headers(tmp_path / "out" / "b" / "e.dcm")}
    assert written == {DERIVATION.derived_uid(SERIES)}


def test_a_file_with_a_broken_frame_is_not_written_and_is_told_once(tmp_path):
    slices(tmp_path / "in", 2, series=SECOND_SERIES)
    dataset = enhanced_files.enhanced_ct(stored=frames(6))
    dataset[enhanced_files.PER_FRAME].value[3].PixelValueTransformationSequence[
        0].RescaleSlope = 0
    enhanced_files.save(tmp_path / "in" / "e.dcm", dataset)
    summary = run(tmp_path)
    assert files(tmp_path / "out") == ["01.dcm", "02.dcm", "summary.json"]
    assert summary["broken"] == {"e.dcm": "frame 4: broken: rescale slope 0, intercept -1024"}
    assert summary["slices"] == 2
    assert {each["source_series_uid"]: (each["slices"], each["missing"])
            for each in summary["series"]} == {SERIES: (0, ["e.dcm"]), SECOND_SERIES: (2, [])}


def test_an_interrupted_file_of_frames_begins_again_and_a_whole_one_is_kept(tmp_path,
                                                                            monkeypatch):
    enhanced_files.write(tmp_path / "in" / "a.dcm")
    enhanced_files.write(tmp_path / "in" / "b.dcm", series=SECOND_SERIES, stored=frames(3))
    to_stored = dicom.stored_pixels

    def interrupted(source, hu):
        if source.header.path.name == "b.dcm" and source.header.frame.index == 2:
            raise KeyboardInterrupt
        return to_stored(source, hu)

    with monkeypatch.context() as patched:
        patched.setattr(dicom, "stored_pixels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert files(tmp_path / "out.incomplete") == ["a.dcm"]
    time = (tmp_path / "out.incomplete" / "a.dcm").stat().st_mtime_ns
    summary = run(tmp_path)
    assert (summary["slices"], summary["written_before"]) == (7, 4)
    assert (tmp_path / "out" / "a.dcm").stat().st_mtime_ns == time
    np.testing.assert_array_equal(stored_of(tmp_path / "out" / "b.dcm"), frames(3) + 5)


def test_a_folder_of_other_frames_alone_is_refused(tmp_path):
    dataset = enhanced_files.enhanced_ct()
    for groups in dataset[enhanced_files.PER_FRAME].value:
        del groups.PixelValueTransformationSequence
    enhanced_files.save(tmp_path / "in" / "a.dcm", dataset)
    with pytest.raises(InputError, match="no CT slice among 1 file; skipped 1 × frame 1: no "
                                         "rescale slope and intercept"):
        run(tmp_path)


def test_no_more_than_three_batches_of_frames_are_in_memory(tmp_path, monkeypatch):
    enhanced_files.write(tmp_path / "in" / "a.dcm", stored=frames(24))
    alive = Alive()
    monkeypatch.setattr(dicom, "read_slice_of", alive.counted(dicom.read_slice_of, 1))
    monkeypatch.setattr(dicom, "stored_pixels", alive.counted(dicom.stored_pixels, -1))
    assert run(tmp_path, denoiser=FakeDenoiser())["slices"] == 24
    assert alive.most <= 6 + 3  # the measured slices of a series are not written
