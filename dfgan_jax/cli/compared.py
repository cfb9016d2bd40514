"""The comparison of checkpoints in one table, at the end of `train` and `evaluate`."""

import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dfgan_jax.cli.identity import shared_by_seeds
from dfgan_jax.cli.model_name import model_name
from dfgan_jax.cli.options import RunOptions, prefixed
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation.comparison import Comparison
from dfgan_jax.evaluation.rows import Model
from dfgan_jax.training.writers import read_history


def compare(options: RunOptions, *, workdir: pathlib.Path, denoisers: Sequence[Denoiser],
            data: Mapping[str, Pairs], further: Sequence[Denoiser] = (),
            given: Mapping[str, str] = MappingProxyType({})) -> None:
    """Compares checkpoints on the test split and writes the report into `workdir`.

    Args:
      options: the options of the run; `evaluation` selects the measurements.
      workdir: folder to write into.
      denoisers: loaded from checkpoints, a row each, at least one. The report shows the training
        curves if all are of one checkpoint.
      data: pairs in normalised HU: `test`, and for baselines `valid`.
      further: models of further rows, after the others; those that are compared are left out.
      given: a user's own models, name → source; see `evaluation.given`.

    Raises:
      InputError: the manifest of the test slices is wrong, or a row cannot be made.
    """
    comparison = Comparison(options.evaluation, sources=options.sources, data=data)
    compared = {each.weights_sha256 for each in denoisers}
    further = [each for each in further if each.weights_sha256 not in compared]
    comparison.measure([model_of(denoiser) for denoiser in (*denoisers, *further)], given=given)
    comparison.write(workdir, config=options.as_json(), history=(
        read_history(denoisers[0].home) if len(compared) == 1 else []))


def model_of(denoiser: Denoiser) -> Model:
    """A checkpoint as a row of the tables, named by its configuration."""
    config = denoiser.meta["config"]
    return Model(denoiser=denoiser, name=model_name(config), seed=config.get("seed"),
                 shared=(shared_by_seeds(config, fingerprints=denoiser.meta.get("data"))
                         if "seed" in config else None))


def further_models(paths: Sequence[str]) -> list[Denoiser]:
    """Loads the models of `evaluation.checkpoints`, in every process.

    Raises:
      InputError: a model cannot be used; the message names it and the field.
    """
    with prefixed("config.evaluation.checkpoints: "):
        return [Denoiser.load_in_all(path) for path in paths]
