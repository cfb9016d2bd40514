"""All options of a run, read once from its configuration.

Lower layers have dataclasses of their own options instead of a `ConfigDict`, and name options in
their errors without the path of the field: `prefixed` adds it.
"""

import contextlib
import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import ml_collections

from dfgan_jax.cli.given_paths import expanded, one_or_several, refuse_url
from dfgan_jax.data.options import DataOptions, SimulationOptions
from dfgan_jax.data.sources import Sources
from dfgan_jax.devices import agreement
from dfgan_jax.devices.parallel import Parallel
from dfgan_jax.evaluation.options import EvaluationOptions
from dfgan_jax.support.checks import check_one_of, check_seed
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import nearest
from dfgan_jax.training.input_pipeline import Sampling
from dfgan_jax.training.loop import LoopOptions
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.networks import DiscriminatorOptions, GeneratorOptions, build_networks
from dfgan_jax.training.optimizers import OptimizerOptions
from dfgan_jax.training.state import CHANNELS, Discriminators, Networks
from dfgan_jax.training.training import Training
from dfgan_jax.training.validation import ValidationOptions

Config: TypeAlias = ml_collections.ConfigDict | JsonObject


@contextlib.contextmanager
def prefixed(path: str) -> Iterator[None]:
    """Puts the path of a field, or of its group, before the message of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}{error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run, with the tree and the names of `configs/base.py`, which explains them.

    Fields with a default are missing in older configurations; the default is the value that these
    meant.

    Raises:
      InputError: no run could use a value, or two values contradict each other.
    """

    name: str
    initial_checkpoint: str
    data: DataOptions
    simulation: SimulationOptions
    generator: GeneratorOptions
    discriminators: Discriminators
    discriminator: DiscriminatorOptions
    loss: LossOptions
    optimizer: OptimizerOptions
    batch_size: int
    accumulate: int
    remat: bool
    epochs: int
    seed: int
    parallel: Parallel
    dtype: str
    validation: ValidationOptions
    evaluation: EvaluationOptions
    log_every_steps: int
    checkpoint_every_minutes: float
    checkpoint_after_seconds: float

    def __post_init__(self) -> None:
        check_one_of(self, "discriminators", tuple(CHANNELS))
        check_one_of(self, "parallel", typing.get_args(Parallel))
        check_one_of(self, "dtype", ("float32", "bfloat16"))
        check_one_of(self, "remat", (False, True))
        check_seed(self)
        _ = self.loop, self.networks  # check their options
        with prefixed("data."):
            self.data.check_sizes(size_multiple=self.generator.size_multiple,
                                  min_size=self.generator.min_size)
        if self.validation.statistics == "batch" and self.optimizer.average_decay:
            raise InputError("validation.statistics is 'batch'; expected 'running', since "
                             "config.optimizer.average_decay averages the running statistics")
        if self.validation.statistics == "batch" and self.optimizer.freeze_batch_stats:
            raise InputError("validation.statistics is 'batch'; expected 'running', since "
                             "config.optimizer.freeze_batch_stats keeps the running statistics")
        self._check_effect()
        with prefixed("optimizer."):
            self.optimizer.check_start(self.networks, initial_checkpoint=self.initial_checkpoint)

    def _check_effect(self) -> None:
        """Refuses values of fields that have no effect beside the others.

        `loss.adversarial` is not among them: the GANs' configurations have one, and
        `discriminators=none` alone makes their training supervised.
        """
        for path, chosen, cause in (
                ("loss.adversarial_from_step", self.discriminators == "none",
                 "discriminators is 'none'"),
                ("loss.gradient_penalty", self.discriminators == "none",
                 "discriminators is 'none'"),
                ("generator.gate_window", not self.generator.attention,
                 "generator.attention is False"),
                ("generator.momentum", self.generator.normalization != "batch",
                 f"generator.normalization is {self.generator.normalization!r}")):
            group, name = path.split(".")
            options = getattr(self, group)
            value, without = getattr(options, name), getattr(type(options), name)
            if chosen and value != without:
                raise InputError(f"{path} is {value!r}; expected {without!r}, since "
                                 f"config.{cause}")

    @classmethod
    def of(cls, config: Config) -> "RunOptions":
        """Reads the options of a configuration.

        Args:
          config: a `ConfigDict`, or the JSON of `as_json`, of this version or an older one.

        Raises:
          InputError: a field is missing, unknown or wrong; the message has its name, its value
            and the expected value.
        """
        return _read(cls, config, "config")

    def as_json(self) -> JsonObject:
        """The configuration of the options, as checkpoints hold it."""
        config: JsonObject = _as_json(self)
        return config

    @functools.cached_property
    def loop(self) -> LoopOptions:
        """The options of the training loop."""
        return LoopOptions(**{field.name: getattr(self, field.name)
                              for field in dataclasses.fields(LoopOptions)})

    @functools.cached_property
    def networks(self) -> Networks:
        """The modules."""
        return build_networks(generator=self.generator, discriminator=self.discriminator,
                              discriminators=self.discriminators, dtype=self.dtype)

    @property
    def sources(self) -> Sources:
        """The sources of the pairs."""
        return Sources(data=self.data, simulation=self.simulation,
                       size_multiple=self.generator.size_multiple,
                       min_size=self.generator.min_size)

    @property
    def sampling(self) -> Sampling:
        """How training takes its batches."""
        return Sampling(global_batch_size=self.batch_size, seed=self.seed, crop=self.data.crop,
                        augment=self.data.augment, shares=self.data.shares)

    def training(self, *, total_steps: int) -> Training:
        """The networks, optimizers and losses of a run of `total_steps` updates."""
        return Training(networks=self.networks, loss=self.loss, accumulate=self.accumulate,
                        optimizers=self.optimizer.build(total_steps=total_steps),
                        remat=self.remat)

    def check_same_in_all(self, checkpoint_paths: Sequence[str] = ()) -> None:
        """Refuses processes of one run with different configurations or checkpoints."""
        here = [self.as_json(), list(checkpoint_paths)]
        if agreement.from_main(lambda: here) != here:
            raise InputError("the configuration, or --checkpoint, is not that of process 0; "
                             "expected the same command for every process")


_T = typing.TypeVar("_T")


_PATHS: typing.Final = frozenset((
    "config.initial_checkpoint", "config.data.train", "config.data.valid", "config.data.test",
    "config.data.cache_dir", "config.evaluation.checkpoints"))
"""The fields with paths."""


def listed(text: str) -> tuple[str, ...]:
    """The parts of a field with several texts.

    In a configuration, such a field is one text, separated by commas: for a tuple, the command
    line of ml_collections takes only Python's notation, `--config.data.train="('a.npy','b.npy')"`,
    and no bare words.
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


class _Field(typing.NamedTuple):
    """A field of a dataclass of options.

    Attributes:
      name: of the field.
      group: the dataclass of a group of fields; None for a value.
      is_list: whether it has several texts, which a configuration separates by commas.
      default: `dataclasses.MISSING` without a default.
    """

    name: str
    group: type | None
    is_list: bool
    default: object


def _fields(kind: type) -> Iterator[_Field]:
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        of = types[field.name]
        group = of if isinstance(of, type) and dataclasses.is_dataclass(of) else None
        yield _Field(field.name, group, of == tuple[str, ...], field.default)


def _read(kind: type[_T], node: Config, path: str) -> _T:
    """A dataclass of options from its part of a configuration, at a path."""
    values: dict[str, object] = {}
    for field in _fields(kind):
        if field.group is not None:
            values[field.name] = _read(field.group, node.get(field.name) or {},
                                       f"{path}.{field.name}")
        elif field.name in node:
            value = node[field.name]
            if is_path := (name := f"{path}.{field.name}") in _PATHS:
                refuse_url(value, name=name)
            if field.is_list:
                parts = listed(value)
                values[field.name] = tuple(one_or_several(parts)) if is_path else parts
            else:
                values[field.name] = expanded(value) if is_path else value
        elif field.default is dataclasses.MISSING:
            raise InputError(f"{path}.{field.name} is missing; configs/base.py has every field")
    unknown = [name for name in node if name not in values]
    if unknown:
        known = [field.name for field in _fields(kind)]
        raise InputError(f"{path}.{unknown[0]}: there is no such field"
                         f"{nearest(unknown[0], known)}; there are {', '.join(known)}")
    with prefixed(f"{path}."):
        return kind(**values)


def _as_json(options: object) -> Any:
    if dataclasses.is_dataclass(options):
        return {field.name: _as_json(getattr(options, field.name))
                for field in dataclasses.fields(options)}
    return ",".join(options) if isinstance(options, tuple) else options


def flattened(tree: Mapping[str, object], prefix: str = "") -> JsonObject:
    """Nested options as one level, by names joined by dots."""
    flat: JsonObject = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def meant(config: JsonObject) -> JsonObject:
    """A stored configuration, flattened, with the defaults of fields that an older one lacks.

    Args:
      config: JSON; for files of weights, only the known part.
    """
    flat = _defaults(RunOptions) | flattened(config)
    for name in _lists(RunOptions):
        if isinstance(flat.get(name), str):
            flat[name] = ",".join(listed(flat[name]))
    return flat


def _defaults(kind: type, prefix: str = "") -> JsonObject:
    """The fields with a default, as JSON, flattened."""
    flat: JsonObject = {}
    for field in _fields(kind):
        if field.group is not None:
            flat |= _defaults(field.group, f"{prefix}{field.name}.")
        elif field.default is not dataclasses.MISSING:
            flat[prefix + field.name] = _as_json(field.default)
    return flat


def _lists(kind: type, prefix: str = "") -> Iterator[str]:
    """The fields with several texts, by names joined by dots."""
    for field in _fields(kind):
        if field.group is not None:
            yield from _lists(field.group, f"{prefix}{field.name}.")
        elif field.is_list:
            yield prefix + field.name
