"""The options of a run's data: files of pairs, or phantoms that are simulated."""

import dataclasses
import pathlib

from dfgan_jax.data.dataset import parse_shares
from dfgan_jax.simulation.low_dose import ScanProtocol
from dfgan_jax.support.checks import check_above_zero, check_not_negative, check_one_of, check_seed
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import user_cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Files of pairs, and how training takes them; the defaults are those of the slides.

    Without files for any split, all are simulated.

    Attributes:
      train: `.npy` files in the published format, one after another.
      valid: the same of the validation split.
      test: the same of the test split.
      train_shares: of the files of `train` in the batches, separated by commas, which add up to
        1; empty: each slice comes as often as any other.
      size: height and width after the bilinear resize [pixels]; 0: native.
      crop: height and width of training's random crops [pixels]; 0: whole slices.
      augment: each slice or crop comes in one of its eight orientations.
      on_device: whether the pairs of training and validation stay on the device: `auto`, `always`
        or `never`.
      cache_dir: keeps simulated and preprocessed pairs; empty: a folder in the user's cache.

    Raises:
      InputError: a value is not allowed.
    """

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    train_shares: str = ""
    size: int
    crop: int = 0
    augment: bool = False
    on_device: str
    cache_dir: str

    def __post_init__(self) -> None:
        check_one_of(self, "on_device", ("auto", "always", "never"))
        check_not_negative(self, "size")
        check_not_negative(self, "crop")
        if self.crop > self.size > 0:
            raise InputError(f"crop is {self.crop}; expected at most {self.size}, the size of the "
                             "slices (data.size)")
        _ = self.shares  # checks them

    def check_sizes(self, *, size_multiple: int, min_size: int) -> None:
        """Refuses a size or a crop that the networks cannot take.

        Args:
          size_multiple: of the networks [pixels].
          min_size: of the networks [pixels].

        Raises:
          InputError: names the field, its value and what was expected.
        """
        for name, zero in (("size", "the native size"), ("crop", "whole slices")):
            size = getattr(self, name)
            if size % size_multiple or (size and size < min_size):
                raise InputError(f"{name} is {size}; expected a multiple of {size_multiple}, at "
                                 f"least {min_size}, or 0 for {zero}")

    def files(self, split: str) -> tuple[str, ...]:
        """The files of a split, in order."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]

    @property
    def shares(self) -> tuple[float, ...] | None:
        """Shares of the files of `train` in the batches; None: each slice comes equally often."""
        return (parse_shares(self.train_shares, self.train, name="train_shares")
                if self.train_shares else None)

    @property
    def cache_folder(self) -> pathlib.Path:
        """The folder that keeps simulated and preprocessed pairs."""
        try:
            return pathlib.Path(self.cache_dir or user_cache())
        except RuntimeError as error:
            raise InputError("config.data.cache_dir is empty, and this user has no home folder for "
                             "the cache; expected a folder that can be written into, or the "
                             "variable HOME or XDG_CACHE_HOME") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulationOptions:
    """Phantoms for a run without files.

    Attributes:
      train_slices: number of slices of the training split, each of another phantom.
      valid_slices: the same of the validation split.
      test_slices: the same of the test split.
      seed: of the phantoms, 0 to 2**32 − 1.
      photons_per_ray: see `ScanProtocol`.
      dose_fraction: see `ScanProtocol`.

    Raises:
      InputError: a value is not allowed.
    """

    train_slices: int
    valid_slices: int
    test_slices: int
    seed: int
    photons_per_ray: float
    dose_fraction: float

    def __post_init__(self) -> None:
        check_above_zero(self, "train_slices", "valid_slices", "test_slices")
        check_seed(self)
        _ = self.protocol  # checks the rest

    def slices(self, split: str) -> int:
        """Number of slices of a split."""
        return {"train": self.train_slices, "valid": self.valid_slices,
                "test": self.test_slices}[split]

    @property
    def protocol(self) -> ScanProtocol:
        """The settings of the phantoms' scans."""
        return ScanProtocol(photons_per_ray=self.photons_per_ray, dose_fraction=self.dose_fraction)
