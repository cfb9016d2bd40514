"""CT slices in DICOM, made for tests: small, of any stored type, in any encoding."""

import pathlib

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

SERIES = "1.2.826.0.1.3680043.8.498.1"


def ramp(shape=(16, 20), *, first=100, step=3):
    """Stored values that all differ, and none of which is the lowest that there can be."""
    return first + step * np.arange(np.prod(shape)).reshape(shape)


def ct_slice(*, stored=None, bits=12, signed=False, slope=1, intercept=-1024, padding=None,
             padding_limit=None, series=SERIES, instance=1, position=(0, 0, 0),
             orientation=(1, 0, 0, 0, 1, 0), thickness=3, **elements) -> Dataset:
    """A slice as scanners write it.

    Args:
      stored: (H, W) integers before the rescale.
      bits: that are stored; 8 are allocated for up to 8, else 16.
      elements: keyword → value; None takes the element out.
    """
    stored = ramp() if stored is None else np.asarray(stored)
    allocated = 8 if bits <= 8 else 16
    dataset = Dataset()
    for keyword, value in {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": uid.CTImageStorage, "SOPInstanceUID": f"{series}.{instance}",
        "StudyDate": "20200102", "StudyTime": "101112", "AccessionNumber": "7", "Modality": "CT",
        "Manufacturer": "Maker", "SeriesDescription": "Abdomen 3.0", "PatientName": "Doe^Jane",
        "PatientID": "patient-1", "PatientBirthDate": "19700101", "PatientSex": "F",
        "SliceThickness": thickness, "KVP": 120, "ConvolutionKernel": "B30f",
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.9", "SeriesInstanceUID": series,
        "StudyID": "1", "SeriesNumber": 4, "InstanceNumber": instance,
        "ImagePositionPatient": list(position), "ImageOrientationPatient": list(orientation),
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.8", "PositionReferenceIndicator": "",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0], "Columns": stored.shape[1], "PixelSpacing": [0.7, 0.7],
        "BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(signed), "PixelPaddingValue": padding,
        "PixelPaddingRangeLimit": padding_limit, "RescaleIntercept": intercept,
        "RescaleSlope": slope, "RescaleType": "HU", **elements,
    }.items():
        if value is not None:
            setattr(dataset, keyword, value)
    content = stored.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    dataset["PixelData"].VR = "OW" if allocated == 16 else "OB"
    return dataset


def save(path: pathlib.Path, dataset: Dataset, *, syntax=uid.ExplicitVRLittleEndian
         ) -> pathlib.Path:
    """Writes a slice; of the compressed encodings, those that can be made here."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    if syntax == uid.RLELossless:
        dataset.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax == uid.JPEG2000Lossless:
        dataset.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    elif syntax == uid.JPEGLosslessSV1:
        frame = jpeg_lossless(np.frombuffer(dataset.PixelData, "<u2").reshape(
            dataset.Rows, dataset.Columns))
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    elif syntax == uid.ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write(path: pathlib.Path, *, syntax=uid.ExplicitVRLittleEndian, **options) -> pathlib.Path:
    """`ct_slice` in a file."""
    return save(path, ct_slice(**options), syntax=syntax)


def jpeg_lossless(pixels: np.ndarray) -> bytes:
    """A JPEG of process 14, first-order prediction, of 16 bits unsigned (ITU-T T.81, annex H)."""
    rows, columns = pixels.shape
    values = pixels.astype(int)
    predicted = np.empty_like(values)
    predicted[:, 1:], predicted[1:, 0] = values[:, :-1], values[:-1, 0]
    predicted[0, 0] = 1 << 15
    bits = ""
    for difference in (values - predicted).ravel():
        size = int(abs(difference)).bit_length()
        bits += f"{size:05b}"  # the code of a length is the length itself
        if size:
            bits += f"{difference + ((1 << size) - 1 if difference < 0 else 0):0{size}b}"
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")

    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content

    lengths = bytes([0, 0, 0, 0, 17, *[0] * 11])  # 17 codes of 5 bits
    return (b"\xff\xd8" + segment(0xC4, b"\0" + lengths + bytes(range(17)))
            + segment(0xC3, b"\x10" + rows.to_bytes(2) + columns.to_bytes(2) + b"\1\1\x11\0")
            + segment(0xDA, b"\1\1\0\1\0\0") + coded + b"\xff\xd9")
