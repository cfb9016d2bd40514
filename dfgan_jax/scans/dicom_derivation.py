"""The record of a derivation (model, weights, version) in the elements beside the pixels."""

import dataclasses
import datetime
import uuid

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dfgan_jax.scans.dicom_file import numbers_of, text_of

_UID_NAMESPACE = uuid.UUID("5f0c7f0e-3a52-5c8e-9d1c-6d0f1b7a2c41")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derivation:
    """Model, weights and software that made pixels, for the elements beside them.

    Attributes:
      model: name, such as AttnDFGAN.
      weights_sha256: of the generator's parameters and running statistics.
      version: of this software.
      strength: of the denoising; see `Denoiser`.
    """

    model: str
    weights_sha256: str
    version: str
    strength: float = 1.0

    @property
    def name(self) -> str:
        """The model, and the strength if it is not 1."""
        return self.model if self.strength == 1 else f"{self.model}, strength {self.strength:g}"

    def derived_uid(self, source_uid: str) -> str:
        """A UID that depends on the source, weights, version and strength alone.

        See PS3.5 B.2, UUIDs of RFC 9562.
        """
        name = f"{source_uid}\n{self.weights_sha256}\n{self.version}"
        if self.strength != 1:
            name += f"\n{self.strength!r}"
        return f"2.25.{uuid.uuid5(_UID_NAMESPACE, name).int}"


def mark_as_derived(dataset: Dataset, derivation: Derivation) -> None:
    """Gives a dataset new identifiers, as a derived image (PS3.3 C.7.6.1.1.2 and C.12.4)."""
    sop_uid, series_uid = str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)
    dataset.SOPInstanceUID = derivation.derived_uid(sop_uid)
    dataset.SeriesInstanceUID = derivation.derived_uid(series_uid)
    dataset.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    dataset.SOPClassUID = uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = uid.PYDICOM_IMPLEMENTATION_UID
    dataset.file_meta.ImplementationVersionName = f"DFGAN_JAX {derivation.version}"[:16]
    now = datetime.datetime.now()
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    image_type = [str(value) for value in dataset.get("ImageType") or ()]
    dataset.ImageType = ["DERIVED", "SECONDARY", *(image_type[2:] or ["AXIAL"])]

    text = (f"Denoised by {derivation.name}, weights SHA-256 {derivation.weights_sha256}, "
            f"dfgan_jax {derivation.version}. Research software, not a medical device.")
    former = text_of(dataset, "DerivationDescription")[:1024 - len(text) - 2]
    dataset.DerivationDescription = f"{former}; {text}" if former else text
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = uid.CTImageStorage, sop_uid
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = [
        _code_item(codes.DCM.SourceImageForImageProcessingOperation)]
    dataset.SourceImageSequence = [source]
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code_item(codes.DCM.ModifyingEquipment)]
    equipment.Manufacturer = equipment.ManufacturerModelName = "dfgan_jax"
    equipment.SoftwareVersions = derivation.version
    equipment.ContributionDescription = "Denoising; research software, not a medical device"
    dataset.ContributingEquipmentSequence = [
        *(dataset.get("ContributingEquipmentSequence") or ()), equipment]

    suffix = f"denoised by {derivation.name}"
    description = text_of(dataset, "SeriesDescription")
    description = f"{description[:64 - len(suffix) - 2]}, {suffix}" if description else suffix
    dataset.SeriesDescription = description
    number = numbers_of(dataset, "SeriesNumber", 1)
    if number:  # viewers list series by it, and patients have fewer than a thousand
        dataset.SeriesNumber = int(number[0]) + 1000


def _code_item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
