"""Enhanced multi-frame CT in DICOM, made for tests: small, complete, in several encodings."""

import pathlib

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended

from tests.scans.dicom_files import SERIES, jpeg_lossless, ramp

PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"


def item(**elements) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value, scheme, meaning):
    return [item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


def frames(count=4, shape=(16, 20)):
    """Stored values, different in each frame."""
    return np.stack([ramp(shape, first=100 + 7 * index) for index in range(count)])


def enhanced_ct(*, stored=None, bits=12, signed=False, slopes=1, intercepts=-1024, step_mm=3,
                legacy=False, series=SERIES, instance=1, shared_groups=(), private=True,
                **elements) -> Dataset:
    """An image of CT frames with the modules and functional groups of the standard.

    Args:
      stored: (N, H, W) integers before the rescale.
      slopes, intercepts: one, or one for each frame.
      legacy: Legacy Converted Enhanced CT.
      shared_groups: functional groups that are shared, of those that are per frame otherwise.
      elements: keyword → value; None takes the element out.
    """
    stored = frames() if stored is None else np.asarray(stored)
    count, allocated = len(stored), 8 if bits <= 8 else 16
    slopes, intercepts = (np.broadcast_to(each, count) for each in (slopes, intercepts))
    image_type = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset = Dataset()
    for keyword, value in {
        "SpecificCharacterSet": "ISO_IR 100", "ImageType": image_type,
        "SOPClassUID": (uid.LegacyConvertedEnhancedCTImageStorage if legacy
                        else uid.EnhancedCTImageStorage),
        "SOPInstanceUID": f"{series}.{instance}.9", "StudyDate": "20200102", "SeriesDate":
        "20200102", "ContentDate": "20200102", "AcquisitionDateTime": "20200102101112",
        "StudyTime": "101112", "SeriesTime": "101112", "ContentTime": "101112",
        "AccessionNumber": "7", "Modality": "CT", "Manufacturer": "Maker",
        "ReferringPhysicianName": "", "ManufacturerModelName": "Model", "DeviceSerialNumber": "5",
        "SoftwareVersions": "1", "SeriesDescription": "Abdomen 3.0",
        "PatientName": "Doe^Jane", "PatientID": "patient-1", "PatientBirthDate": "19700101",
        "PatientSex": "F", "PatientPosition": "HFS", "AcquisitionDuration": 1.0,
        "BodyPartExamined": "ABDOMEN", "ContentQualification": "RESEARCH",
        "PixelPresentation": "MONOCHROME", "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
        "AcquisitionNumber": 1, "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.9",
        "SeriesInstanceUID": series, "StudyID": "1", "SeriesNumber": 4, "InstanceNumber": instance,
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.8", "PositionReferenceIndicator": "",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "NumberOfFrames": count, "Rows": stored.shape[1], "Columns": stored.shape[2],
        "BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(signed), "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00", "PresentationLUTShape": "IDENTITY",
        "AcquisitionContextSequence": [],
        "DimensionOrganizationSequence": [item(DimensionOrganizationUID=f"{series}.55")],
        "DimensionIndexSequence": [item(
            DimensionOrganizationUID=f"{series}.55",
            DimensionIndexPointer=pydicom.datadict.tag_for_keyword(pointer),
            FunctionalGroupPointer=pydicom.datadict.tag_for_keyword("FrameContentSequence"))
            for pointer in ("StackID", "InStackPositionNumber")],
        **elements,
    }.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if private:
        dataset.add_new(0x00290010, "LO", "MAKER")
        dataset.add_new(0x00291010, "LO", "kept")
    groups = [_groups(index, slopes[index], intercepts[index], step_mm=step_mm, legacy=legacy,
                      series=series, image_type=image_type) for index in range(count)]
    shared = _shared_groups(legacy=legacy)
    for keyword in shared_groups:
        setattr(shared, keyword, groups[0][keyword].value)
        for each in groups:
            del each[keyword]
    setattr(dataset, SHARED, [shared])
    setattr(dataset, PER_FRAME, groups)
    content = stored.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    dataset["PixelData"].VR = "OW" if allocated == 16 else "OB"
    return dataset


def _groups(index, slope, intercept, *, step_mm, legacy, series, image_type) -> Dataset:
    groups = item(
        FrameContentSequence=[item(
            FrameAcquisitionNumber=1, FrameReferenceDateTime="20200102101112",
            FrameAcquisitionDateTime="20200102101112", FrameAcquisitionDuration=500.0,
            DimensionIndexValues=[1, index + 1], StackID="1", InStackPositionNumber=index + 1)],
        PlanePositionSequence=[item(ImagePositionPatient=[1, 2, step_mm * index])],
        PixelValueTransformationSequence=[item(
            RescaleIntercept=str(intercept), RescaleSlope=str(slope), RescaleType="HU")],
        FrameVOILUTSequence=[item(WindowCenter="40", WindowWidth=str(400 + index))])
    if legacy:
        groups.ConversionSourceAttributesSequence = [item(
            ReferencedSOPClassUID=uid.CTImageStorage,
            ReferencedSOPInstanceUID=f"{series}.{index}")]
        groups.UnassignedPerFrameConvertedAttributesSequence = [item(
            AcquisitionDate="20200102", AcquisitionTime=f"10111{index}")]
    return groups


def _shared_groups(*, legacy) -> Dataset:
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.7, 0.7], SliceThickness=3)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        CTImageFrameTypeSequence=[item(
            FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME", VolumeBasedCalculationTechnique="NONE")])
    if legacy:
        shared.UnassignedSharedConvertedAttributesSequence = [item(ConvolutionKernel="B30f")]
        return shared
    shared.FrameAnatomySequence = [item(
        FrameLaterality="U", AnatomicRegionSequence=code("818981001", "SCT", "Abdomen"))]
    shared.IrradiationEventIdentificationSequence = [item(IrradiationEventUID="1.2.3.4")]
    shared.CTAcquisitionTypeSequence = [item(
        AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")]
    shared.CTAcquisitionDetailsSequence = [item(
        RotationDirection="CW", RevolutionTime=0.5, SingleCollimationWidth=0.6,
        TotalCollimationWidth=38.4, TableHeight=100.0, GantryDetectorTilt=0.0,
        DataCollectionDiameter=500.0)]
    shared.CTTableDynamicsSequence = [item(
        TableSpeed=20.0, TableFeedPerRotation=10.0, SpiralPitchFactor=1.0)]
    shared.CTPositionSequence = [item(
        TablePosition=1.0, DataCollectionCenterPatient=[0.0, 0.0, 0.0],
        ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0])]
    shared.CTGeometrySequence = [item(
        DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=500.0)]
    shared.CTReconstructionSequence = [item(
        ReconstructionAlgorithm="FILTER_BACK_PROJ", ConvolutionKernel="B30f",
        ConvolutionKernelGroup="ABDOMEN", ReconstructionDiameter=300.0,
        ReconstructionPixelSpacing=[0.7, 0.7], ReconstructionAngle=360.0, ImageFilter="NONE")]
    shared.CTExposureSequence = [item(
        ExposureTimeInms=500.0, XRayTubeCurrentInmA=200.0, ExposureInmAs=100.0,
        ExposureModulationType="NONE", CTDIvol=5.0,
        CTDIPhantomTypeCodeSequence=code("113691", "DCM", "IEC Body Dosimetry Phantom"))]
    shared.CTXRayDetailsSequence = [item(
        KVP=120, FocalSpots=[1.0], FilterType="STRIP", FilterMaterial="ALUMINUM",
        EnergyWeightingFactor=1.0)]
    return shared


def save(path: pathlib.Path, dataset: Dataset, *, syntax=uid.ExplicitVRLittleEndian,
         table="basic") -> pathlib.Path:
    """Writes an enhanced image.

    Args:
      table: of offsets, of a compressed one: `basic`, `extended` or `none`.
    """
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    if syntax in (uid.RLELossless, uid.JPEG2000Lossless):
        plugin = "pydicom" if syntax == uid.RLELossless else "pylibjpeg"
        dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    elif syntax == uid.JPEGLosslessSV1:
        pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(
            -1, dataset.Rows, dataset.Columns)
        coded = [jpeg_lossless(each) for each in pixels]
        if table == "extended":
            dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
                encapsulate_extended(coded))
        else:
            dataset.PixelData = encapsulate(coded, has_bot=table == "basic")
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    elif syntax == uid.ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write(path: pathlib.Path, *, syntax=uid.ExplicitVRLittleEndian, table="basic", **options
          ) -> pathlib.Path:
    """`enhanced_ct` in a file."""
    return save(path, enhanced_ct(**options), syntax=syntax, table=table)
