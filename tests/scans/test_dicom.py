import contextlib
import dataclasses
import errno
import os
import pathlib
import struct

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame

from dfgan_jax.scans import dicom, dicom_file, dicom_folder, dicom_pixels
from dfgan_jax.scans.dicom import read_header, write_slice
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.scans.dicom_file import NotACTSlice
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.scans.hounsfield import OUTSIDE_HU
from dfgan_jax.support.errors import InputError
from tests.mutations import mutated, refusals
from tests.scans.dicom_files import SERIES, ct_slice, ramp, save, write
from tests.scans.reading import read_slice

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of broken headers

DERIVATION = Derivation(model="AttnDFGAN", weights_sha256="ab" * 32, version="1.2")


def rewrite(path, hu=None, *, derivation=DERIVATION):
    """Writes a slice again, with other HU; what was written, as read, and the saturated pixels."""
    source = read_slice(path)
    output = path.with_name("out.dcm")
    hu = source.hu if hu is None else np.broadcast_to(hu, source.hu.shape)
    saturated = write_slice(output, source, hu, derivation=derivation)
    return read_slice(output), saturated


@pytest.mark.parametrize(("bits", "signed", "first"), [
    (12, False, 1), (12, True, -200), (16, False, 33_000), (16, True, -900), (8, False, 1),
    (8, True, -127)])
@pytest.mark.parametrize(("slope", "first_hu"), [(1, -1024), (0.5, 3.25), (2, -1900), (-1, 100)])
def test_hu_are_read_and_written_by_slope_and_intercept(tmp_path, bits, signed, first, slope,
                                                        first_hu):
    stored = ramp((7, 8), first=first, step=1)
    intercept = first_hu - slope * first
    path = write(tmp_path / "a.dcm", stored=stored, bits=bits, signed=signed, slope=slope,
                 intercept=intercept)
    read = read_slice(path)
    np.testing.assert_array_equal(read.stored, stored)
    assert not read.outside.any()
    assert read.hu.dtype == np.float32
    np.testing.assert_array_equal(read.hu, stored * slope + intercept)
    written, saturated = rewrite(path, read.hu + 2 * slope)
    assert saturated == 0
    np.testing.assert_array_equal(written.stored, stored + 2)
    for keyword in ("RescaleSlope", "RescaleIntercept", "BitsAllocated", "BitsStored", "HighBit",
                    "PixelRepresentation"):
        assert written.dataset[keyword] == pydicom.dcmread(path)[keyword]


def test_hu_are_rounded_to_the_nearest_stored_value(tmp_path):
    path = write(tmp_path / "a.dcm", stored=np.full((1, 8), 500), slope=2, intercept=-1000)
    hu = [[0.9, 1.1, -0.9, -1.1, 2.9, 3.1, -600.9, -601.1]]
    written, _ = rewrite(path, hu)
    assert written.stored.tolist() == [[500, 501, 500, 499, 501, 502, 200, 199]]


@pytest.mark.parametrize(("bits", "signed", "limits"), [
    (12, False, (0, 4095)), (12, True, (-2048, 2047)), (16, True, (-32768, 32767)),
    (8, False, (0, 255))])
def test_what_the_bits_cannot_hold_is_set_to_their_limit_and_counted(tmp_path, bits, signed,
                                                                     limits):
    path = write(tmp_path / "a.dcm", stored=[[9, 50, 50, 50, 50, 50]], bits=bits, signed=signed,
                 padding=9)
    lowest, highest = limits
    written, saturated = rewrite(path, np.array([[1e6, lowest - 1, highest + 1, lowest, highest,
                                                  7]]) - 1024)
    assert saturated == 2
    assert written.stored.tolist() == [[9, lowest, highest, lowest, highest, 7]]


@pytest.mark.parametrize(("value", "limit", "stored", "outside"), [
    (7, None, [7, 8, 6], [True, False, False]),
    (7, 9, [6, 7, 8, 9, 10], [False, True, True, True, False]),
    (9, 7, [6, 7, 8, 9, 10], [False, True, True, True, False]),
    (-1500, None, [-1500, -1499, -1501], [True, False, False]),
])
@pytest.mark.parametrize("vr", ["US", "SS"])
def test_padding_is_kept_whichever_sign_its_tag_has(tmp_path, value, limit, stored, outside, vr):
    signed = value < 0
    dataset = ct_slice(stored=[stored], bits=16, signed=signed, intercept=0)
    for keyword, number in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
        if number is not None:
            dataset.add_new(keyword, vr, number & 0xFFFF if vr == "US" else number)
    path = save(tmp_path / "a.dcm", dataset)
    read = read_slice(path)
    assert read.outside.tolist() == [outside]
    assert (read.hu[read.outside] == OUTSIDE_HU).all()
    written, _ = rewrite(path, 100)
    assert written.stored.tolist() == [[old if out else 100 for old, out
                                        in zip(stored, outside, strict=True)]]
    assert written.dataset.PixelPaddingValue == pydicom.dcmread(path).PixelPaddingValue


def test_what_no_measurement_has_is_kept_without_a_tag(tmp_path):
    hu = np.array([[-2000, -3024, -1024, -1000, 40, 3071]])
    path = write(tmp_path / "a.dcm", stored=hu + 24, bits=16, signed=True, intercept=-24)
    read = read_slice(path)
    assert read.outside.tolist() == [[True, True, False, False, False, False]]
    assert read.hu.tolist() == [[OUTSIDE_HU, OUTSIDE_HU, -1024, -1000, 40, 3071]]
    written, saturated = rewrite(path, [[5, 5, 5, 5, 5, 5]])
    assert written.stored.tolist() == [[-1976, -3000, 29, 29, 29, 29]]
    assert saturated == 0


def test_corners_at_the_lowest_value_are_outside_but_the_same_value_within_is_not(tmp_path):
    stored = np.full((6, 7), 900)
    stored[0, :3] = stored[1, 0] = stored[-1, -1] = 0
    expected = stored == 0
    stored[3, 3] = 0
    path = write(tmp_path / "a.dcm", stored=stored)
    np.testing.assert_array_equal(read_slice(path).outside, expected)
    written, _ = rewrite(path, 76)
    np.testing.assert_array_equal(written.stored, np.where(expected, 0, 1100))


@pytest.mark.parametrize(("syntax", "is_native"), [
    (uid.ImplicitVRLittleEndian, True), (uid.ExplicitVRLittleEndian, True),
    (uid.ExplicitVRBigEndian, False), (uid.DeflatedExplicitVRLittleEndian, False),
    (uid.RLELossless, False)])
def test_uncompressed_pixels_are_read_without_parsing_the_file_again(tmp_path, monkeypatch, syntax,
                                                                     is_native):
    path = write(tmp_path / "a.dcm", syntax=syntax)
    header, = dicom.read_headers(path)

    def fail(*arguments, **options):
        raise AssertionError("parsed")

    monkeypatch.setattr(dicom, "parse", fail)
    if is_native:
        np.testing.assert_array_equal(dicom.read_pixels(header).hu, ramp() - 1024.0)
    else:
        with pytest.raises(AssertionError, match="parsed"):
            dicom.read_pixels(header)


def test_the_regions_of_another_mask_are_found_anew(tmp_path):
    """The slices of a series share them only if they are equal."""
    for name, columns in (("a", 2), ("b", 3), ("c", 2)):
        stored = np.full((6, 7), 900)
        stored[:, :columns] = 50
        stored[2, 5] = 50  # within
        path = write(tmp_path / f"{name}.dcm", stored=stored, padding=50)
        assert read_slice(path).outside.sum(axis=1).tolist() == [columns] * 6


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 2)])
@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_pixels_of_an_odd_number_of_bytes_are_filled_up(tmp_path, shape, bits, syntax):
    path = write(tmp_path / "a.dcm", stored=ramp(shape, step=1), bits=bits, syntax=syntax)
    written, _ = rewrite(path)
    np.testing.assert_array_equal(written.stored, ramp(shape, step=1))
    size = np.prod(shape) * (2 if bits > 8 else 1)
    assert len(written.dataset.PixelData) == size + size % 2


@pytest.mark.parametrize(("syntax", "becomes"), [
    (uid.ImplicitVRLittleEndian, uid.ImplicitVRLittleEndian),
    *((syntax, uid.ExplicitVRLittleEndian) for syntax in (
        uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1))])
def test_every_encoding_is_read_and_written_uncompressed(tmp_path, syntax, becomes):
    stored = ramp((33, 36))
    path = write(tmp_path / "a.dcm", stored=stored, bits=16, syntax=syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    read = read_slice(path)
    np.testing.assert_array_equal(read.stored, stored)
    assert read.stored.dtype.isnative
    assert read_header(path) == read.header
    written, saturated = rewrite(path)
    np.testing.assert_array_equal(written.stored, stored)
    assert saturated == 0
    assert written.dataset.file_meta.TransferSyntaxUID == becomes
    assert written.dataset["PixelData"].VR == "OW"


def in_jpeg_ls(path):
    """A sample of pydicom's, made a CT slice."""
    dataset = pydicom.dcmread(get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.save_as(path)
    return path


def test_jpeg_ls_is_read(tmp_path):
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    np.testing.assert_array_equal(read_slice(in_jpeg_ls(tmp_path / "a.dcm")).stored,
                                  plain.pixel_array)


def test_words_of_big_endian_elements_are_swapped(tmp_path):
    dataset = ct_slice()
    item = Dataset()
    for target in (dataset, item):
        target.add_new(0x00091001, "OW", struct.pack(">3H", 1, 2, 515))
        target.add_new(0x00091002, "OF", struct.pack(">2f", 1.5, -3))
        target.add_new(0x00091003, "FD", [2.5, 7])
    dataset.add_new(0x00091004, "SQ", [item])
    path = save(tmp_path / "a.dcm", dataset, syntax=uid.ExplicitVRBigEndian)
    written = rewrite(path)[0].dataset
    for source in (written, written[0x00091004].value[0]):
        assert struct.unpack("<3H", source[0x00091001].value) == (1, 2, 515)
        assert struct.unpack("<2f", source[0x00091002].value) == (1.5, -3)
        assert list(source[0x00091003].value) == [2.5, 7]


def test_a_file_without_preamble_is_read(tmp_path):
    content = write(tmp_path / "a.dcm", syntax=uid.ImplicitVRLittleEndian).read_bytes()
    bare = tmp_path / "bare"
    bare.write_bytes(content[content.index(b"\x08\0\x08\0"):])
    written, _ = rewrite(bare)
    np.testing.assert_array_equal(written.stored, ramp())
    assert (tmp_path / "out.dcm").read_bytes()[128:132] == b"DICM"


def test_bits_above_those_stored_are_no_pixels(tmp_path):
    """Overlays were once put there."""
    path = write(tmp_path / "a.dcm", stored=ramp() + (1 << 15))
    dataset = pydicom.dcmread(path)
    assert dataset.BitsStored == 12
    np.testing.assert_array_equal(read_slice(path).stored, ramp())


def test_uids_are_new_and_follow_from_source_and_weights(tmp_path):
    paths = [write(tmp_path / f"{i}.dcm", instance=i) for i in (1, 2)]
    other = Derivation(model="AttnDFGAN", weights_sha256="cd" * 32, version="1.2")
    first, second = (rewrite(path)[0].header for path in paths)
    again, elsewhere = rewrite(paths[0])[0].header, rewrite(paths[0], derivation=other)[0].header
    assert first.series_uid == second.series_uid == again.series_uid
    assert first.sop_uid == again.sop_uid
    uids = [first.sop_uid, second.sop_uid, first.series_uid, elsewhere.sop_uid,
            elsewhere.series_uid, SERIES, f"{SERIES}.1", f"{SERIES}.2"]
    assert len(set(uids)) == len(uids)
    assert all(uid.UID(name).is_valid and name.startswith("2.25.") for name in uids[:5])
    written = rewrite(paths[0])[0].dataset
    assert written.file_meta.MediaStorageSOPInstanceUID == written.SOPInstanceUID == first.sop_uid


def test_a_slice_is_marked_as_derived(tmp_path):
    path = write(tmp_path / "a.dcm", ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"])
    written = rewrite(path)[0].dataset
    assert list(written.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 SPI"]
    assert written.DerivationDescription == (
        f"Denoised by AttnDFGAN, weights SHA-256 {'ab' * 32}, dfgan_jax 1.2. Research software, "
        "not a medical device.")
    assert written.SeriesDescription == "Abdomen 3.0, denoised by AttnDFGAN"
    assert written.SeriesNumber == 1004
    source, = written.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == f"{SERIES}.1"
    assert source.ReferencedSOPClassUID == uid.CTImageStorage
    purpose, = source.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("121322", "DCM")
    equipment, = written.ContributingEquipmentSequence
    assert (equipment.Manufacturer, equipment.SoftwareVersions) == ("dfgan_jax", "1.2")
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109103"


def test_an_image_type_of_one_value_is_one_word(tmp_path):
    written, _ = rewrite(write(tmp_path / "a.dcm", ImageType="ORIGINAL"))
    assert list(written.dataset.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    with pytest.raises(NotACTSlice, match="localizer"):
        read_header(write(tmp_path / "b.dcm", ImageType="LOCALIZER"))


def test_an_image_derived_before_keeps_its_history(tmp_path):
    equipment = Dataset()
    equipment.Manufacturer = "Former"
    path = write(tmp_path / "a.dcm", ImageType=None, SeriesDescription="x" * 64, SeriesNumber=None,
                 DerivationDescription="y" * 1024, ContributingEquipmentSequence=[equipment])
    written = rewrite(path)[0].dataset
    assert list(written.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert len(written.DerivationDescription) == 1024
    assert written.DerivationDescription.startswith("yyy")
    assert written.DerivationDescription.endswith("not a medical device.")
    assert len(written.SeriesDescription) == 64
    assert written.SeriesDescription.endswith("x, denoised by AttnDFGAN")
    assert "SeriesNumber" not in written
    assert [each.Manufacturer for each in written.ContributingEquipmentSequence] == [
        "Former", "dfgan_jax"]


def test_all_else_stays(tmp_path):
    private = {0x00291010: "LO"}
    dataset = ct_slice(SmallestImagePixelValue=100, LargestImagePixelValue=1057)
    dataset.add_new(0x00290010, "LO", "MAKER")
    for tag, vr in private.items():
        dataset.add_new(tag, vr, "kept")
    before = save(tmp_path / "a.dcm", dataset)
    after = rewrite(before, 76)[0].dataset
    changed = {element.keyword for element in after
               if element.tag not in pydicom.dcmread(before)
               or element != pydicom.dcmread(before)[element.tag]}
    assert changed == {
        "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "InstanceCreationDate",
        "InstanceCreationTime", "DerivationDescription", "SourceImageSequence",
        "ContributingEquipmentSequence", "SeriesDescription", "SeriesNumber", "PixelData",
        "SmallestImagePixelValue", "LargestImagePixelValue"}
    assert not [element for element in pydicom.dcmread(before) if element.tag not in after]
    assert (after.SmallestImagePixelValue, after.LargestImagePixelValue) == (1100, 1100)


def test_what_spoke_of_the_former_pixels_is_taken_out(tmp_path):
    stale = {keyword: [Dataset()] for keyword in (
        "IconImageSequence", "MACParametersSequence", "DigitalSignaturesSequence")}
    dataset = ct_slice(stored=ramp((33, 36)), **stale)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.compress(uid.RLELossless, encoding_plugin="pydicom", encapsulate_ext=True,
                     generate_instance_uid=False)
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    source = pydicom.dcmread(tmp_path / "a.dcm")
    written = rewrite(tmp_path / "a.dcm")[0].dataset
    for keyword in (*stale, "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        assert keyword in source
        assert keyword not in written


REFUSED = {
    "localizer": (NotACTSlice, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
    "enhanced": (NotACTSlice, {"SOPClassUID": uid.EnhancedCTImageStorage},
                 "Enhanced CT Image Storage, not CT Image Storage"),
    "report": (NotACTSlice, {"SOPClassUID": uid.BasicTextSRStorage, "PixelData": None},
               "Basic Text SR Storage"),
    "directory": (NotACTSlice, {"SOPClassUID": uid.MediaStorageDirectoryStorage},
                  "Media Storage Directory"),
    "private class": (NotACTSlice, {"SOPClassUID": "1.2.3.4"}, r"1\.2\.3\.4, not CT"),
    "frames": (NotACTSlice, {"NumberOfFrames": 2}, "several frames"),
    "colour": (NotACTSlice, {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
               r"colour \(RGB\)"),
    "no slope": (NotACTSlice, {"RescaleSlope": None}, "no rescale slope"),
    "no intercept": (NotACTSlice, {"RescaleIntercept": None}, "no rescale slope"),
    "unit": (NotACTSlice, {"RescaleType": "OD"}, "values in OD, not HU"),
    "no pixels": (InputError, {"PixelData": None}, "broken: it has no pixels"),
    "flat": (InputError, {"RescaleSlope": 0}, "rescale slope 0"),
    "huge slope": (InputError, {"RescaleSlope": "1e38", "RescaleIntercept": "3e38"},
                   "give no finite HU"),
    "rows": (InputError, {"Rows": 17}, r"broken \(ValueError"),
    "no rows": (InputError, {"Rows": None}, r"broken \(AttributeError"),
    "empty": (InputError, {"Rows": 0}, "has 0×20 pixels"),
    "huge": (InputError, {"Rows": 65535, "Columns": 65535}, "has 65535×65535 pixels"),
    "bits": (InputError, {"BitsStored": 17, "HighBit": 16}, "17 bits in 16"),
    "high bit": (InputError, {"HighBit": 15}, "the highest 15"),
    "sign": (InputError, {"PixelRepresentation": 2}, "pixel representation 2"),
    "no instance": (InputError, {"SOPInstanceUID": None}, "no SOP Instance UID"),
    "no series": (InputError, {"SeriesInstanceUID": None}, "no Series Instance UID"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_slice_in_hu_is_refused_by_name(tmp_path, name):
    kind, elements, message = REFUSED[name]
    dataset = ct_slice()
    for keyword, value in elements.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    if name == "no instance":
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    path = tmp_path / "a.dcm"
    save_meta = getattr(dataset, "file_meta", None)
    if save_meta is None:
        save(path, dataset)
    else:
        save_meta.MediaStorageSOPClassUID = uid.CTImageStorage
        save_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        dataset.save_as(path, enforce_file_format=False)
    with pytest.raises(InputError, match=rf"a\.dcm: .*{message}") as caught:
        read_slice(path)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "content", "kind", "message"), [
    ("empty.dcm", b"", InputError, "broken"),
    ("empty", b"", NotACTSlice, "not a DICOM file"),
    ("notes.txt", b"These are notes, long enough to be read as elements of some kind.\n" * 20,
     NotACTSlice, "not a DICOM file"),
    ("notes.dcm", b"These are notes, long enough to be read as elements of some kind.\n" * 20,
     InputError, "broken"),
    ("x.IMA", bytes(1000), InputError, "broken"),
    ("x.bin", bytes(128) + b"DICM", InputError, "broken"),
    # An element of four bytes that has two.
    ("odd.dcm", b"\2\0\0\0UL\2\0ab", InputError, r"broken \(BytesLengthException"),
    ("odd.bin", b"\2\0\0\0UL\2\0ab", NotACTSlice, "not a DICOM file"),
])
def test_files_of_other_kinds_are_told_from_broken_ones(tmp_path, name, content, kind, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {message}") as caught:
        read_header(tmp_path / name)
    assert type(caught.value) is kind
    with pytest.raises(InputError, match="nowhere: No such file"):
        read_header(tmp_path / "nowhere")
    with pytest.raises(InputError, match="Is a directory"):
        read_header(tmp_path)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x1f\x8b\x08\0", b"\0\0\0 ftypmp42"])
def test_other_files_are_not_parsed(tmp_path, monkeypatch, start):
    """Lengths in them may be gigabytes."""
    monkeypatch.setattr(pydicom, "dcmread", lambda *arguments, **options: pytest.fail("parsed"))
    (tmp_path / "other").write_bytes(start + bytes(200))
    with pytest.raises(NotACTSlice, match="other: not a DICOM file"):
        read_header(tmp_path / "other")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    with pytest.raises(NotACTSlice, match=r"pipe\.dcm: a pipe"):
        read_header(tmp_path / "pipe.dcm")


def test_pixels_of_an_unknown_kind_are_refused_wherever_they_are_read(tmp_path):
    path = write(tmp_path / "a.dcm", syntax=uid.ExplicitVRLittleEndian)
    content = path.read_bytes()
    assert content.count(b"\xe0\x7f\x10\x00OW") == 1
    path.write_bytes(content.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00O\xe3"))
    with pytest.raises(InputError, match=r"a\.dcm: broken"):
        read_slice(path)


@pytest.mark.parametrize("syntax", [
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLosslessSV1])
def test_a_truncated_slice_is_broken_and_nothing_else(tmp_path, syntax):
    """Wherever it ends: one that is skipped would not be missed."""
    content = write(tmp_path / "whole.dcm", syntax=syntax, bits=16).read_bytes()
    path = tmp_path / "cut.dcm"
    for length in range(0, len(content) - 100, 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            read_slice(path)
        assert type(caught.value) is InputError, f"{length}: {caught.value}"
        with contextlib.suppress(InputError):
            read_header(path)
            continue
        with pytest.raises(InputError) as caught:
            read_header(path)
        assert type(caught.value) is InputError, f"{length}: {caught.value}"


def test_a_truncated_slice_is_broken_for_the_reader_of_headers(tmp_path):
    content = write(tmp_path / "whole.dcm").read_bytes()
    slope = content.index(b"\x28\x00\x53\x10")
    (tmp_path / "cut.dcm").write_bytes(content[:slope])
    with pytest.raises(InputError, match="broken: it has no pixels") as caught:
        read_header(tmp_path / "cut.dcm")
    assert type(caught.value) is InputError


@pytest.mark.parametrize(("syntax", "message"), [
    ("1.2.840.10008.1.2.4.55", "compressed as JPEG Full Progression.*which no decoder here knows"),
    ("1.2.840.10008.1.2.4.44", "its transfer syntax is 1.*4.44, which no decoder here knows"),
    ("1.2.3", "its transfer syntax is 1.2.3, a private one, which no decoder here knows"),
])
def test_unknown_compressions_are_named(tmp_path, syntax, message):
    path = write(tmp_path / "a.dcm", syntax=uid.JPEG2000Lossless, stored=ramp((33, 36)))
    content = path.read_bytes()
    former, syntax = (text.encode() + bytes(len(text) % 2)
                      for text in (uid.JPEG2000Lossless, syntax.ljust(22, "\0")))
    assert content.count(former) == 1
    path.write_bytes(content.replace(former, syntax))
    with pytest.raises(InputError, match=message) as caught:
        read_slice(path)
    assert type(caught.value) is InputError


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLosslessSV1])
def test_a_stream_that_lies_of_its_size_is_not_decoded(tmp_path, monkeypatch, syntax):
    path = write(tmp_path / "a.dcm", stored=ramp((33, 36)), bits=16, syntax=syntax)
    dataset = pydicom.dcmread(path)
    frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if syntax == uid.JPEG2000Lossless:
        struct.pack_into(">2I", frame, frame.index(b"\xff\x51") + 6, 65535, 65535)
    else:
        struct.pack_into(">2H", frame, frame.index(b"\xff\xc3") + 5, 65535, 65535)
    dataset.PixelData = encapsulate([bytes(frame)])
    dataset.save_as(path)
    monkeypatch.setattr(dicom_pixels, "get_decoder", None)
    with pytest.raises(InputError, match=r"broken: its stream says 65535×65535 pixels, its header "
                                         "33×36"):
        read_slice(path)


def test_markers_of_a_stream_may_be_filled_up_in_front(tmp_path):
    path = write(tmp_path / "a.dcm", stored=ramp((33, 36)), bits=16, syntax=uid.JPEGLosslessSV1)
    dataset = pydicom.dcmread(path)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame.replace(b"\xff\xc3", b"\xff\xff\xff\xc3")])
    dataset.save_as(path)
    np.testing.assert_array_equal(read_slice(path).stored, ramp((33, 36)))


def test_a_stream_of_more_bits_than_the_header_says_is_broken(tmp_path):
    path = write(tmp_path / "a.dcm", stored=ramp((33, 36), step=20), bits=16,
                 syntax=uid.JPEG2000Lossless)
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"broken: has values 100 to 23840; its header says 0 to "
                                         "4095"):
        read_slice(path)


def test_a_deflated_file_is_inflated_only_so_far(tmp_path, monkeypatch):
    path = write(tmp_path / "a.dcm", syntax=uid.DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(dicom_file, "_MAX_INFLATED_BYTES", 1000)
    with pytest.raises(InputError, match="inflates to more than 1,000 bytes"):
        read_slice(path)


def test_an_element_that_cannot_be_written_again_is_named_and_nothing_is_left(tmp_path):
    source = read_slice(write(tmp_path / "a.dcm"))
    source.dataset.add_new(0x00091001, "US", "no number")
    with pytest.raises(InputError, match=r"a\.dcm: broken") as caught:
        write_slice(tmp_path / "out.dcm", source, source.hu, derivation=DERIVATION)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


def test_a_full_disk_is_no_broken_slice(tmp_path, monkeypatch):
    source = read_slice(write(tmp_path / "a.dcm"))

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:200])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: .*out\.dcm"):
        write_slice(tmp_path / "out.dcm", source, source.hu, derivation=DERIVATION)
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


def headers_of(folder, **slices):
    return [read_header(write(folder / f"{name}.dcm", **options))
            for name, options in slices.items()]


def names(slices):
    return "".join(header.path.stem for header in slices)


def test_files_are_found_in_all_folders(tmp_path):
    for name in ("b/2.dcm", "a/x/1", "3"):
        write(tmp_path / name)
    assert dicom_folder.find_files(tmp_path) == [
        tmp_path / "3", tmp_path / "a/x/1", tmp_path / "b/2.dcm"]
    assert dicom_folder.find_files(tmp_path / "3") == [tmp_path / "3"]
    with pytest.raises(OSError, match="nowhere"):
        dicom_folder.find_files(tmp_path / "nowhere")


def test_headers_say_what_stands_there(tmp_path):
    header = read_header(write(
        tmp_path / "a.dcm", position=(1, 2, 3.5), KVP=None, AcquisitionDate="20200102",
        AcquisitionTime="1234", ConvolutionKernel=["Br40d", "3"], PixelSpacing=[0.7, 0.8]))
    assert header == SliceHeader(
        path=tmp_path / "a.dcm", rows=16, columns=20, sop_uid=f"{SERIES}.1", series_uid=SERIES,
        study_uid="1.2.826.0.1.3680043.8.498.9",
        frame_of_reference_uid="1.2.826.0.1.3680043.8.498.8", acquisition="time 202001021234",
        patient_id="patient-1", series_description="Abdomen 3.0", instance_number=1,
        kernel="Br40d\\3", thickness_mm=3.0, pixel_spacing_mm=(0.7, 0.8),
        orientation=(1, 0, 0, 0, 1, 0), position_mm=(1, 2, 3.5))
    bare = read_header(write(tmp_path / "b.dcm", position=(1, 2), ImageOrientationPatient=None,
                             ConvolutionKernel=None, InstanceNumber=None, thickness=None,
                             PixelSpacing=None, PatientID=None))
    assert (bare.orientation, bare.position_mm, bare.location_mm, bare.kernel, bare.thickness_mm,
            bare.instance_number, bare.pixel_spacing_mm, bare.patient_id) == (
                None, None, None, "", None, None, None, "")


def test_series_are_told_apart_and_ordered_by_position(tmp_path):
    headers = headers_of(
        tmp_path, a={"position": (0, 0, 9), "instance": 1}, b={"position": (0, 0, -4.5),
                                                               "instance": 2},
        c={"position": (0, 0, 1), "instance": 3}, d={"series": f"{SERIES}.7", "instance": 1})
    assert list(map(names, dicom.group_by_series(headers))) == ["bca", "d"]


def test_slices_of_a_tilted_gantry_are_ordered_along_their_normal(tmp_path):
    """The bed moves along z, and the slices' corner moves in y as it pleases."""
    tilt = np.deg2rad(25)
    orientation = (1, 0, 0, 0, np.cos(tilt), -np.sin(tilt))  # its normal is (0, sin, cos)
    headers = headers_of(tmp_path, **{
        name: {"position": (0, y, z), "orientation": orientation, "instance": i}
        for i, (name, y, z) in enumerate([("a", 0, 0), ("b", 30, -5), ("c", -30, 5)])})
    assert [round(header.location_mm, 2) for header in headers] == [0, 8.15, -8.15]
    assert list(map(names, dicom.group_by_series(headers))) == ["cab"]


def test_series_without_positions_are_ordered_by_number_then_name(tmp_path):
    headers = headers_of(tmp_path, **{
        name: {"instance": i, "InstanceNumber": number, "ImagePositionPatient": None}
        for i, (name, number) in enumerate([("d", 2), ("c", 1), ("b", 10), ("a", 1)])})
    series, = dicom.group_by_series(headers)
    assert names(series) == "acdb"
    assert dicom.series_notes(series) == ["slices without a position"]
    assert dicom.series_notes(series[:1]) == []


@pytest.mark.parametrize(("positions", "thickness", "notes"), [
    ([0, 3, 6, 9], 3, []),
    ([0], 3, []),
    ([0, 3, 9, 12, 21, 24, 27], 3,
     ["the input has gaps between 0 and 27 mm, with room for 3 slices"]),
    ([0, 2, 4, 6], 3, []),  # overlapping
    ([0, 10, 20], 3, []),  # a gap that all have
    ([0, 3, 3, 3, 6], 3, ["2 slices at the place of another"]),
    ([0, 3, 3, 6, 9, 15], 3, ["1 slice at the place of another",
                       "the input has gaps between 0 and 15 mm, with room for 1 slice"]),
    ([0, 1, 2, 3, 8, 13], [1, 1, 1, 5, 5, 5], []),  # thicker from here on
    ([0, 1, 2, 3, 13, 18], [1, 1, 1, 5, 5, 5],
     ["the input has gaps between 0 and 18 mm, with room for 1 slice"]),
])
def test_notes_tell_what_is_odd_in_a_series(tmp_path, positions, thickness, notes):
    thickness = np.broadcast_to(thickness, len(positions))
    headers = headers_of(tmp_path, **{
        str(i): {"position": (0, 0, z), "thickness": float(thickness[i]), "instance": i}
        for i, z in enumerate(positions)})
    series, = dicom.group_by_series(headers)
    assert dicom.series_notes(series) == notes


def test_slices_of_another_orientation_are_noted_and_leave_no_gap(tmp_path):
    """A scout without its image type, or a reformatted view, in the series of the scan."""
    series, = dicom.group_by_series(headers_of(
        tmp_path, **{str(i): {"position": (0, 0, 3 * i), "instance": i,
                              "orientation": (1, 0.0005 * i, 0, 0, 1, 0)} for i in range(4)},
        view={"position": (-200, 150, -40), "orientation": (1, 0, 0, 0, 0, -1), "instance": 9}))
    assert dicom.series_notes(series) == ["1 slice of another orientation"]


@pytest.mark.parametrize("spacing", [None, [0.7, 0.8], [0, 0], [-0.7, -0.7]])
def test_pixels_of_no_known_square_size_are_noted(tmp_path, spacing):
    headers = [read_header(write(tmp_path / f"{index}.dcm", instance=index,
                                 position=(0, 0, index), PixelSpacing=given))
               for index, given in enumerate([[0.7, 0.7], spacing])]
    assert dicom.series_notes(headers) == [
        "1 slice without the size of square pixels, so that noise and kernel cannot be measured"]


def test_an_instance_in_several_files_is_noted(tmp_path):
    series, = dicom.group_by_series(headers_of(tmp_path, a={}, b={}))
    assert dicom.series_notes(series) == [
        "the same instance occurs in several files", "1 slice at the place of another"]


@pytest.mark.parametrize("syntax", [
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless,
    uid.JPEGLosslessSV1, uid.JPEGLSLossless])
def test_broken_slices_are_refused_and_nothing_else_happens(tmp_path, fuzz_files, syntax):
    path = tmp_path / "a.dcm"
    if syntax == uid.JPEGLSLossless:
        in_jpeg_ls(path)
    else:
        write(path, stored=ramp((33, 36)), bits=16, syntax=syntax)
    content = path.read_bytes()
    rng = np.random.default_rng(len(syntax))
    header = content.rindex(b"\xe0\x7f" if b"\xe0\x7f" in content else content[-2:]) + 200

    def read_and_write(path):
        source = read_slice(path)
        assert source.hu.shape == source.outside.shape == source.stored.shape
        assert np.isfinite(source.hu).all()
        write_slice(tmp_path / "out.dcm", source, source.hu, derivation=DERIVATION)
        np.testing.assert_array_equal(read_slice(tmp_path / "out.dcm").stored, source.stored)

    count = fuzz_files // 8
    contents = [copy + content[header:] for copy in mutated(content[:header], count=count, rng=rng)]
    messages = refusals(read_and_write, path, contents)
    assert len(messages) > count / 20
    assert not [line for line in messages if not line.startswith(f"{path}: ") or "\n" in line]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.dcm", "out.dcm"]


def test_a_strength_is_described_and_gives_uids_of_its_own(tmp_path):
    path = write(tmp_path / "a.dcm")
    whole = rewrite(path)[0]
    weaker = rewrite(path, derivation=dataclasses.replace(DERIVATION, strength=0.7))[0]
    assert weaker.dataset.DerivationDescription.split("Denoised by ")[1].startswith(
        "AttnDFGAN, strength 0.7, weights SHA-256 ")
    assert "strength" not in whole.dataset.DerivationDescription
    assert "strength 0.7" in weaker.dataset.SeriesDescription
    assert weaker.header.sop_uid != whole.header.sop_uid


def test_a_self_ensemble_is_described_and_gives_uids_of_its_own(tmp_path):
    path = write(tmp_path / "a.dcm")
    ensemble = rewrite(path, derivation=dataclasses.replace(DERIVATION, self_ensemble=True))[0]
    assert ensemble.dataset.DerivationDescription.split("Denoised by ")[1].startswith(
        "AttnDFGAN, self-ensemble, weights SHA-256 ")
    assert ensemble.header.sop_uid != rewrite(path)[0].header.sop_uid


def test_a_file_that_is_gone_after_its_header_was_read_is_broken_by_itself(tmp_path):
    (header,) = dicom.read_headers(write(tmp_path / "a.dcm"))
    assert header.native is not None
    header.path.unlink()
    with pytest.raises(InputError, match=r"a\.dcm: No such file or directory"):
        dicom.read_pixels(header)


def test_a_file_whose_kind_the_system_does_not_give_is_broken_by_itself(tmp_path):
    with pytest.raises(InputError, match="File name too long"):
        dicom_file.parse(tmp_path / ("a" * 300))
