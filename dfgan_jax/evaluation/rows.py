"""The rows of a comparison: the input, classical denoisers and models."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from dfgan_jax import pretrained
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import agreement
from dfgan_jax.evaluation import baselines, tables
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.progress import Progress, progress
from dfgan_jax.support.spacing import evenly_spaced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the tables and the function that makes its images.

    Attributes:
      table: its description in the tables.
      denoise: ((N, H, W) HU, progress to advance by one for each slice) → the same shape.
      is_function: `denoise` takes any slices; else it returns the test slices whatever it is given.
      denoiser: of a network; None for other rows.
    """

    table: tables.Row
    denoise: Callable[[Float[np.ndarray, "n h w"], Progress | None], Float[np.ndarray, "n h w"]]
    is_function: bool = True
    denoiser: Denoiser | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model of a comparison.

    Attributes:
      denoiser: loaded from a checkpoint.
      name: of its kind, such as `AttnDFGAN`.
      shared: everything but the seed that defines its run: runs with an equal `shared` differ
        only by their seed. None: no run is of this kind.
      seed: of its run.
    """

    denoiser: Denoiser
    name: str
    shared: str | None = None
    seed: int | None = None


def input_row() -> Row:
    """The row of the low dose."""
    return Row(table=tables.Row(kind="input"), denoise=lambda hu, bar: hu)


def baseline_rows(names: Sequence[str], valid: Pairs) -> dict[str, Row]:
    """The rows of classical denoisers, tuned on validation slices.

    Args:
      names: in `BASELINES`.
      valid: validation slices in normalised HU.
    """
    chosen = evenly_spaced(len(valid), most=baselines.MAX_TUNING_SLICES)
    ndct, qdct = (hounsfield.denormalise(each[chosen]) for each in (valid.ndct, valid.qdct))
    rows = {}
    with progress("tuning classical denoisers", total=len(names), unit="denoisers") as bar:
        for each in names:
            baseline = baselines.BASELINES[each]
            parameters = agreement.from_main(
                functools.partial(baselines.tune, baseline, qdct, ndct))
            rows[baseline.name] = Row(
                table=tables.Row(kind="baseline", parameters=baseline.describe(parameters)),
                denoise=_in_all(functools.partial(_each_slice, functools.partial(
                    baseline.denoise, **parameters))))
            bar.advance()
    return rows


def model_rows(models: Sequence[Model]) -> dict[str, Row]:
    """A row for each model.

    Pretrained weights keep their name. Other models have the name of their kind, followed by
    their folder if several are of this kind; then come a strength other than 1 and the
    self-ensemble.
    """
    names = [pretrained.name_of(model.denoiser.home) for model in models]
    own = [name for name, _ in {(model.name, model.denoiser.home) for model, name in
                                zip(models, names, strict=True) if name is None}]
    rows: dict[str, Row] = {}
    for model, name in zip(models, names, strict=True):
        if name is not None:
            label = f"{name} (pretrained)"
        else:
            label = (model.name if own.count(model.name) == 1 else
                     f"{model.name} ({model.denoiser.home.name})")
        setting = _setting(model.denoiser)
        label += setting
        name, number = label, 2
        while name in rows:
            name, number = f"{label} ({number})", number + 1
        run = None if model.shared is None else (model.name + setting, model.shared)
        default = next((other for other, row in rows.items() if setting and row.denoiser
                        and not _setting(row.denoiser)
                        and row.denoiser.weights_sha256 == model.denoiser.weights_sha256), None)
        rows[name] = Row(table=tables.Row(kind="model", run=run, seed=model.seed,
                                          setting_of=default),
                         denoise=_in_all(functools.partial(_denoise, model.denoiser)),
                         denoiser=model.denoiser)
    return rows


def _setting(denoiser: Denoiser) -> str:
    """The settings of a denoiser that are not the default ones, after its name."""
    return (f"{'' if denoiser.strength == 1 else f', strength {denoiser.strength:.3g}'}"
            f"{', self-ensemble' if denoiser.self_ensemble else ''}")


def _each_slice(denoise: Callable[[np.ndarray], np.ndarray], hu: np.ndarray, bar: Progress | None
                ) -> np.ndarray:
    denoised = np.empty_like(hu)
    for index, image in enumerate(hu):
        denoised[index] = denoise(image)
        if bar is not None:
            bar.advance()
    return denoised


def _in_all(denoise: Callable[[np.ndarray, Progress | None], np.ndarray]
            ) -> Callable[[np.ndarray, Progress | None], np.ndarray]:
    """Denoises a share of the slices in each process and returns all of them in every process."""
    return lambda hu, bar: agreement.shared_out(lambda part: denoise(part, bar), hu)


def _denoise(denoiser: Denoiser, hu: np.ndarray, bar: Progress | None) -> np.ndarray:
    # Unchecked: the file of pairs was, and a process's share of it may look like (H, W, N).
    return denoiser(hu, progress=bar, unit=None)
