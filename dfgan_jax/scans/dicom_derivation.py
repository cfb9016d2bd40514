"""The record of a derivation (model, weights, version) in the elements beside the pixels."""

import dataclasses
import datetime
import functools
import pathlib
import uuid

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dfgan_jax.scans.dicom_file import numbers_of, text_of, values_of
from dfgan_jax.scans.unit_names import Unit
from dfgan_jax.support.digests import file_digest, text_digest

_UID_NAMESPACE = uuid.UUID("5f0c7f0e-3a52-5c8e-9d1c-6d0f1b7a2c41")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derivation:
    """Model, weights and software that made pixels, for the elements beside them.

    Attributes:
      model: name, such as AttnDFGAN.
      weights_sha256: of the generator's parameters and running statistics.
      version: of this software.
      strength: of the denoising; see `Denoiser`.
      self_ensemble: see `Denoiser`.
    """

    model: str
    weights_sha256: str
    version: str
    strength: float = 1.0
    self_ensemble: bool = False

    @property
    def name(self) -> str:
        """The model, the self-ensemble if it is one, and the strength if it is not 1."""
        ensemble = ", self-ensemble" if self.self_ensemble else ""
        strength = "" if self.strength == 1 else f", strength {self.strength:g}"
        return f"{self.model}{ensemble}{strength}"

    @property
    def description(self) -> str:
        """Model, weights and version, for DerivationDescription."""
        return (f"Denoised by {self.name}, weights SHA-256 {self.weights_sha256}, "
                f"dfgan_jax {self.version}. Research software, not a medical device.")

    def brief_of(self, path: pathlib.Path, unit: Unit) -> str:
        """The same for NIfTI's `descrip`, which has 79 characters.

        It starts with a digest of the derivation, of the volume's file and of its unit.
        """
        digest = text_digest(f"{file_digest(path)} {unit} {self.description}")
        return (f"{digest[:12]} denoised by {self.name} {self.weights_sha256[:12]}, no medical "
                "device")[:79]

    def derived_uid(self, source_uid: str) -> str:
        """A UID that depends on the source and the derivation, but for the model's name.

        See PS3.5 B.2, UUIDs of RFC 9562.
        """
        name = f"{source_uid}\n{self.weights_sha256}\n{self.version}"
        if self.strength != 1:
            name += f"\n{self.strength!r}"
        if self.self_ensemble:
            name += "\nself-ensemble"
        return f"2.25.{uuid.uuid5(_UID_NAMESPACE, name).int}"


def mark_as_derived(dataset: Dataset, derivation: Derivation) -> None:
    """Gives a slice new identifiers, as a derived image (PS3.3 C.7.6.1.1.2 and C.12.4)."""
    source_uid = str(dataset.SOPInstanceUID)
    dataset.SOPClassUID = uid.CTImageStorage
    _renew(dataset, derivation)
    dataset.ImageType = ["DERIVED", "SECONDARY",
                         *(values_of(dataset, "ImageType")[2:] or ["AXIAL"])]
    text = derivation.description
    former = text_of(dataset, "DerivationDescription")[:1024 - len(text) - 2]
    dataset.DerivationDescription = f"{former}; {text}" if former else text
    dataset.SourceImageSequence = [_source_item(uid.CTImageStorage, source_uid)]


def mark_frames_as_derived(dataset: Dataset, derivation: Derivation) -> None:
    """Gives enhanced CT new identifiers, as an image whose frames are derived from its frames.

    See PS3.3 C.7.6.16.2.6 and C.8.15.2. The frames are no longer those of the slices that a
    Legacy Converted Enhanced CT image was made of, and do not refer to them.
    """
    source_class, source_uid = str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
    source_series_uid = str(dataset.SeriesInstanceUID)
    _renew(dataset, derivation)
    for keyword in ("ConcatenationUID", "SOPInstanceUIDOfConcatenationSource"):
        if dataset.get(keyword):
            setattr(dataset, keyword, derivation.derived_uid(str(dataset[keyword].value)))
    dataset.ImageType = _derived_type(dataset, "ImageType")
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or ())
    former = [item for groups in shared for item in groups.get("DerivationImageSequence") or ()]
    for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        source = _source_item(source_class, source_uid)
        source.ReferencedFrameNumber = index + 1
        item = Dataset()
        item.DerivationDescription = derivation.description
        item.DerivationCodeSequence = [_code_item(codes.DCM.Smoothing)]
        item.SourceImageSequence = [source]
        groups.DerivationImageSequence = [
            *former, *(groups.get("DerivationImageSequence") or ()), item]
    for groups in (*shared, *dataset.PerFrameFunctionalGroupsSequence):
        for frame_type in groups.get("CTImageFrameTypeSequence") or ():
            frame_type.FrameType = _derived_type(frame_type, "FrameType")
        if "ConversionSourceAttributesSequence" in groups:
            del groups["ConversionSourceAttributesSequence"]
    for groups in shared:
        if "DerivationImageSequence" in groups:
            del groups["DerivationImageSequence"]
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = source_class, source_uid
    series.SeriesInstanceUID, series.ReferencedSOPSequence = source_series_uid, [instance]
    study.StudyInstanceUID = text_of(dataset, "StudyInstanceUID")
    study.ReferencedSeriesSequence = [series]
    dataset.SourceImageEvidenceSequence = [
        *(dataset.get("SourceImageEvidenceSequence") or ()), study]


def _derived_type(dataset: Dataset, keyword: str) -> list[str]:
    """The type of a derived enhanced image or frame; its second value is PRIMARY in any case."""
    former = values_of(dataset, keyword)
    return ["DERIVED", "PRIMARY", *(former[2:] or ["VOLUME"]), *(["NONE"] * (len(former) < 4))]


def _renew(dataset: Dataset, derivation: Derivation) -> None:
    """Sets the elements common to derived images: identifiers, dates, equipment and series name."""
    dataset.SOPInstanceUID = derivation.derived_uid(str(dataset.SOPInstanceUID))
    dataset.SeriesInstanceUID = derivation.derived_uid(str(dataset.SeriesInstanceUID))
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = uid.PYDICOM_IMPLEMENTATION_UID
    dataset.file_meta.ImplementationVersionName = f"DFGAN_JAX {derivation.version}"[:16]
    now = datetime.datetime.now()
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.ContributingEquipmentSequence = [
        *(dataset.get("ContributingEquipmentSequence") or ()), _equipment(derivation.version)]

    suffix = f"denoised by {derivation.name}"
    description = text_of(dataset, "SeriesDescription")
    description = f"{description[:64 - len(suffix) - 2]}, {suffix}" if description else suffix
    dataset.SeriesDescription = description
    number = numbers_of(dataset, "SeriesNumber", 1)
    # Viewers list series by it, and patients have fewer than a thousand.
    if number and number[0] + 1000 < 2**31:
        dataset.SeriesNumber = int(number[0]) + 1000


@functools.cache  # the same in all slices
def _equipment(version: str) -> Dataset:
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code_item(codes.DCM.ModifyingEquipment)]
    equipment.Manufacturer = equipment.ManufacturerModelName = "dfgan_jax"
    equipment.SoftwareVersions = version
    equipment.ContributionDescription = "Denoising; research software, not a medical device"
    return equipment


def _source_item(sop_class: str, sop_uid: str) -> Dataset:
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = sop_class, sop_uid
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = [
        _code_item(codes.DCM.SourceImageForImageProcessingOperation)]
    return source


@functools.cache  # as above
def _code_item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
