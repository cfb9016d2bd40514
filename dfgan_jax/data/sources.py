"""The sources of the pairs of each split: files, or a simulation kept in a cache."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping

from dfgan_jax.data.aliasing import Size, aliasing_notes
from dfgan_jax.data.dataset import SPLITS, read_manifest
from dfgan_jax.data.exchanged import exchanged_notes
from dfgan_jax.data.options import DataOptions, SimulationOptions
from dfgan_jax.data.overlap import check_no_overlap, check_no_shared_patient
from dfgan_jax.data.pairs import Pairs, joined
from dfgan_jax.data.pairs_cache import PreprocessedPairs, read_preprocessed, written_to_cache
from dfgan_jax.data.pairs_file import read_pairs, write_slices
from dfgan_jax.devices import agreement
from dfgan_jax.scans import hounsfield
from dfgan_jax.simulation import low_dose
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.locks import one_at_a_time
from dfgan_jax.support.progress import progress
from dfgan_jax.support.wording import counted

NATIVE_SIZE = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources of a run's pairs.

    Attributes:
      data: options with the files.
      simulation: options of the splits, where they have no files.
      size_multiple: heights and widths in training are multiples of this [pixels].
      min_size: smallest height and width in training [pixels].
    """

    data: DataOptions
    simulation: SimulationOptions
    size_multiple: int
    min_size: int

    @property
    def simulated_size(self) -> int:
        """Height and width of simulated slices [pixels]."""
        return self.data.size or NATIVE_SIZE

    @property
    def simulated_train_size(self) -> int:
        """Height and width of the crops, or slices, that training takes from these [pixels]."""
        return self.data.crop or self.simulated_size

    def describe(self, split: str) -> str:
        """The source of a split's pairs, in words."""
        return ",".join(self.data.files(split)) or f"simulated (seed {self.simulation.seed})"

    def load(self, splits: tuple[str, ...]) -> dict[str, Pairs]:
        """The preprocessed pairs of some splits, from the cache; missing entries are made.

        Patients are compared with those of the other splits, too, by the manifests of their files:
        an evaluation refuses test patients of the training pairs. Files of other splits are neither
        converted nor needed.

        Args:
          splits: among `SPLITS`.

        Returns:
          Split → pairs in normalised HU.

        Raises:
          InputError: a file or its manifest cannot be used, the cache cannot be written, a slice or
            a patient is in two splits, or the size does not fit the training of the networks.
        """
        self._tell_simulation(splits)
        preprocessed = {split: self._preprocessed(split) for split in splits}
        patients = {split: {path: _patients(path, len(file.pairs)) for path, file in
                            zip(self.data.files(split), files.values(), strict=False)}
                    for split, files in preprocessed.items()}
        others = {split: {path: _patients(path, len(read_pairs(path)))
                          for path in self.data.files(split) if pathlib.Path(path).exists()}
                  for split in SPLITS if split not in splits}
        check_no_shared_patient(others | patients)
        _check_no_slice_twice(preprocessed)
        pairs = {split: joined([each.pairs for each in files.values()])
                 for split, files in preprocessed.items()}
        if agreement.is_main():
            notes = aliasing_notes((self._native(split, part), size)
                                   for split, each in pairs.items()
                                   for part, size in enumerate(each.sizes))
            # Phantoms have a normal dose that is the less noisy one.
            notes += exchanged_notes({name: each.pairs for split, files in preprocessed.items()
                                      if self.data.files(split) for name, each in files.items()})
            for note in notes:
                print(f"warning: {note}", file=sys.stderr, flush=True)
        for split, each in pairs.items():
            self._check_sizes(split, each, is_training="train" in pairs)
        return pairs

    def _native(self, split: str, part: int) -> Size:
        """Height and width in a file of a split, before the resize."""
        files = self.data.files(split)
        if not files:
            return self.simulated_size, self.simulated_size
        _, height, width = read_pairs(files[part]).ndct.shape
        return height, width

    def _preprocessed(self, split: str) -> dict[str, PreprocessedPairs]:
        """The pairs of each file of a split, by the file's name in messages."""
        files = self.data.files(split) or (str(self.simulated(split)),)
        return {f"data.{split}, file {number} ({path})" if files[1:] else f"data.{split}":
                read_preprocessed(path, size=self.data.size, folder=self.data.cache_folder)
                for number, path in enumerate(files, start=1)}

    def _tell_simulation(self, splits: tuple[str, ...]) -> None:
        """Prints a line before phantoms are simulated that the cache lacks."""
        missing = [split for split in splits
                   if not self.data.files(split) and not self._simulated_path(split).exists()]
        if missing and agreement.is_main():
            count = sum(map(self.simulation.slices, missing))
            print(f"No files of pairs: simulating {counted(count, 'phantom')} of "
                  f"{self.simulated_size}×{self.simulated_size} (config.data.{splits[0]} is empty)",
                  file=sys.stderr, flush=True)

    def _simulated_path(self, split: str) -> pathlib.Path:
        """The file of a split's simulated pairs.

        Its name is a digest of everything that determines its content: it is never stale.
        """
        name = low_dose.simulation_hash(size=self.simulated_size, seed=self.simulation.seed,
                                        protocol=self.simulation.protocol)
        return (self.data.cache_folder / f"simulated-{name}"
                / f"{split}-{self.simulation.slices(split)}.npy")

    def simulated(self, split: str) -> pathlib.Path:
        """The file of a split's simulated pairs, made at the first call.

        Raises:
          InputError: the cache cannot be written.
        """
        path = self._simulated_path(split)
        if not path.exists():
            with (written_to_cache(self.data.cache_folder),
                  one_at_a_time(path.with_suffix(".lock"))):
                if not path.exists():  # made by another process while this one waited
                    self.simulate(split, path)
        return path

    def simulate(self, split: str, path: pathlib.Path) -> None:
        """Writes a split's simulated pairs in the published format."""
        count, size = self.simulation.slices(split), self.simulated_size
        with progress(f"simulating {split}", total=count, unit="slices") as bar:
            pairs = low_dose.iterate_pairs(
                count, size=size, split=split, seed=self.simulation.seed,
                protocol=self.simulation.protocol, progress=bar)
            write_slices(path, ((hounsfield.hu_to_mu(ndct), hounsfield.hu_to_mu(qdct))
                                for ndct, qdct in pairs), count=count, shape=(size, size))

    def _check_sizes(self, split: str, pairs: Pairs, *, is_training: bool) -> None:
        """Refuses slices of sizes that the networks do not take, or that do not fit a batch."""
        is_cropped = split == "train" and self.data.crop > 0
        if len(set(pairs.sizes)) > 1 and not is_cropped:
            raise InputError(f"data.{split} ({self.describe(split)}) has slices of "
                             f"{' and '.join(f'{h}×{w}' for h, w in sorted(set(pairs.sizes)))}; "
                             "expected one size: set data.size to resize"
                             f"{', or data.crop' if split == 'train' else ''}")
        if not is_training or split == "test" or is_cropped:  # test slices may have any size
            return
        height, width = pairs.sizes[0]
        if (height % self.size_multiple or width % self.size_multiple
                or min(height, width) < self.min_size):
            raise InputError(f"data.{split} ({self.describe(split)}) has slices of "
                             f"{height}×{width}; the networks take multiples of "
                             f"{self.size_multiple}, at least {self.min_size}: set data.size to "
                             "resize")


def _patients(path: str, count: int) -> list[str]:
    """The patient of each slice of a file, by its manifest; empty without one."""
    return [row["patient"] for row in read_manifest(pathlib.Path(path), count) or ()]


def _check_no_slice_twice(preprocessed: Mapping[str, Mapping[str, PreprocessedPairs]]) -> None:
    """Refuses a repeated low dose; warns of a normal dose in two splits.

    Args:
      preprocessed: split → name of a file → its pairs.
    """
    check_no_overlap({split: {name: each.raw_qdct_digests for name, each in files.items()}
                      for split, files in preprocessed.items()})
    try:
        # Several files of one split may hold one scan at several doses.
        check_no_overlap({split: {f"data.{split}": [digest for each in files.values()
                                                    for digest in each.raw_ndct_digests]}
                          for split, files in preprocessed.items()})
    except InputError as error:
        # Equal phantoms may be intended; equal scans are of one patient.
        print(f"warning: normal doses: {error}", file=sys.stderr, flush=True)


def check_same_in_all(data: Mapping[str, Pairs]) -> dict[str, str]:
    """The fingerprint of each split; refuses processes of one run with different files."""
    fingerprints = {split: pairs.fingerprint() for split, pairs in data.items()}
    check_fingerprints(agreement.from_main(lambda: fingerprints), data, fingerprints,
                       "that process 0 reads; every process needs the same files")
    return fingerprints


def check_fingerprints(expected: Mapping[str, str], data: Mapping[str, Pairs],
                       fingerprints: Mapping[str, str], those: str) -> None:
    """Refuses pairs with other fingerprints than the expected ones, described by `those`.

    A split without an expected fingerprint is free: a run can get its test split later.
    """
    for split, fingerprint in fingerprints.items():
        if expected.get(split, fingerprint) != fingerprint:
            raise InputError(f"data.{split}: {counted(len(data[split]), 'slice')}, not those "
                             f"{those}")
