"""Enhanced multi-frame CT: frames are slices, and broken files are refused in one line."""

import pathlib
import struct
from unittest import mock

import numpy as np
import pydicom
import pytest
from pydicom import uid

from dfgan_jax.scans import dicom, scan
from dfgan_jax.scans.dicom import read_headers, read_slice_of
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.scans.dicom_file import NotACTSlice
from dfgan_jax.scans.dicom_output import DicomOutput
from dfgan_jax.scans.hounsfield import OUTSIDE_HU
from dfgan_jax.support.errors import InputError
from tests.mutations import mutated, refusals
from tests.scans.dicom_files import SERIES
from tests.scans.enhanced_files import PER_FRAME, SHARED, enhanced_ct, frames, item, save, write

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of broken headers

DERIVATION = Derivation(model="AttnDFGAN", weights_sha256="ab" * 32, version="1.2")

NATIVE = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian)


def stored_of(path):
    return np.stack([read_slice_of(header).stored for header in read_headers(path)])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("syntax", [*NATIVE, uid.RLELossless, uid.JPEG2000Lossless])
def test_each_frame_is_a_slice(tmp_path, legacy, syntax):
    stored = frames(3, (33, 36))
    slopes, intercepts = np.array([1, 2, 0.5]), np.array([-1024, -1000, 3.5])
    path = write(tmp_path / "a.dcm", stored=stored, bits=16, slopes=slopes,
                 intercepts=intercepts, legacy=legacy, syntax=syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    headers = read_headers(path)
    for index, header in enumerate(headers):
        read = read_slice_of(header)
        np.testing.assert_array_equal(read.stored, stored[index])
        np.testing.assert_array_equal(read.hu, stored[index] * slopes[index] + intercepts[index])
        assert read.header is header
    assert [header.location_mm for header in headers] == [0, 3, 6]
    assert [header.name for header in headers] == [f"{path}: frame {i}" for i in (1, 2, 3)]
    assert {(header.rows, header.columns, header.sop_uid, header.series_uid, header.patient_id,
             header.kernel, header.thickness_mm, header.pixel_spacing_mm)
            for header in headers} == {
        (33, 36, f"{SERIES}.1.9", SERIES, "patient-1", "B30f", 3.0, (0.7, 0.7))}
    assert [header.instance_number for header in headers] == [1, 2, 3]


@pytest.mark.parametrize("table", ["basic", "extended", "none"])
def test_frames_are_found_with_and_without_a_table_of_offsets(tmp_path, table):
    stored = frames(3, (33, 36))
    path = write(tmp_path / "a.dcm", stored=stored, bits=16, syntax=uid.JPEGLosslessSV1,
                 table=table)
    np.testing.assert_array_equal(stored_of(path), stored)


@pytest.mark.parametrize("group", ["PlanePositionSequence", "PixelValueTransformationSequence",
                                   "FrameVOILUTSequence"])
def test_a_functional_group_may_be_shared(tmp_path, group):
    path = write(tmp_path / "a.dcm", shared_groups=[group])
    np.testing.assert_array_equal(stored_of(path), frames())
    assert read_headers(path)[2].position_mm == (
        (1, 2, 0) if group == "PlanePositionSequence" else (1, 2, 6))


def test_a_group_of_a_frame_is_taken_before_the_shared_one(tmp_path):
    dataset = enhanced_ct()
    groups = dataset[PER_FRAME].value
    groups[1].PixelMeasuresSequence = [item(PixelSpacing=[0.5, 0.5], SliceThickness=1)]
    headers = read_headers(save(tmp_path / "a.dcm", dataset))
    assert [header.pixel_spacing_mm for header in headers] == [(0.7, 0.7), (0.5, 0.5),
                                                               (0.7, 0.7), (0.7, 0.7)]


def test_padding_of_the_file_is_padding_in_each_frame(tmp_path):
    stored = frames(2)
    stored[1, :3] = 7
    stored[1, 8, 8] = 7
    path = write(tmp_path / "a.dcm", stored=stored, PixelPaddingValue=7)
    first, second = map(read_slice_of, read_headers(path))
    assert not first.outside.any()
    expected = np.zeros((16, 20), bool)
    expected[:3] = True
    np.testing.assert_array_equal(second.outside, expected)
    assert (second.hu[:3] == OUTSIDE_HU).all()
    assert second.hu[8, 8] == 7 - 1024


def test_frames_are_ordered_by_position_among_files_of_a_series(tmp_path):
    headers = read_headers(write(tmp_path / "a.dcm", step_mm=-6)) + read_headers(
        write(tmp_path / "b.dcm", step_mm=-3, stored=frames(2), instance=2))
    series, = dicom.group_by_series(headers)
    assert [header.location_mm for header in series] == [-18, -12, -6, -3, 0, 0]
    assert dicom.series_notes(series) == ["1 slice at the place of another"]


def test_frames_are_slices_of_a_scan(tmp_path):
    headers = read_headers(write(tmp_path / "a.dcm"))
    slices = [scan.of_dicom(header, pixel_spacing_mm=None) for header in headers]
    assert len({each.name for each in slices}) == 4
    hu, outside = slices[2].read()
    np.testing.assert_array_equal(hu, frames()[2] - 1024)
    assert not outside.any()


def test_only_the_frame_is_in_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "a.dcm", stored=frames(50))
    headers = read_headers(path)
    most = []
    opened = pathlib.Path.open

    def counted(self, *args, **options):
        file = opened(self, *args, **options)
        read = file.read

        def counting(size):
            most.append(size)
            return read(size)

        file_of = mock.MagicMock()
        file_of.__enter__.return_value = mock.Mock(seek=file.seek, read=counting)
        return file_of

    monkeypatch.setattr(pathlib.Path, "open", counted)
    read_slice_of(headers[49])
    assert most == [16 * 20 * 2]


def frame(dataset, index=1):
    return dataset[PER_FRAME].value[index]


def without(group, *, index=1):
    def change(dataset):
        for groups in (frame(dataset, index), dataset[SHARED].value[0]):
            if group in groups:
                del groups[group]
    return change


def setting(**elements):
    def change(dataset):
        for keyword, value in elements.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
    return change


def in_group(group, *, index=1, **elements):
    def change(dataset):
        groups = frame(dataset, index) if group in frame(dataset, index) else (
            dataset[SHARED].value[0])
        setting(**elements)(groups[group].value[0])
    return change


def another_orientation(dataset):
    frame(dataset, 2).PlaneOrientationSequence = [
        item(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])]


def localizer(dataset):
    frame(dataset, 3).CTImageFrameTypeSequence = [
        item(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"])]


def several_shared(dataset):
    setattr(dataset, SHARED, [*dataset[SHARED].value, item()])


def float_pixels(dataset):
    del dataset.PixelData
    dataset.FloatPixelData = np.zeros((4, 16, 20), "<f4").tobytes()


REFUSED = {
    "no frames": (InputError, setting(**{PER_FRAME: None}), "no functional groups of its frames"),
    "empty groups": (InputError, setting(**{PER_FRAME: []}), "no functional groups of its frames"),
    "no number": (InputError, setting(NumberOfFrames=None),
                  "its number of frames is missing; expected 4"),
    "number too high": (InputError, setting(NumberOfFrames=5), "frames is 5; expected 4"),
    "number too low": (InputError, setting(NumberOfFrames=3), "frames is 3; expected 4"),
    "number zero": (InputError, setting(NumberOfFrames=0), "frames is 0; expected 4"),
    "negative number": (InputError, setting(NumberOfFrames=-4), "frames is -4; expected 4"),
    "huge number": (InputError, setting(NumberOfFrames=2**31 - 1), "frames is 2147483647"),
    "two numbers": (InputError, setting(NumberOfFrames=[4, 4]), r"frames is 4\\4; expected 4"),
    "two shared": (InputError, several_shared, "2 items of shared functional groups; expected one"),
    "no position": (InputError, without("PlanePositionSequence"),
                    "frame 2: broken: PlanePositionSequence gives no ImagePositionPatient"),
    "short position": (InputError, in_group("PlanePositionSequence", ImagePositionPatient=[1, 2]),
                       "frame 2: broken: PlanePositionSequence gives no ImagePositionPatient"),
    "no orientation": (InputError, without("PlaneOrientationSequence"),
                       "frame 1: broken: PlaneOrientationSequence gives no ImageOrientation"),
    "no measures": (InputError, without("PixelMeasuresSequence"),
                    "frame 1: broken: PixelMeasuresSequence gives no PixelSpacing"),
    "empty measures": (InputError, in_group("PixelMeasuresSequence", PixelSpacing=None),
                       "frame 1: broken: PixelMeasuresSequence gives no PixelSpacing"),
    "another orientation": (NotACTSlice, another_orientation,
                            "frame 3: its orientation is not that of frame 1"),
    "no rescale": (NotACTSlice, without("PixelValueTransformationSequence"),
                   "frame 2: no rescale slope and intercept"),
    "no slope": (NotACTSlice, in_group("PixelValueTransformationSequence", RescaleSlope=None),
                 "frame 2: no rescale slope and intercept"),
    "another unit": (NotACTSlice, in_group("PixelValueTransformationSequence", RescaleType="MGML"),
                     "frame 2: values in MGML, not HU"),
    "localizer": (NotACTSlice, localizer, "frame 4: localizer"),
    "colour": (NotACTSlice, setting(PhotometricInterpretation="RGB", SamplesPerPixel=3),
               r"frame 1: colour \(RGB\)"),
    "two slopes": (InputError, in_group("PixelValueTransformationSequence", RescaleSlope=[1, 2]),
                   r"frame 2: broken: RescaleSlope is 1\.0\\2\.0; expected one value"),
    "flat": (InputError, in_group("PixelValueTransformationSequence", RescaleSlope=0),
             "frame 2: broken: rescale slope 0"),
    "rows": (InputError, setting(Rows=17), "2,560 bytes of pixels; 4 frames of 17×20 take 2,720"),
    "no rows": (InputError, setting(Rows=None), r"broken \(AttributeError"),
    "empty rows": (InputError, setting(Rows=0), "4 frames of 0×20 take 0"),
    "bits": (InputError, setting(BitsAllocated=32), "4 frames of 16×20 take 5,120"),
    "stored bits": (InputError, setting(BitsStored=17, HighBit=16), "frame 1: broken: 17 bits"),
    "high bit": (InputError, setting(HighBit=15), "frame 1: broken: 12 bits in 16, the highest 15"),
    "sign": (InputError, setting(PixelRepresentation=2),
             "frame 1: broken: pixel representation 2"),
    "no pixels": (InputError, setting(PixelData=None), "broken: it has no pixels"),
    "float pixels": (InputError, float_pixels, "broken: its pixels are no integers"),
    "no instance": (InputError, setting(SOPInstanceUID=""), "frame 1: broken: it has no SOP"),
    "no series": (InputError, setting(SeriesInstanceUID=None), "frame 1: broken: it has no Series"),
}


def read_all(path):
    for header in read_headers(path):
        read_slice_of(header)


@pytest.mark.parametrize("name", REFUSED)
def test_broken_and_other_frames_are_refused_by_name(tmp_path, name):
    kind, change, message = REFUSED[name]
    dataset = enhanced_ct()
    uids = dataset.SOPInstanceUID
    change(dataset)
    if not dataset.SOPInstanceUID:
        dataset.SOPInstanceUID = uids
        path = save(tmp_path / "a.dcm", dataset)
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = ""
        dataset.save_as(path, enforce_file_format=False)
    else:
        path = save(tmp_path / "a.dcm", dataset)
    with pytest.raises(InputError, match=rf"a\.dcm: (?s:.*){message}") as caught:
        read_all(path)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_deflated_frames_are_refused(tmp_path):
    path = write(tmp_path / "a.dcm", syntax=uid.DeflatedExplicitVRLittleEndian)
    with pytest.raises(InputError, match=r"a\.dcm: deflated frames, which no decoder here knows"):
        read_headers(path)


@pytest.mark.parametrize("keyword", ["BitsAllocated", "BitsStored", "HighBit",
                                     "PixelRepresentation"])
def test_compressed_frames_without_an_element_of_their_pixels_are_broken(tmp_path, keyword):
    path = write(tmp_path / "a.dcm", syntax=uid.JPEG2000Lossless, stored=frames(2, (33, 36)))
    dataset = pydicom.dcmread(path)
    del dataset[keyword]
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"a\.dcm: frame 1: broken \(\w+Error: "):
        read_all(path)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.94", "1.2.3"])
def test_frames_without_a_decoder_are_named(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", syntax=uid.JPEG2000Lossless, stored=frames(2, (33, 36)))
    content, former = path.read_bytes(), uid.JPEG2000Lossless.encode()
    path.write_bytes(content.replace(former + bytes(len(former) % 2),
                                     syntax.encode().ljust(len(former) + len(former) % 2, b"\0")))
    with pytest.raises(InputError, match="which no decoder here knows"):
        read_headers(path)


@pytest.mark.parametrize("syntax", [*NATIVE, uid.RLELossless, uid.JPEG2000Lossless])
def test_truncated_frames_are_broken(tmp_path, syntax):
    content = write(tmp_path / "whole.dcm", syntax=syntax, stored=frames(3, (33, 36)),
                    bits=16).read_bytes()
    path = tmp_path / "cut.dcm"
    for length in range(0, len(content) - 100, 211):
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            read_all(path)
        assert type(caught.value) is InputError, f"{length}: {caught.value}"
        assert str(caught.value).startswith(f"{path}: ")


def test_a_stream_that_lies_of_its_size_is_not_decoded(tmp_path):
    path = write(tmp_path / "a.dcm", syntax=uid.JPEGLosslessSV1, stored=frames(3, (33, 36)),
                 bits=16)
    content = bytearray(path.read_bytes())
    second = content.index(b"\xff\xc3", content.index(b"\xff\xc3") + 2)
    struct.pack_into(">2H", content, second + 5, 65535, 65535)
    path.write_bytes(content)
    headers = read_headers(path)
    read_slice_of(headers[0])
    with pytest.raises(InputError, match=r"a\.dcm: frame 2: broken: its stream says 65535×65535"):
        read_slice_of(headers[1])


@pytest.mark.parametrize("syntax", [*NATIVE, uid.RLELossless, uid.JPEG2000Lossless,
                                    uid.JPEGLosslessSV1])
def test_broken_frames_are_refused_and_nothing_else_happens(tmp_path, fuzz_files, syntax):
    path, output = tmp_path / "a.dcm", tmp_path / "out.dcm"
    write(path, stored=frames(2, (33, 36)), bits=16, syntax=syntax, legacy=len(syntax) % 2 == 1)
    content = path.read_bytes()
    rng = np.random.default_rng(len(syntax))
    tag = b"\x7f\xe0\x00\x10" if syntax == uid.ExplicitVRBigEndian else b"\xe0\x7f\x10\x00"
    header = content.rindex(tag) + 200

    def read_and_write(path):
        with DicomOutput({path: output}, derivation=DERIVATION) as out:
            slices = [read_slice_of(header) for header in read_headers(path)]
            for each in slices:
                assert each.hu.shape == each.outside.shape == each.stored.shape
                assert np.isfinite(each.hu).all()
                out.write(each, each.hu)
        np.testing.assert_array_equal(stored_of(output), [each.stored for each in slices])

    count = fuzz_files // 6
    contents = [copy + content[header:] for copy in mutated(content[:header], count=count, rng=rng)]
    messages = refusals(read_and_write, path, contents)
    assert len(messages) > count / 20
    assert not [line for line in messages if not line.startswith(f"{path}: ") or "\n" in line]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.dcm", "out.dcm"]
