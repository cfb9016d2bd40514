"""`--mode=simulate`: pairs from phantoms, in the published file format."""

import pathlib

import ml_collections

from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.dataset import SPLITS
from dfgan_jax.support.files import refuse_existing


def run(config: ml_collections.ConfigDict, *, output: pathlib.Path) -> None:
    """Writes `train.npy`, `valid.npy` and `test.npy` into a folder.

    Raises:
      InputError: the configuration is wrong, or one of the files exists.
    """
    sources = RunOptions.of(config).sources
    paths = {split: output / f"{split}.npy" for split in SPLITS}
    for path in paths.values():
        refuse_existing(path)
    for split, path in paths.items():
        sources.simulate(split, path)
        print(path, flush=True)
