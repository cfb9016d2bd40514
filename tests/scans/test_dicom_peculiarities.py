"""Slices whose headers are wrong, incomplete or old, but whose meaning is plain, or named."""

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.overlays import get_overlay_array

from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom import read_header, write_slice
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.scans.dicom_file import NotACTSlice
from dfgan_jax.scans.hounsfield import OUTSIDE_HU
from dfgan_jax.support.errors import InputError
from tests.scans.dicom_files import ct_slice, ramp, save, write
from tests.scans.reading import read_slice

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of broken headers

DERIVATION = Derivation(model="AttnDFGAN", weights_sha256="ab" * 32, version="1.2")


def rewrite(path, hu):
    source = read_slice(path)
    write_slice(path.with_name("out.dcm"), source, np.broadcast_to(hu, source.hu.shape),
                derivation=DERIVATION)
    return read_slice(path.with_name("out.dcm"))


def notes(path):
    return dicom.series_notes([read_header(path)])


def marker(shape=(16, 20)):
    plane = np.zeros(shape, bool)
    plane[3:7, 5:8] = plane[-1, -1] = True
    return plane


def with_overlay(*, signed, bit=12, bits=12, shape=(16, 20), syntax=uid.ExplicitVRLittleEndian,
                 rows=None):
    """A slice with a marker in one of the bits above those stored."""
    stored = ramp(shape) - (500 if signed else 0)
    words = stored & (1 << bits) - 1 | marker(shape).astype(int) << bit
    dataset = ct_slice(stored=words, bits=bits, intercept=0 if signed else -1024)
    dataset.PixelRepresentation = int(signed)
    for element, vr, value in ((0x10, "US", rows or shape[0]), (0x11, "US", shape[1]),
                               (0x40, "CS", "G"), (0x50, "SS", [1, 1]), (0x100, "US", 16),
                               (0x102, "US", bit)):
        dataset.add_new(0x60020000 + element, vr, value)
    return dataset, stored, syntax


@pytest.mark.parametrize("syntax", [
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize(("signed", "bit"), [(True, 12), (False, 12), (True, 15), (False, 14)])
@pytest.mark.parametrize("shape", [(16, 20), (7, 5)])
def test_an_overlay_in_a_high_bit_becomes_overlay_data(tmp_path, syntax, signed, bit, shape):
    dataset, stored, _ = with_overlay(signed=signed, bit=bit, shape=shape)
    path = save(tmp_path / "a.dcm", dataset, syntax=syntax)
    np.testing.assert_array_equal(read_slice(path).stored, stored)
    assert notes(path) == [f"the overlay in bit {bit} of the pixels is written as OverlayData"]
    written = rewrite(path, -400)
    np.testing.assert_array_equal(written.hu, np.full(shape, -400))
    content = pydicom.dcmread(tmp_path / "out.dcm")
    np.testing.assert_array_equal(get_overlay_array(content, 0x6002), marker(shape))
    assert (content[0x60020100].value, content[0x60020102].value) == (1, 0)
    assert len(content[0x60023000].value) % 2 == 0
    assert notes(tmp_path / "out.dcm") == []


@pytest.mark.parametrize(("options", "syntax"), [
    ({"rows": 15}, uid.ExplicitVRLittleEndian), ({"bit": 16}, uid.ExplicitVRLittleEndian),
    ({"bits": 16, "bit": 16}, uid.RLELossless)])
def test_an_overlay_that_cannot_be_read_is_left_out_and_told(tmp_path, options, syntax):
    dataset, _, _ = with_overlay(signed=False, **options)
    dataset.add_new(0x60000010, "US", 16)  # of an overlay with data of its own
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", bytes(40))
    path = save(tmp_path / "a.dcm", dataset, syntax=syntax)
    bit = options.get("bit", 12)
    assert notes(path) == [f"the overlay in bit {bit} of the pixels is left out"]
    content = rewrite(path, 100).dataset
    assert sorted({element.tag.group for element in content if element.tag.group >> 8 == 0x60}
                  ) == [0x6000]


def test_a_note_on_all_slices_of_a_series_is_told_once(tmp_path):
    headers = []
    for i in range(4):
        dataset, _, _ = with_overlay(signed=False)
        dataset.SOPInstanceUID, dataset.ImagePositionPatient = f"1.2.{i}", [0, 0, 3 * i]
        if i == 1:
            del dataset.PhotometricInterpretation
        headers.append(read_header(save(tmp_path / f"{i}.dcm", dataset)))
    assert dicom.series_notes(headers) == [
        "the overlay in bit 12 of the pixels is written as OverlayData",
        "PhotometricInterpretation is missing: taken as MONOCHROME2 (1 slice)"]


def body(air, *, shape=(12, 12)):
    """Soft tissue of many values within a border of air."""
    stored = np.full(shape, air)
    stored[2:-2, 2:-2] = 1 + np.arange(np.prod([each - 4 for each in shape])).reshape(
        [each - 4 for each in shape])
    return stored


@pytest.mark.parametrize(("limit", "inside"), [(None, 0), (5, 3), (-5, -2)])
def test_padding_within_the_body_is_a_measurement(tmp_path, limit, inside):
    stored = body(0)
    stored[5, 5] = stored[6, 6:9] = inside
    path = write(tmp_path / "a.dcm", stored=stored, bits=16, signed=True, intercept=0, padding=0,
                 padding_limit=limit)
    border = np.ones(stored.shape, bool)
    border[2:-2, 2:-2] = False
    if limit == 5:  # the body begins with 1 to 5, at the border
        border[2, 2:7] = True
    read = read_slice(path)
    np.testing.assert_array_equal(read.outside, border)
    np.testing.assert_array_equal(read.hu, np.where(border, OUTSIDE_HU, stored))
    np.testing.assert_array_equal(rewrite(path, 77).stored, np.where(border, stored, 77))


@pytest.mark.parametrize(("signed", "word", "value", "limit"), [
    (False, 63536, 63536, None), (False, 63536, -2000, None), (False, 4096, 4096, None),
    (False, 65535, 60000, 65535), (True, -32768, -32768, None), (True, -32768, 32768, None),
    (True, -3000, -32768, -2500)])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_padding_beyond_the_stored_bits_is_padding(tmp_path, signed, word, value, limit, syntax):
    """Its lower 12 bits are those of a measurement."""
    stored = body(word)
    stored[4, 4] = word  # no measurement has it
    lower = word & 0xFFF
    stored[5, 5] = lower - (4096 if signed and lower > 2047 else 0)
    dataset = ct_slice(stored=stored, bits=12, intercept=0 if signed else -1024)
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = (stored & 0xFFFF).astype("<u2").tobytes()
    for keyword, number in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
        if number is not None:
            dataset.add_new(keyword, "SS" if -32768 <= number < 0 else "US", number)
    path = save(tmp_path / "a.dcm", dataset, syntax=syntax)
    read = read_slice(path)
    expected = stored == word
    np.testing.assert_array_equal(read.outside, expected)
    assert read.hu[5, 5] == stored[5, 5] - (0 if signed else 1024)
    np.testing.assert_array_equal(rewrite(path, 50).stored, np.where(
        expected, stored, 50 if signed else 1074))


@pytest.mark.parametrize(("bits", "air"), [(12, 3096), (16, 64536)])
def test_signed_values_with_an_unsigned_header_are_refused(tmp_path, bits, air):
    stored = body(air)
    path = write(tmp_path / "a.dcm", stored=stored, bits=bits, intercept=0)
    with pytest.raises(InputError, match=(
            rf"a\.dcm: broken: its values are signed, but PixelRepresentation is 0: air and lung "
            rf"are at {air:,} HU, not at -1,000 HU; expected PixelRepresentation 1$")) as caught:
        read_slice(path)
    assert type(caught.value) is InputError


@pytest.mark.parametrize(("stored", "options"), [
    (body(3096), {"intercept": -1024}),                      # metal in a sound file
    (body(0) * 60, {"intercept": 0}),                        # bright, without the values of air
    (body(-1000), {"intercept": 0, "signed": True, "bits": 16}),
    (np.where(body(3096) > 3000, 4095, body(3096)), {"intercept": 0}),  # saturated
    (body(3096), {"intercept": 0, "padding": 3096}),         # padding, and said so
])
def test_sound_values_are_not_taken_for_signed_ones(tmp_path, stored, options):
    path = write(tmp_path / "a.dcm", stored=stored, **options)
    np.testing.assert_array_equal(read_slice(path).stored, stored)


@pytest.mark.parametrize("word", [63536, 64512])  # -2000 and -1024 of 16 bits
def test_padding_below_0_in_unsigned_values_is_padding_at_the_border(tmp_path, word):
    stored = body(word)
    stored[5, 5] = word  # within the body, where nothing is padding
    path = write(tmp_path / "a.dcm", stored=stored, bits=16)
    border = np.ones(stored.shape, bool)
    border[2:-2, 2:-2] = False
    read = read_slice(path)
    np.testing.assert_array_equal(read.outside, border)
    assert read.hu[5, 5] == word - 1024
    note = "padding below 0 in unsigned pixels, at the border: taken as outside the field of view"
    assert read.notes == dicom.read_pixels(*dicom.read_headers(path)).notes == (note,)
    np.testing.assert_array_equal(rewrite(path, 77).stored, np.where(border, stored, 1101))


@pytest.mark.parametrize(("stored", "options"), [
    (body(40_000), {"slope": 0.05}),     # bone in fine steps
    (body(30_000), {}),                  # metal
    (body(65_000), {}),                  # -536 of 16 bits, which is a measurement
    (body(63_536), {"padding": 63_536})])
def test_sound_values_are_not_taken_for_padding_below_0(tmp_path, stored, options):
    read = read_slice(write(tmp_path / "a.dcm", stored=stored, bits=16, **options))
    assert read.notes == ()
    assert read.outside.any() == ("padding" in options)


def bone(*, peak, dark=False):
    """A disc of bone in soft tissue, or a dark one in air, stored from 0 on."""
    y, x = np.mgrid[:40, :40] - 20
    distance = np.hypot(x, y)
    around = np.where(distance < 15, 24 if dark else 1064, 24)
    return np.where(distance < 5, peak + x, around)


@pytest.mark.parametrize(("bits", "peak"), [(12, 2300), (12, 3000), (13, 4400)])
def test_unsigned_values_with_a_signed_header_are_refused(tmp_path, bits, peak):
    path = write(tmp_path / "a.dcm", stored=bone(peak=peak), bits=bits)
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation = 1
    dataset.save_as(path)
    with pytest.raises(InputError, match=(
            r"a\.dcm: broken: its values are unsigned, but PixelRepresentation is 1: bone within "
            r"the body is at -[\d,]+ HU, not at [\d,]+ HU; expected PixelRepresentation 0$")):
        read_slice(path)


@pytest.mark.parametrize(("stored", "options"), [
    (bone(peak=-1400, dark=True), {"bits": 12}),                 # a streak in air
    (bone(peak=-2000), {"bits": 16}),                            # unsigned, it would be at 62,512
    (bone(peak=1500) - 1024, {"bits": 12, "intercept": 0}),      # air is below 0
    (body(-2000), {"bits": 12})])                                # padding at the border
def test_sound_values_are_not_taken_for_unsigned_ones(tmp_path, stored, options):
    path = write(tmp_path / "a.dcm", stored=stored, signed=True, **options)
    np.testing.assert_array_equal(read_slice(path).stored, stored)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize(("signed", "word"), [
    (False, 8000), (False, 63536), (True, 5000), (True, -3000)])
def test_values_beyond_the_stored_bits_are_refused(tmp_path, signed, word, syntax):
    stored = body(24)
    stored[5, 5:7] = word
    path = write(tmp_path / "a.dcm", stored=stored, signed=signed, syntax=syntax)
    with pytest.raises(InputError, match=(
            r"a\.dcm: broken: 2 pixels have more bits than the 12 of BitsStored, of no overlay and "
            r"no padding; expected BitsStored 16$")):
        read_slice(path)


def test_a_bit_apart_from_those_stored_is_an_overlay_that_nothing_describes(tmp_path):
    path = write(tmp_path / "a.dcm", stored=ramp() + (marker().astype(int) << 15))
    read = read_slice(path)
    np.testing.assert_array_equal(read.stored, ramp())
    note = "bits above the 12 of BitsStored, of no overlay and no padding, are cut off"
    assert read.notes == dicom.read_pixels(*dicom.read_headers(path)).notes == (note,)


def test_high_bits_that_repeat_the_sign_or_are_0_are_no_values(tmp_path):
    stored = body(-1000)
    for name, words in (("a.dcm", stored), ("b.dcm", np.where(stored < 0, stored & 0xFFF, stored))):
        path = write(tmp_path / name, stored=words, signed=True, intercept=0)
        np.testing.assert_array_equal(read_slice(path).stored, stored)


@pytest.mark.parametrize(("bits", "intercept"), [(8, 0), (8, -160), (7, -499)])
def test_a_picture_of_a_window_is_no_slice_in_hu(tmp_path, bits, intercept):
    path = write(tmp_path / "a.dcm", stored=body(0) % (1 << bits), bits=bits, intercept=intercept)
    for read in (read_header, dicom.read_headers):
        with pytest.raises(NotACTSlice, match=(
                rf"a\.dcm: {bits} bits from {intercept} on: a picture of a window, which does not "
                r"state its HU$")):
            read(path)


@pytest.mark.parametrize(("number", "expected"), [
    (2**31 - 1, 2**31 - 1), (2**31 - 1000, 2**31 - 1000), (2**31 - 1001, 2**31 - 1)])
def test_a_series_number_that_has_no_room_stays(tmp_path, number, expected):
    path = write(tmp_path / "a.dcm", SeriesNumber=number)
    assert rewrite(path, 0).dataset.SeriesNumber == expected


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "<f4"),
                                                ("DoubleFloatPixelData", "<f8")])
def test_pixels_of_floats_are_named(tmp_path, keyword, dtype):
    dataset = ct_slice()
    setattr(dataset, keyword, np.zeros((16, 20), dtype).tobytes())
    del dataset.PixelData
    path = save(tmp_path / "a.dcm", dataset)
    with pytest.raises(InputError, match=rf"a\.dcm: broken: its pixels are {keyword}; expected "
                                         "PixelData"):
        read_slice(path)


@pytest.mark.parametrize("bits", [13, 16])
def test_signed_values_of_jpeg_2000_with_an_unsigned_header_are_refused(tmp_path, bits):
    values = body(-1000, shape=(36, 40))  # the smallest images cannot be encoded
    path = write(tmp_path / "a.dcm", stored=values, bits=bits, signed=True, intercept=0,
                 syntax=uid.JPEG2000Lossless)
    np.testing.assert_array_equal(read_slice(path).stored, values)
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation = 0
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"a\.dcm: broken: its stream has signed values, but "
                                         r"PixelRepresentation is 0; expected .* 1$") as caught:
        read_slice(path)
    assert type(caught.value) is InputError


@pytest.mark.parametrize(("bits", "stream_bits"), [(13, 13), (16, 16), (16, 13)])
def test_unsigned_values_of_jpeg_2000_with_a_signed_header_are_signed(tmp_path, bits, stream_bits):
    """Encoders write the words of signed pixels as if they had no sign."""
    values = body(-1000 if bits == stream_bits else 24, shape=(36, 40))
    path = write(tmp_path / "a.dcm", stored=values & (1 << stream_bits) - 1, bits=stream_bits,
                 intercept=0, syntax=uid.JPEG2000Lossless)
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, bits, bits - 1
    dataset.save_as(path)
    np.testing.assert_array_equal(read_slice(path).stored, values)


@pytest.mark.parametrize("samples", [1, None])
@pytest.mark.parametrize("value", ["", None])
def test_a_missing_photometric_interpretation_is_monochrome2(tmp_path, samples, value):
    dataset = ct_slice()
    del dataset.PhotometricInterpretation
    if value is not None:
        dataset.PhotometricInterpretation = value
    if samples is None:
        del dataset.SamplesPerPixel
    path = save(tmp_path / "a.dcm", dataset)
    assert notes(path) == ["PhotometricInterpretation is missing: taken as MONOCHROME2"]
    written = rewrite(path, 76)
    np.testing.assert_array_equal(written.stored, np.full((16, 20), 1100))
    assert (written.dataset.PhotometricInterpretation, written.dataset.SamplesPerPixel) == (
        "MONOCHROME2", 1)


def test_three_samples_without_a_photometric_interpretation_are_colour(tmp_path):
    path = write(tmp_path / "a.dcm", PhotometricInterpretation=None, SamplesPerPixel=3)
    with pytest.raises(NotACTSlice, match=r"a\.dcm: colour \(none\)"):
        read_header(path)


@pytest.mark.parametrize("unit", ["HOUNSFIELD", "hu ", "Hu", "Hounsfield Units", "H.U.", "[HU]",
                                  "Hounsfield_Unit"])
def test_other_spellings_of_hu_are_hu(tmp_path, unit):
    path = write(tmp_path / "a.dcm", RescaleType=unit)
    np.testing.assert_array_equal(read_slice(path).hu, ramp() - 1024)
    expected = [] if unit.strip().upper() == "HU" else [f"RescaleType is {unit}: taken as HU"]
    assert notes(path) == expected


@pytest.mark.parametrize("unit", ["HU_MOD", "OD", "MGML", "H", "HUH", ["HU", "OD"]])
def test_other_units_are_not_hu(tmp_path, unit):
    path = write(tmp_path / "a.dcm", RescaleType=unit)
    with pytest.raises(NotACTSlice, match=r"a\.dcm: values in .*, not HU$"):
        read_header(path)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_several_equal_values_of_the_rescale_are_one(tmp_path, keyword):
    plain = write(tmp_path / "plain.dcm", slope=2, intercept=2)
    path = write(tmp_path / "a.dcm", **{"slope": 2, "intercept": 2, keyword: [2, 2]})
    np.testing.assert_array_equal(read_slice(path).hu, read_slice(plain).hu)
    assert notes(path) == [f"{keyword} is 2.0\\2.0, not one value"]
    assert rewrite(path, 50).dataset[keyword].value == 2


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_several_values_of_the_rescale_are_named(tmp_path, keyword):
    path = write(tmp_path / "a.dcm", **{keyword: [1, 2]})
    message = rf"a\.dcm: broken: {keyword} is 1\.0\\2\.0; expected one value$"
    with pytest.raises(InputError, match=message) as caught:
        read_slice(path)
    assert type(caught.value) is InputError


@pytest.mark.parametrize(("syntax", "message"), [
    ("1.2.840.113619.5.2", r"its transfer syntax is 1\.2\.840\.113619\.5\.2, a private one, which "
                           "no decoder here knows"),
    ("1.2.840.10008.1.9.1", r"its transfer syntax is 1\.2\.840\.10008\.1\.9\.1, which no decoder "
                            "here knows")])
def test_a_transfer_syntax_without_a_decoder_is_named(tmp_path, syntax, message):
    path = write(tmp_path / "a.dcm", syntax=uid.JPEG2000Lossless, stored=ramp((33, 36)))
    content, former = path.read_bytes(), uid.JPEG2000Lossless.encode()
    path.write_bytes(content.replace(former, syntax.encode().ljust(len(former), b"\0")))
    with pytest.raises(InputError, match=rf"a\.dcm: {message}$") as caught:
        read_slice(path)
    assert type(caught.value) is InputError
