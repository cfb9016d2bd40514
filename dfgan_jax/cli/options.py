"""All options of a run, read once from its configuration.

Below here nothing sees a `ConfigDict`: each part of the package has the options that it uses.
"""

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dfgan_jax.data.options import DataOptions, SimulationOptions
from dfgan_jax.data.sources import Sources
from dfgan_jax.devices import agreement
from dfgan_jax.devices.parallel import Parallel
from dfgan_jax.evaluation.options import EvaluationOptions
from dfgan_jax.support.checks import check_one_of, check_seed
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.input_pipeline import Sampling
from dfgan_jax.training.loop import LoopOptions
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.networks import DiscriminatorOptions, GeneratorOptions, build_networks
from dfgan_jax.training.optimizers import OptimizerOptions
from dfgan_jax.training.state import CHANNELS, Discriminators, Networks
from dfgan_jax.training.training import Training
from dfgan_jax.training.validation import ValidationOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run, in the tree and by the names of `configs/base.py`, which tells of each.

    What has a default is a field that older configurations lack; the default is what they meant.

    Raises:
      InputError: a value that no run could use, or two that contradict each other.
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
        _ = self.loop, self.networks  # check what they are made of
        try:
            self.data.check_sizes(size_multiple=self.generator.size_multiple,
                                  min_size=self.generator.min_size)
        except InputError as error:
            raise InputError(f"data.{error}") from None
        if self.validation.statistics == "batch" and self.optimizer.average_decay:
            raise InputError("validation.statistics is 'batch'; expected 'running', since "
                             "config.optimizer.average_decay averages the running statistics")
        if self.evaluation.baselines and self.data.test and not self.data.valid:
            raise InputError(f"data.test is {','.join(self.data.test)}, and config.data.valid "
                             "empty: classical denoisers would be tuned on simulated slices, to "
                             "their disadvantage. Expected data.valid, of other patients than "
                             "data.test; or --config.evaluation.baselines= for a table without "
                             "them")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "RunOptions":
        """The options of a configuration.

        Args:
          config: a `ConfigDict`, or the JSON that `as_json` gave, of this version or an older one.

        Raises:
          InputError: a field is missing, unknown or wrong; with its name, value and what was
            expected.
        """
        return _read(cls, config, "config")

    def as_json(self) -> dict[str, Any]:
        """The configuration that the options are read from: what checkpoints keep."""
        return _as_json(self)

    @functools.cached_property
    def loop(self) -> LoopOptions:
        """Those of the training loop."""
        return LoopOptions(**{field.name: getattr(self, field.name)
                              for field in dataclasses.fields(LoopOptions)})

    @functools.cached_property
    def networks(self) -> Networks:
        """The modules."""
        return build_networks(generator=self.generator, discriminator=self.discriminator,
                              discriminators=self.discriminators, dtype=self.dtype)

    @property
    def sources(self) -> Sources:
        """Where the pairs come from."""
        return Sources(data=self.data, simulation=self.simulation,
                       size_multiple=self.generator.size_multiple,
                       min_size=self.generator.min_size)

    @property
    def sampling(self) -> Sampling:
        """How training takes its batches."""
        return Sampling(global_batch_size=self.batch_size, seed=self.seed, crop=self.data.crop,
                        augment=self.data.augment, shares=self.data.shares)

    def training(self, *, total_steps: int) -> Training:
        """What a step is made of, in a run of so many updates."""
        return Training(networks=self.networks, loss=self.loss, accumulate=self.accumulate,
                        optimizers=self.optimizer.build(total_steps=total_steps),
                        remat=self.remat)

    def check_same_in_all(self, checkpoint_paths: Sequence[str] = ()) -> None:
        """Refuses processes of one run with several configurations or checkpoints."""
        here = [self.as_json(), list(checkpoint_paths)]
        if agreement.from_main(lambda: here) != here:
            raise InputError("the configuration, or --checkpoint, is not that of process 0; "
                             "expected the same command for every process")


def listed(text: str) -> tuple[str, ...]:
    """The parts of a field that holds several.

    Configurations have them as one text, separated by commas: of a tuple, ml_collections takes
    only Python's own notation on the command line, `--config.data.train="('a.npy','b.npy')"`,
    and no bare words.
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


class _Field(typing.NamedTuple):
    """A field of a dataclass of options.

    Attributes:
      name: of the field.
      group: the dataclass that it holds; None of a value.
      is_list: whether it holds several texts, which a configuration separates by commas.
      default: `dataclasses.MISSING` where it has none.
    """

    name: str
    group: Any
    is_list: bool
    default: Any


def _fields(kind: type) -> Iterator[_Field]:
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        of = types[field.name]
        yield _Field(field.name, of if dataclasses.is_dataclass(of) else None,
                     of == tuple[str, ...], field.default)


def _read(kind: type, node: Mapping[str, Any], path: str) -> Any:
    """A dataclass of options from its part of a configuration, at a path."""
    values = {}
    for field in _fields(kind):
        if field.group is not None:
            values[field.name] = _read(field.group, node.get(field.name) or {},
                                       f"{path}.{field.name}")
        elif field.name in node:
            value = node[field.name]
            values[field.name] = listed(value) if field.is_list else value
        elif field.default is dataclasses.MISSING:
            raise InputError(f"{path}.{field.name} is missing; configs/base.py has every field")
    unknown = [name for name in node if name not in values]
    if unknown:
        raise InputError(f"{path}.{unknown[0]}: there is no such field; there are "
                         f"{', '.join(field.name for field in _fields(kind))}")
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{path}.{error}") from None


def _as_json(options: Any) -> Any:
    if dataclasses.is_dataclass(options):
        return {field.name: _as_json(getattr(options, field.name))
                for field in dataclasses.fields(options)}
    return ",".join(options) if isinstance(options, tuple) else options


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one level, by names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def meant(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a stored configuration means, flattened, with the fields that it is too old to have.

    Args:
      config: JSON; of weights alone, no more than is known of them.
    """
    flat = _defaults(RunOptions) | flattened(config)
    for name in _lists(RunOptions):
        if isinstance(flat.get(name), str):
            flat[name] = ",".join(listed(flat[name]))
    return flat


def _defaults(kind: type, prefix: str = "") -> dict[str, Any]:
    """The fields that have a default, as JSON, flattened."""
    flat: dict[str, Any] = {}
    for field in _fields(kind):
        if field.group is not None:
            flat |= _defaults(field.group, f"{prefix}{field.name}.")
        elif field.default is not dataclasses.MISSING:
            flat[prefix + field.name] = _as_json(field.default)
    return flat


def _lists(kind: type, prefix: str = "") -> Iterator[str]:
    """The fields that hold several texts, by names joined by dots."""
    for field in _fields(kind):
        if field.group is not None:
            yield from _lists(field.group, f"{prefix}{field.name}.")
        elif field.is_list:
            yield prefix + field.name
