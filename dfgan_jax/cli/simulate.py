"""`--mode=simulate`: pairs from phantoms, in the published file format."""

import pathlib

import ml_collections

from dfgan_jax.cli import setup
from dfgan_jax.data.dataset import SPLITS
from dfgan_jax.data.pairs_cache import written_to_cache
from dfgan_jax.data.pairs_file import write_slices
from dfgan_jax.scans import hounsfield
from dfgan_jax.simulation import low_dose
from dfgan_jax.support.files import refuse_existing
from dfgan_jax.support.progress import progress

NATIVE_SIZE = 512


def run(config: ml_collections.ConfigDict, *, output: pathlib.Path) -> None:
    """Writes `train.npy`, `valid.npy` and `test.npy` into a folder.

    Raises:
      InputError: the configuration is wrong, or one of the files exists.
    """
    setup.check(config)
    paths = {split: output / f"{split}.npy" for split in SPLITS}
    for path in paths.values():
        refuse_existing(path)
    for split, path in paths.items():
        _write(path, config, split)
        print(path, flush=True)


def cached(config: ml_collections.ConfigDict, split: str) -> pathlib.Path:
    """The file of a split's simulated pairs, made at the first call.

    Its name tells everything that determines its content, so that it is never stale.

    Raises:
      InputError: the cache cannot be written.
    """
    name = low_dose.simulation_hash(size=size(config), seed=config.simulation.seed,
                                    protocol=protocol(config))
    folder = setup.cache_folder(config)
    path = folder / f"simulated-{name}" / f"{split}-{_count(config, split)}.npy"
    if not path.exists():
        with written_to_cache(folder):
            _write(path, config, split)
    return path


def _write(path: pathlib.Path, config: ml_collections.ConfigDict, split: str) -> None:
    count = _count(config, split)
    with progress(f"simulating {split}", total=count, unit="slices") as bar:
        pairs = low_dose.iterate_pairs(count, size=size(config), split=split,
                                       seed=config.simulation.seed, protocol=protocol(config),
                                       progress=bar)
        write_slices(path, ((hounsfield.hu_to_mu(ndct), hounsfield.hu_to_mu(qdct))
                            for ndct, qdct in pairs),
                     count=count, shape=(size(config), size(config)))


def protocol(config: ml_collections.ConfigDict) -> low_dose.ScanProtocol:
    return low_dose.ScanProtocol(photons_per_ray=config.simulation.photons_per_ray,
                                 dose_fraction=config.simulation.dose_fraction)


def size(config: ml_collections.ConfigDict) -> int:
    return config.data.size or NATIVE_SIZE


def _count(config: ml_collections.ConfigDict, split: str) -> int:
    return config.simulation[f"{split}_slices"]
