"""The networks of a run without its optimizers, for exchange with files of PyTorch."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PyTree

from dfgan_jax.models.architecture import Options, OptionValue
from dfgan_jax.models.generators import (
    ARCHITECTURES,
    PUBLISHED_OPTIONS,
    UNSEEN_OPTIONS,
    options_of,
)
from dfgan_jax.porting import recognition, torch_layout
from dfgan_jax.porting.layout import Layout, NetworkLayout, flattened
from dfgan_jax.porting.weight_file import read_metadata, read_weight_file
from dfgan_jax.support.digests import file_digest
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import printable

_OPTIONS, _TRAINED_ON = "generator_options", "trained_on"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Networks as Flax variables, nested, float32.

    Attributes:
      generator: {"params": …, "batch_stats": …, "batches_tracked": …}; the last two are empty
        for a generator without normalisation.
      discriminators: name (`image` and `difference`, or `joint`) → {"params": …}.
      unseen: the `UNSEEN_OPTIONS` of the generator with other than published values;
        name → value.
    """

    generator: dict[str, PyTree]
    discriminators: dict[str, PyTree]
    unseen: Mapping[str, OptionValue] = dataclasses.field(default_factory=dict)

    @property
    def generator_variables(self) -> dict[str, PyTree]:
        """The variables that the generator is applied with: without the counts."""
        return {name: self.generator[name] for name in ("params", "batch_stats")}

    @functools.cached_property
    def _shown(self) -> tuple[NetworkLayout[Any], Options]:
        """The generator's layout, and the options that follow from its variables.

        Raises:
          InputError: the variables match no known architecture.
        """
        shapes = {path: np.shape(leaf) for path, leaf in flattened(self.generator).items()}
        params = {path for path in shapes if path.startswith("params/")}
        for known in torch_layout.LAYOUTS.values():
            tensors = {key: entry.to_torch(np.broadcast_to(np.float32(0), shapes[entry.path]))
                       for key, entry in known.keys.items()
                       if entry.path in shapes and len(shapes[entry.path]) == len(entry.shape)}
            options: Options | None = known.shown(tensors)
            if options is not None and params == {
                    entry.path for entry in known.layout(options).values()
                    if entry.collection == "params"}:
                return known, options
        raise InputError(f"a generator with the {len(params)} parameters "
                         f"{', '.join(sorted(params)[:4])}, …; expected those of one of "
                         f"{', '.join(torch_layout.LAYOUTS)}")

    @property
    def architecture(self) -> str:
        """One of `ARCHITECTURES`."""
        return self._shown[0].architecture.name

    @property
    def attention(self) -> bool:
        """Whether the generator has CBAM."""
        return bool(getattr(self._shown[1], "attention", False))

    @property
    def width(self) -> int:
        """The width of the generator; see the options of its architecture."""
        return self._shown[1].width

    @property
    def options(self) -> JsonObject:
        """The arguments of `build_generator` for the generator's module."""
        published = ARCHITECTURES[self.architecture].published
        seen = {name: value for name, value in dataclasses.asdict(self._shown[1]).items()
                if value != published[name]}
        return {**seen, "architecture": self.architecture, "attention": self.attention,
                "width": self.width, **self.unseen}

    def layouts(self) -> dict[str, Layout]:
        """The layouts of `generator` and of each discriminator, by name."""
        known, options = self._shown
        result = {"generator": known.layout(options)}
        for name, variables in self.discriminators.items():
            *_, channels, width = variables["params"]["conv1"]["kernel"].shape
            result[name] = torch_layout.discriminator_layout(channels=channels, width=width)
        return result

    def state_dicts(self) -> dict[str, dict[str, np.ndarray]]:
        """The state dicts for PyTorch, by the same names: key → array, in PyTorch's order."""
        variables = {"generator": self.generator, **self.discriminators}
        return {name: torch_layout.to_state_dict(variables[name], layout)
                for name, layout in self.layouts().items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """Networks, with the metadata of their files or checkpoint.

    Attributes:
      weights: the networks.
      meta: the metadata of a checkpoint. For files, `config` holds only values that follow from
        the networks, and `epoch` is read from a file if it has one.
      explanation: the conversion of each tensor, as lines for a reader.
    """

    weights: Weights
    meta: JsonObject
    explanation: Sequence[str]


def read_weights(paths: Sequence[str | os.PathLike[str]], *, container: str | None = None
                 ) -> LoadedWeights:
    """Reads a generator, and its discriminators if there are any.

    Args:
      paths: of one or more files in PyTorch's or the safetensors format.
      container: selects one of several generators: the keys from the top of the file to its
        dict, and the prefix of its keys, joined by dots.

    Raises:
      InputError: a file is missing, broken or refused; there is no generator, or more
        than one; tensors are missing, left over, or of another shape or type.
    """
    trees = {str(path): read_weight_file(path) for path in paths}
    places = [place for path, tree in trees.items()
              for place in recognition.containers(tree, file=path)]
    generator = _the_generator(", ".join(trees), places, container)
    discriminators = recognition.find_discriminators(places)
    roles = recognition.roles(discriminators)
    for network in [generator, *roles.values()]:
        recognition.check(network, others=[generator, *discriminators])

    unseen = _unseen_options(generator.container.file, generator.architecture)
    explanation = [*recognition.explain(generator), *explain_options(unseen)]
    for name, network in roles.items():
        explanation += [f"{name}: {line}" if line[0] != " " else line
                        for line in recognition.explain(network)]
    if discriminators and not roles:
        explanation += [
            "Discriminators are not converted: expected one of 2 channels, or two of 1 channel and "
            "equal width, whose names say 'image' and 'difference'; found:",
            *(f"  {network}" for network in discriminators)]
    unused = recognition.unused(places, [generator, *roles.values()])
    if unused:
        explanation.append("Not used: " + ", ".join(f"{name} ({count} tensors)"
                                                    for name, count in unused.items()))
    weights = Weights(generator={"batch_stats": {}, torch_layout.COUNTS: {},
                                 **recognition.to_variables(generator)},
                      discriminators={name: recognition.to_variables(network)
                                      for name, network in roles.items()}, unseen=unseen)
    epochs = [tree["epoch"] for tree in trees.values()
              if isinstance(tree, dict) and type(tree.get("epoch")) is int
              and 0 <= tree["epoch"] < 2**63]
    meta: JsonObject = {
        "step": None, "epoch": epochs[0] if epochs else None,
        "config": {"generator": weights.options,
                   "discriminators": {0: None, 1: "joint", 2: "pair"}[len(roles)],
                   "dtype": "float32"},
        "trained_on": _trained_on(generator.container.file),
        "source": [{"file": pathlib.Path(path).name, "sha256": file_digest(path)}
                   for path in trees]}
    return LoadedWeights(weights=weights, meta=meta, explanation=explanation)


def unseen_options(generator_config: JsonObject) -> dict[str, OptionValue]:
    """The `UNSEEN_OPTIONS` in a configuration's `generator` with other than published values."""
    return {name: generator_config[name] for name in UNSEEN_OPTIONS
            if generator_config.get(name, PUBLISHED_OPTIONS[name]) != PUBLISHED_OPTIONS[name]}


def explain_options(unseen: Mapping[str, OptionValue]) -> list[str]:
    """Describes the options of a generator that do not follow from its tensors, as lines."""
    words = {name: tell for each in ARCHITECTURES.values() for name, tell in each.unseen.items()}
    return [f"  {words[name](value)}" for name, value in unseen.items()]


def file_metadata(unseen: Mapping[str, OptionValue], meta: JsonObject) -> dict[str, str]:
    """The metadata of a safetensors file, for `read_weights`.

    Args:
      unseen: see `Weights`.
      meta: of a checkpoint; only `trained_on` is written, if present.
    """
    carried = {_OPTIONS: dict(unseen), _TRAINED_ON: meta.get("trained_on")}
    return {name: json.dumps(value) for name, value in carried.items() if value}


def _trained_on(path: str) -> object:
    """Reads the metadata on the scans that a model was trained on; None without them."""
    text = read_metadata(path).get(_TRAINED_ON, "null")
    try:
        trained_on: object = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: its metadata {_TRAINED_ON!r} are not JSON: {printable(text)}"
                         ) from error
    if trained_on is not None and not isinstance(trained_on, dict):
        raise InputError(f"{path}: its metadata {_TRAINED_ON!r} are {printable(text)}; expected a "
                         "JSON object")
    return trained_on


def _unseen_options(path: str, architecture: str) -> dict[str, OptionValue]:
    """Reads the options that `file_metadata` wrote; without them the published values hold."""
    text = read_metadata(path).get(_OPTIONS, "{}")
    try:
        options = json.loads(text)
        if not isinstance(options, dict) or options.keys() - set(UNSEEN_OPTIONS):
            raise ValueError(f"expected some of {', '.join(UNSEEN_OPTIONS)}")
        for name, value in options.items():
            if type(value) is not type(PUBLISHED_OPTIONS[name]):
                raise ValueError(f"{name} is {value!r}")
        options_of(architecture=architecture, width=ARCHITECTURES[architecture].options().width,
                   **options)
    except ValueError as error:
        raise InputError(f"{path}: its metadata name generator options that there are not: "
                         f"{printable(text)} ({error})") from error
    return unseen_options(options)


def _the_generator(where: str, places: Sequence[recognition.Container], container: str | None
                   ) -> recognition.Network:
    """Finds the one generator in the containers; at least half of its keys are present."""
    if not places:
        raise InputError(f"{where}: not a DFGAN generator: it holds no dict of tensors")
    found = recognition.find_generators(places)
    if container is not None:
        known = sorted({network.place for network in found})
        found = [network for network in found
                 if container in (network.place, network.container.name)]
        if not found:
            raise InputError(f"{where}: no generator in {container!r}; there are "
                             f"{', '.join(map(_place, known)) or 'none'}")
    whole = [network for network in found if recognition.is_whole_enough(network)]
    if len(whole) > 1:
        raise InputError(
            f"{where}: holds {len(whole)} generators; --mode=convert --container=NAME writes one "
            f"of them, among {', '.join(_place(network.place) for network in whole)}")
    if whole:
        return whole[0]
    if recognition.find_discriminators(places):
        raise InputError(f"{where}: not a DFGAN generator, but a discriminator; give the "
                         "generator's file as well")
    if found:
        return found[0]  # `check` then reports all errors
    raise InputError(recognition.describe_foreign(places))


def _place(name: str) -> str:
    """A place in a file, for a message."""
    return repr(name) if name else "'', the top of the file"


def explain_state_dicts(weights: Weights) -> list[str]:
    """Explains the conversion to PyTorch: path and shape of each variable → key, shape, axes."""
    lines = []
    for name, layout in weights.layouts().items():
        lines.append(f"{name}:")
        width = max(len(entry.path) for entry in layout.values())
        for key, entry in layout.items():
            here = entry.from_torch(np.empty(entry.shape)).shape
            change = f"{entry.axes.flax} → {entry.axes.torch}" if entry.axes else "as it is"
            dtype = "int64" if entry.collection == torch_layout.COUNTS else "float32"
            lines.append(f"  {entry.path:{width}}  {f'{here} {dtype}':26} → {key} {entry.shape}, "
                         f"{change}")
    return lines
