"""Frames are written as an enhanced CT image derived from theirs, whole or not at all."""

import pathlib
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom import uid

from dfgan_jax.scans import dicom_output
from dfgan_jax.scans.dicom import read_headers, read_slice_of
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.scans.dicom_output import DicomOutput
from dfgan_jax.support.errors import InputError
from tests.scans.dicom_files import SERIES
from tests.scans.enhanced_files import PER_FRAME, SHARED, enhanced_ct, frames, item, save, write

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of broken headers

DERIVATION = Derivation(model="AttnDFGAN", weights_sha256="ab" * 32, version="1.2")


def rewrite(path, *, hu=None, order=None, derivation=DERIVATION):
    """Writes all frames again, in an order, with other HU; the file, and the saturated pixels."""
    output = path.with_name("out.dcm")
    headers = read_headers(path)
    saturated = 0
    with DicomOutput({path: output}, derivation=derivation) as out:
        for index in order or range(len(headers)):
            read = read_slice_of(headers[index])
            saturated += out.write(read, read.hu if hu is None else
                                   np.broadcast_to(hu[index], read.hu.shape))
    return output, saturated


def read_all(path):
    return [read_slice_of(header) for header in read_headers(path)]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("syntax", "becomes"), [
    (uid.ExplicitVRLittleEndian, uid.ExplicitVRLittleEndian),
    (uid.ImplicitVRLittleEndian, uid.ImplicitVRLittleEndian),
    *((syntax, uid.ExplicitVRLittleEndian) for syntax in (
        uid.ExplicitVRBigEndian, uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1))])
def test_frames_are_written_in_their_places_in_any_order(tmp_path, legacy, syntax, becomes):
    path = write(tmp_path / "a.dcm", stored=frames(4, (33, 36)), bits=16, syntax=syntax,
                 slopes=[1, 2, 1, 0.5], legacy=legacy)
    hu = [10, 20, 30, 40]
    output, saturated = rewrite(path, hu=hu, order=[2, 0, 3, 1])
    assert saturated == 0
    assert pydicom.dcmread(output).file_meta.TransferSyntaxUID == becomes
    assert [each.hu.min() for each in read_all(output)] == hu
    assert [each.hu.max() for each in read_all(output)] == hu
    assert pydicom.dcmread(output).pixel_array.shape == (4, 33, 36)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.dcm", "out.dcm"]


@pytest.mark.parametrize(("bits", "signed", "shape"), [(8, False, (3, 5)), (12, True, (3, 5)),
                                                       (16, True, (1, 1))])
def test_values_are_kept_and_padding_stays(tmp_path, bits, signed, shape):
    stored = np.stack([np.full(shape, value) for value in (9, 50, 60)])
    path = write(tmp_path / "a.dcm", stored=stored, bits=bits, signed=signed,
                 intercepts=-1000, PixelPaddingValue=9)
    output, saturated = rewrite(path, hu=[77, 1e6, (-30 if signed else 30) - 1000])
    limit = (1 << bits - signed) - 1
    assert saturated == shape[0] * shape[1]
    assert [np.unique(each.stored).tolist() for each in read_all(output)] == [
        [9], [limit], [-30 if signed else 30]]
    assert len(pydicom.dcmread(output).PixelData) % 2 == 0


@pytest.mark.parametrize("legacy", [False, True])
def test_all_but_pixels_and_derivation_stays(tmp_path, legacy):
    path = write(tmp_path / "a.dcm", legacy=legacy)
    before, after = pydicom.dcmread(path), pydicom.dcmread(rewrite(path, hu=[1, 2, 3, 4])[0])
    changed = {element.keyword for element in after
               if element.tag not in before or element != before[element.tag]}
    assert changed == {
        "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "InstanceCreationDate",
        "InstanceCreationTime", "SourceImageEvidenceSequence", "ContributingEquipmentSequence",
        "SeriesDescription", "SeriesNumber", "PixelData", PER_FRAME, SHARED}
    assert not [element for element in before if element.tag not in after]
    for one, other in ((before[PER_FRAME].value, after[PER_FRAME].value),
                       (before[SHARED].value, after[SHARED].value)):
        for old, new in zip(one, other, strict=True):
            assert {element.keyword for element in new
                    if element.tag not in old or element != old[element.tag]} <= {
                "DerivationImageSequence", "CTImageFrameTypeSequence"}
            assert {element.keyword for element in old if element.tag not in new} <= {
                "ConversionSourceAttributesSequence"}


def test_an_image_is_marked_as_derived_frame_by_frame(tmp_path):
    path = write(tmp_path / "a.dcm")
    after = pydicom.dcmread(rewrite(path)[0])
    assert after.SOPClassUID == after.file_meta.MediaStorageSOPClassUID == (
        uid.EnhancedCTImageStorage)
    assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID == (
        DERIVATION.derived_uid(f"{SERIES}.1.9"))
    assert after.SeriesInstanceUID == DERIVATION.derived_uid(SERIES)
    assert list(after.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    frame_type, = after[SHARED].value[0].CTImageFrameTypeSequence
    assert list(frame_type.FrameType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    assert after.SeriesDescription == "Abdomen 3.0, denoised by AttnDFGAN"
    assert after.SeriesNumber == 1004
    equipment, = after.ContributingEquipmentSequence
    assert (equipment.Manufacturer, equipment.SoftwareVersions) == ("dfgan_jax", "1.2")
    for index, groups in enumerate(after[PER_FRAME].value):
        derived, = groups.DerivationImageSequence
        assert derived.DerivationDescription == (
            f"Denoised by AttnDFGAN, weights SHA-256 {'ab' * 32}, dfgan_jax 1.2. Research "
            "software, not a medical device.")
        source, = derived.SourceImageSequence
        assert source.ReferencedSOPInstanceUID == f"{SERIES}.1.9"
        assert source.ReferencedSOPClassUID == uid.EnhancedCTImageStorage
        assert source.ReferencedFrameNumber == index + 1
    study, = after.SourceImageEvidenceSequence
    series, = study.ReferencedSeriesSequence
    assert study.StudyInstanceUID == "1.2.826.0.1.3680043.8.498.9"
    assert series.SeriesInstanceUID == SERIES
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == f"{SERIES}.1.9"


def test_former_derivations_are_kept_and_precede(tmp_path):
    dataset = enhanced_ct(ConcatenationUID="1.2.3.9", InConcatenationNumber=1,
                          ConcatenationFrameOffsetNumber=0)
    dataset[SHARED].value[0].DerivationImageSequence = [item(DerivationDescription="shared")]
    after = pydicom.dcmread(rewrite(save(tmp_path / "a.dcm", dataset))[0])
    assert "DerivationImageSequence" not in after[SHARED].value[0]
    assert [[each.DerivationDescription.split()[0] for each in groups.DerivationImageSequence]
            for groups in after[PER_FRAME].value] == [["shared", "Denoised"]] * 4
    assert after.ConcatenationUID == DERIVATION.derived_uid("1.2.3.9")


def test_frames_of_a_legacy_image_no_longer_claim_to_be_converted_slices(tmp_path):
    after = pydicom.dcmread(rewrite(write(tmp_path / "a.dcm", legacy=True))[0])
    assert after.SOPClassUID == uid.LegacyConvertedEnhancedCTImageStorage
    assert not any("ConversionSourceAttributesSequence" in groups
                   for groups in after[PER_FRAME].value)


def test_what_spoke_of_the_former_pixels_is_taken_out(tmp_path):
    dataset = enhanced_ct(
        IconImageSequence=[item()], SmallestImagePixelValue=1, stored=frames() + (1 << 12))
    for element, vr, value in ((0x10, "US", 16), (0x11, "US", 20), (0x40, "CS", "G"),
                               (0x50, "SS", [1, 1]), (0x100, "US", 16), (0x102, "US", 12)):
        dataset.add_new(0x60000000 + element, vr, value)
    path = save(tmp_path / "a.dcm", dataset)
    assert read_headers(path)[0].notes == ("the overlay in bit 12 of the pixels is left out",)
    output = rewrite(path, hu=[1, 2, 3, 4])[0]
    after = pydicom.dcmread(output)
    assert not {"IconImageSequence", "SmallestImagePixelValue"} & set(after.dir())
    assert not [element for element in after if element.tag.group == 0x6000]
    assert after.pixel_array.max() == 1028


@pytest.mark.parametrize("order", [[], [0], [1, 2, 3]])
def test_a_file_without_all_frames_is_none(tmp_path, order):
    path = write(tmp_path / "a.dcm")
    headers = read_headers(path)
    with DicomOutput({path: tmp_path / "out.dcm"}, derivation=DERIVATION) as out:
        for index in order:
            read = read_slice_of(headers[index])
            out.write(read, read.hu)
    assert [each.name for each in tmp_path.iterdir()] == ["a.dcm"]


def test_an_error_leaves_no_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.dcm")
    read = read_slice_of(read_headers(path)[0])

    def interrupted():
        with DicomOutput({path: tmp_path / "out.dcm"}, derivation=DERIVATION) as out:
            out.write(read, read.hu)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [each.name for each in tmp_path.iterdir()] == ["a.dcm"]

    def full(path, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dicom_output, "allocate", full)
    with (pytest.raises(OSError, match=r"No space left on device: .*out\.dcm"),
          DicomOutput({path: tmp_path / "out.dcm"}, derivation=DERIVATION) as out):
        out.write(read, read.hu)
    assert [each.name for each in tmp_path.iterdir()] == ["a.dcm"]


def test_more_pixels_than_a_file_holds_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.dcm")
    monkeypatch.setattr(dicom_output, "_MAX_PIXEL_BYTES", 2558)
    with pytest.raises(InputError, match=r"a\.dcm: 2,560 bytes of pixels; a DICOM file holds at "
                                         "most 2,558 uncompressed ones"):
        rewrite(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.dcm"]


def test_an_element_that_cannot_be_written_again_is_named(tmp_path):
    path = write(tmp_path / "a.dcm", syntax=uid.ExplicitVRBigEndian)
    content = path.read_bytes()
    assert content.count(b"LO\x00\x04kept") == 1
    path.write_bytes(content.replace(b"LO\x00\x04kept", b"FD\x00\x04kept"))
    with pytest.raises(InputError, match=r"a\.dcm: broken \(") as caught:
        rewrite(path)
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["a.dcm"]


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_dciodvfy_finds_no_error_in_what_is_written(tmp_path, legacy, syntax):
    path = write(tmp_path / "a.dcm", legacy=legacy, private=False, syntax=syntax)
    for file in (path, rewrite(path)[0]):
        told = subprocess.run([pathlib.Path(shutil.which("dciodvfy")), file], capture_output=True,
                              text=True, check=False)
        assert (told.stdout + told.stderr).split() == [
            "LegacyConvertedEnhancedCTImage" if legacy else "EnhancedCTImage"]
