"""What several modes build from a configuration."""

import functools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import optax

from dfgan_jax.ct.pairs import Pairs, check_no_overlap
from dfgan_jax.ct.pairs_cache import read_preprocessed
from dfgan_jax.errors import InputError
from dfgan_jax.files import user_cache, written_whole
from dfgan_jax.models.generators import ARCHITECTURES, build_generator
from dfgan_jax.models.patch_discriminator import MIN_SIZE, PatchDiscriminator
from dfgan_jax.models.unet import SIZE_MULTIPLE
from dfgan_jax.training import parallel, processes
from dfgan_jax.training.losses import LossWeights
from dfgan_jax.training.state import CHANNELS, Networks, Optimizers, TrainState, create_state

CONFIG_FILE = "config.json"

_MEANT = {"generator.architecture": "unet"}
"""What configurations from before a field was added meant by it."""

_CHOICES = {
    "generator.architecture": ARCHITECTURES,
    "discriminators": tuple(CHANNELS),
    "parallel": ("auto", "pmap", "jit"),
    "dtype": ("float32", "bfloat16"),
    "data.on_device": ("auto", "always", "never"),
    "remat": (False, True),
    "optimizer.schedule": ("constant", "cosine"),
    "validation.statistics": ("running", "batch"),
    "validation.select_by": ("psnr", "generator_loss"),
}
_POSITIVE = ("batch_size", "accumulate", "epochs", "generator.width", "discriminator.width",
             "log_every_steps", "checkpoint_every_minutes", "validation.first_epoch",
             "simulation.train_slices", "simulation.valid_slices", "simulation.test_slices",
             "optimizer.generator_learning_rate", "optimizer.discriminator_learning_rate")


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
    if not _field(config, "checkpoint_after_seconds") >= 0:
        raise InputError(f"config.checkpoint_after_seconds is {config.checkpoint_after_seconds}; "
                         "expected 0 or more")
    for name in ("seed", "simulation.seed"):
        if not 0 <= _field(config, name) < 2**32:
            raise InputError(f"config.{name} is {_field(config, name)}; expected 0 to 2**32 - 1")
    if (config.generator.architecture, config.generator.attention) == ("redcnn", True):
        raise InputError("config.generator.attention is True; expected False, since RED-CNN has no "
                         "attention")
    for name in ("protocols", "baselines", "physics", "pixel_spacing_mm"):
        _field(config, f"evaluation.{name}")
    size = _field(config, "data.size")
    if size % SIZE_MULTIPLE or (size and size < MIN_SIZE):
        raise InputError(f"config.data.size is {size}; expected a multiple of {SIZE_MULTIPLE}, at "
                         f"least {MIN_SIZE}, or 0 for the native size")


def build_networks(config: ml_collections.ConfigDict) -> Networks:
    return Networks(
        generator=build_generator(**config.generator, dtype=config.dtype),
        discriminator=PatchDiscriminator(width=config.discriminator.width, dtype=config.dtype),
        discriminators=config.discriminators)


def build_optimizers(config: ml_collections.ConfigDict, *, total_steps: int) -> Optimizers:
    options = config.optimizer

    def adam(learning_rate: float) -> optax.GradientTransformation:
        schedule = (optax.cosine_decay_schedule(learning_rate, total_steps)
                    if options.schedule == "cosine" else learning_rate)
        return optax.adam(schedule, b1=options.b1, b2=options.b2, eps=options.eps)

    return Optimizers(generator=adam(options.generator_learning_rate),
                      discriminator=adam(options.discriminator_learning_rate))


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


def build_weights(config: ml_collections.ConfigDict) -> LossWeights:
    return LossWeights(**config.loss)


def model_name(config: Any) -> str:
    """The name of a table's row.

    AttnDFGAN, DFGAN, or the U-Net alone without an adversary; RED-CNN, or its name with one.
    """
    options = config["generator"]
    if options.get("architecture") == "redcnn":
        # A file of weights alone tells of no discriminators; the published ones had none.
        return "RED-CNN" if config["discriminators"] in ("none", None) else "RED-CNN GAN"
    if config["discriminators"] == "none":
        return "AttnU-Net" if options["attention"] else "U-Net"
    return "AttnDFGAN" if options["attention"] else "DFGAN"


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
    preprocessed = {
        split: read_preprocessed(config.data[split] or simulated(config, split),
                                 size=config.data.size, folder=cache_folder(config))
        for split in splits}
    check_no_overlap({f"data.{split}": each.raw_qdct_digests
                      for split, each in preprocessed.items()})
    try:
        check_no_overlap({f"data.{split}": each.raw_ndct_digests
                          for split, each in preprocessed.items()})
    except InputError as error:
        # Phantoms may be the same on purpose; scans are the same patient.
        print(f"warning: normal doses: {error}", file=sys.stderr, flush=True)
    pairs = {split: each.pairs for split, each in preprocessed.items()}
    # What is denoised only may have any size.
    for split in pairs.keys() - {"test"} if "train" in pairs else ():
        height, width = pairs[split].ndct.shape[1:]
        if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or min(height, width) < MIN_SIZE:
            raise InputError(f"data.{split} ({data_source(config, split)}) has slices of "
                             f"{height}×{width}; the networks take multiples of {SIZE_MULTIPLE}, "
                             f"at least {MIN_SIZE}: set data.size to resize")
    return pairs


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
