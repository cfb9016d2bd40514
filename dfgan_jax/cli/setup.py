"""What several modes build from a configuration."""

import functools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import jax
import ml_collections
import optax

from dfgan_jax.data import dataset
from dfgan_jax.data.overlap import check_no_overlap
from dfgan_jax.data.pairs import Pairs, joined
from dfgan_jax.data.pairs_cache import read_preprocessed
from dfgan_jax.devices import agreement as processes
from dfgan_jax.devices import parallel
from dfgan_jax.models.generators import (
    ARCHITECTURES,
    PUBLISHED_OPTIONS,
    UNNAMED,
    build_generator,
    options_of,
    table_name,
)
from dfgan_jax.models.patch_discriminator import MIN_SIZE, PatchDiscriminator
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import user_cache, written_whole
from dfgan_jax.training.input_pipeline import Sampling
from dfgan_jax.training.losses import Intensity, LossOptions
from dfgan_jax.training.state import CHANNELS, Networks, Optimizers, TrainState, create_state

CONFIG_FILE = "config.json"

_MEANT = {
    "generator.architecture": UNNAMED,
    **{f"generator.{name}": value for name, value in PUBLISHED_OPTIONS.items()},
    **{f"loss.{name}": value for name, value in LossOptions._field_defaults.items()},
    "discriminator.spectral_norm": False,
    "data.train_shares": "", "data.crop": 0, "data.augment": False,
    "optimizer.warm_up_steps": 0, "optimizer.weight_decay": 0.0, "optimizer.clip_norm": 0.0,
    "optimizer.average_decay": 0.0,
}
"""What configurations from before a field was added meant by it."""

_CHOICES = {
    "generator.architecture": tuple(ARCHITECTURES),
    "discriminators": tuple(CHANNELS),
    "parallel": ("auto", "pmap", "jit"),
    "dtype": ("float32", "bfloat16"),
    "data.on_device": ("auto", "always", "never"),
    "remat": (False, True),
    "optimizer.schedule": ("constant", "cosine"),
    "loss.intensity": get_args(Intensity),
    "validation.statistics": ("running", "batch"),
    "validation.select_by": ("psnr", "generator_loss"),
}
_POSITIVE = ("batch_size", "accumulate", "epochs", "discriminator.width", "log_every_steps",
             "checkpoint_every_minutes", "validation.first_epoch",
             "simulation.train_slices", "simulation.valid_slices", "simulation.test_slices",
             "optimizer.generator_learning_rate", "optimizer.discriminator_learning_rate",
             "loss.soft_tissue", "loss.real_label")
_NOT_NEGATIVE = ("checkpoint_after_seconds", "optimizer.warm_up_steps", "optimizer.weight_decay",
                 "optimizer.clip_norm", "loss.adversarial",
                 "loss.adversarial_from_step", "loss.gradient_penalty", "data.crop")
_BELOW_ONE = ("optimizer.average_decay",)


def _field(config: ml_collections.ConfigDict, name: str) -> Any:
    try:
        return functools.reduce(lambda node, part: node[part], name.split("."), config)
    except KeyError:
        raise InputError(f"config.{name} is missing; configs/base.py has every field") from None


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no run could use.

    Raises:
      InputError: naming the field, its value and what was expected.
    """
    for name, choices in _CHOICES.items():
        if _field(config, name) not in choices:
            raise InputError(f"config.{name} is {_field(config, name)!r}; expected one of "
                             f"{', '.join(map(str, choices))}")
    for name in _POSITIVE:
        if not _field(config, name) > 0:
            raise InputError(f"config.{name} is {_field(config, name)}; expected more than 0")
    for name in _NOT_NEGATIVE:
        if not _field(config, name) >= 0:
            raise InputError(f"config.{name} is {_field(config, name)}; expected 0 or more")
    for name in _BELOW_ONE:
        if not 0 <= _field(config, name) < 1:
            raise InputError(f"config.{name} is {_field(config, name)}; expected 0 or more, and "
                             "below 1")
    for name in ("seed", "simulation.seed"):
        if not 0 <= _field(config, name) < 2**32:
            raise InputError(f"config.{name} is {_field(config, name)}; expected 0 to 2**32 - 1")
    for name in ("width", "attention", *PUBLISHED_OPTIONS):
        _field(config, f"generator.{name}")
    architecture = ARCHITECTURES[config.generator.architecture]
    if config.generator.attention and "attention" not in architecture.published:
        raise InputError("config.generator.attention is True; expected False, since "
                         f"{architecture.title} has no attention")
    try:
        options_of(**config.generator)
    except InputError as error:
        raise InputError(f"config.{error}") from None
    for name in ("protocols", "baselines", "physics", "pixel_spacing_mm"):
        _field(config, f"evaluation.{name}")
    build_networks(config)
    if (config.validation.statistics, bool(config.optimizer.average_decay)) == ("batch", True):
        raise InputError("config.validation.statistics is 'batch'; expected 'running', since "
                         "config.optimizer.average_decay averages the running statistics")
    build_sampling(config)
    multiple, smallest = _sizes(config)
    for name, zero in (("data.size", "the native size"), ("data.crop", "whole slices")):
        size = _field(config, name)
        if size % multiple or (size and size < smallest):
            raise InputError(f"config.{name} is {size}; expected a multiple of {multiple}, at "
                             f"least {smallest}, or 0 for {zero}")


def _sizes(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """The multiple and the smallest height and width that the networks are trained on [pixels]."""
    architecture = ARCHITECTURES[config.generator.architecture]
    return architecture.size_multiple, max(architecture.min_size, MIN_SIZE)


def build_networks(config: ml_collections.ConfigDict) -> Networks:
    return Networks(
        generator=build_generator(**config.generator, dtype=config.dtype),
        discriminator=PatchDiscriminator(**config.discriminator, dtype=config.dtype),
        discriminators=config.discriminators)


def build_optimizers(config: ml_collections.ConfigDict, *, total_steps: int) -> Optimizers:
    options = config.optimizer
    def schedule(learning_rate: float, *, warm_up_steps: int = 0) -> optax.ScalarOrSchedule:
        end_value = 0.0 if options.schedule == "cosine" else learning_rate
        if warm_up_steps:
            return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warm_up_steps,
                                                      max(total_steps, warm_up_steps + 1),
                                                      end_value)
        if options.schedule == "cosine":
            return optax.cosine_decay_schedule(learning_rate, total_steps)
        return learning_rate

    moments = {"b1": options.b1, "b2": options.b2, "eps": options.eps}
    rate = schedule(options.generator_learning_rate, warm_up_steps=options.warm_up_steps)
    generator = (optax.adamw(rate, weight_decay=options.weight_decay, **moments)
                 if options.weight_decay else optax.adam(rate, **moments))
    if options.clip_norm:
        generator = optax.chain(optax.clip_by_global_norm(options.clip_norm), generator)
    return Optimizers(
        generator=generator,
        discriminator=optax.adam(schedule(options.discriminator_learning_rate), **moments),
        average_decay=options.average_decay)


def build_state(config: ml_collections.ConfigDict, networks: Networks, optimizers: Optimizers
                ) -> TrainState:
    """The state of a new run with random weights, which `config.seed` decides."""
    return parallel.run_once(
        functools.partial(create_state, networks=networks, optimizers=optimizers),
        jax.random.key(config.seed))


def state_shapes(networks: Networks, optimizers: Optimizers) -> TrainState:
    """The shapes and types of a state, `jax.ShapeDtypeStruct`s."""
    return jax.eval_shape(functools.partial(
        create_state, networks=networks, optimizers=optimizers), jax.random.key(0))


def build_loss(config: ml_collections.ConfigDict) -> LossOptions:
    return LossOptions(**config.loss)


def model_name(config: Any) -> str:
    """The name of a table's row.

    Args:
      config: of a run, or what a file of weights tells of one.
    """
    return table_name(config["generator"], config["discriminators"])


def listed(text: str) -> list[str]:
    """The parts of a field that holds several, separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def data_files(config: ml_collections.ConfigDict, split: str) -> list[str]:
    """The files of a split, in order; none where it is simulated."""
    return listed(config.data[split])


def build_sampling(config: ml_collections.ConfigDict) -> Sampling:
    """How training takes its batches.

    Raises:
      InputError: the shares of the files are not one for each, or do not add up to 1.
    """
    shares = None
    if config.data.train_shares:
        files = data_files(config, "train")
        shares = dataset.parse_shares(config.data.train_shares, files,
                                      name="config.data.train_shares")
    return Sampling(global_batch_size=config.batch_size, seed=config.seed, crop=config.data.crop,
                    augment=config.data.augment, shares=shares)


def data_source(config: ml_collections.ConfigDict, split: str) -> str:
    """Where a split's pairs come from, in words."""
    return config.data[split] or f"simulated (seed {config.simulation.seed})"


def cache_folder(config: ml_collections.ConfigDict) -> pathlib.Path:
    """The folder that keeps simulated and preprocessed pairs."""
    return pathlib.Path(config.data.cache_dir or user_cache())


def load_splits(config: ml_collections.ConfigDict, splits: tuple[str, ...],
                simulated: Callable[[ml_collections.ConfigDict, str], pathlib.Path]
                ) -> dict[str, Pairs]:
    """The preprocessed pairs of some splits, from the cache or by way of it.

    Args:
      config: whose `data` names the files.
      splits: among `SPLITS`.
      simulated: makes the file of a split whose `data` field is empty.

    Returns:
      Split → pairs in normalised HU.

    Raises:
      InputError: a file cannot be used, the cache cannot be written, a slice stands in
        two splits, or the size does not fit the training of the networks.
    """
    preprocessed = {}
    for split in splits:
        files = data_files(config, split)
        for number, path in enumerate(files or [str(simulated(config, split))], start=1):
            name = f"data.{split}, file {number} ({path})" if files[1:] else f"data.{split}"
            preprocessed[split, name] = read_preprocessed(
                path, size=config.data.size, folder=cache_folder(config))
    check_no_overlap({name: each.raw_qdct_digests for (_, name), each in preprocessed.items()})
    try:
        # Several files of one split may hold one scan at several doses.
        check_no_overlap({f"data.{split}": [
            digest for (of, _), each in preprocessed.items() if of == split
            for digest in each.raw_ndct_digests] for split in splits})
    except InputError as error:
        # Phantoms may be the same on purpose; scans are the same patient.
        print(f"warning: normal doses: {error}", file=sys.stderr, flush=True)
    pairs = {split: joined([each.pairs for (of, _), each in preprocessed.items() if of == split])
             for split in splits}
    for split, each in pairs.items():
        _check_sizes(config, split, each, is_training="train" in pairs)
    return pairs


def _check_sizes(config: ml_collections.ConfigDict, split: str, pairs: Pairs, *,
                 is_training: bool) -> None:
    """Refuses slices that the networks cannot be trained on, or that make no batch."""
    is_cropped = split == "train" and config.data.crop > 0
    if len(set(pairs.sizes)) > 1 and not is_cropped:
        raise InputError(f"data.{split} ({data_source(config, split)}) has slices of "
                         f"{' and '.join(f'{h}×{w}' for h, w in sorted(set(pairs.sizes)))}; "
                         "expected one size: set data.size to resize"
                         f"{', or data.crop' if split == 'train' else ''}")
    if not is_training or split == "test" or is_cropped:  # the test slices may have any size
        return
    height, width = pairs.sizes[0]
    multiple, smallest = _sizes(config)
    if height % multiple or width % multiple or min(height, width) < smallest:
        raise InputError(f"data.{split} ({data_source(config, split)}) has slices of "
                         f"{height}×{width}; the networks take multiples of {multiple}, "
                         f"at least {smallest}: set data.size to resize")


def check_same(config: ml_collections.ConfigDict, checkpoint_paths: Sequence[str] = ()) -> None:
    """Refuses processes of one run with several configurations or checkpoints."""
    here = [json.loads(config.to_json()), list(checkpoint_paths)]
    if processes.from_main(lambda: here) != here:
        raise InputError("the configuration, or --checkpoint, is not that of process 0; expected "
                         "the same command for every process")


def check_same_data(data: Mapping[str, Pairs]) -> dict[str, str]:
    """The fingerprint of each split; refuses processes of one run that read several files."""
    fingerprints = {split: pairs.fingerprint() for split, pairs in data.items()}
    check_data(processes.from_main(lambda: fingerprints), data, fingerprints,
               "that process 0 reads; every process needs the same files")
    return fingerprints


def check_data(expected: Mapping[str, str], data: Mapping[str, Pairs],
               fingerprints: Mapping[str, str], those: str) -> None:
    """Refuses other pairs than those expected, which `those` describes."""
    for split, fingerprint in fingerprints.items():
        if expected[split] != fingerprint:
            raise InputError(f"data.{split}: {len(data[split])} slices that are not those {those}")


def check_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Refuses a folder that belongs to a run of another configuration.

    `epochs` may differ where the learning rate is constant, so that a finished run can
    go on for longer. Where pairs and when checkpoints are kept, how devices share a batch, what is
    computed twice and what is evaluated may differ, since none of it changes training by more
    than rounding.

    Raises:
      InputError: naming the first field that differs.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        for name in ("checkpoints/*", "report.html", "results.json"):
            if any(workdir.glob(name)):
                raise InputError(f"{workdir}: holds {name}, but no {CONFIG_FILE} that says of "
                                 "which run; choose another --workdir")
        return
    try:
        there = _MEANT | _flatten(json.loads(path.read_text()))
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    here = _flatten(json.loads(config.to_json()))
    free = {"epochs"} if config.optimizer.schedule == "constant" else set()
    differing = sorted(name for name in there.keys() | here.keys()
                       if there.get(name) != here.get(name)
                       and not (name in free or _changes_no_training(name)))
    if differing:
        name = differing[0]
        raise InputError(
            f"{workdir}: belongs to a run of another configuration: {len(differing)} fields "
            f"differ, the first {name}: {there.get(name)!r} there, {here.get(name)!r} here; "
            "choose another --workdir")


def _changes_no_training(name: str) -> bool:
    return (name in ("data.cache_dir", "data.on_device", "checkpoint_after_seconds", "remat",
                     "parallel")
            or name.startswith("evaluation."))


def shared_by_seeds(config: Mapping[str, Any]) -> str:
    """Names what runs have in common that differ by their seed alone.

    Args:
      config: that a checkpoint holds.
    """
    return json.dumps({name: value for name, value in (_MEANT | _flatten(dict(config))).items()
                       if name not in ("seed", "name", "log_every_steps",
                                       "checkpoint_every_minutes")
                       and not _changes_no_training(name)}, sort_keys=True)


def claim_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the folder of a run and writes its `config.json`."""
    with written_whole(workdir / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(json.loads(config.to_json()), indent=2) + "\n")


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
