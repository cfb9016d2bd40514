"""Recognition of known networks among the tensors of a file, by their keys.

The tensors of a network may lie in a *container* (`state_dict`, `model.generator`, …:
its keys from the top of the file, joined by dots), and their keys may share a *prefix*
(`module.`, `_orig_mod.`, `generator.`, …).
"""

import collections
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import PyTree

from dfgan_jax.porting import torch_layout
from dfgan_jax.porting.layout import COUNTS, Layout, needed, size_of
from dfgan_jax.porting.torch_layout import LAYOUTS
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.safe_pickle import PickledArray
from dfgan_jax.support.wording import printable

_MAX_NAME_LENGTH = 200
_MAX_NODES = 100_000
_MAX_CANDIDATES = 16
"""Limits the search in files with a hundred thousand keys; no file holds more networks."""

_DISCRIMINATOR = torch_layout.discriminator_layout()
_WORDS = max(key.count(".") for keys in [*(known.keys for known in LAYOUTS.values()),
                                         _DISCRIMINATOR] for key in keys) + 1


_Node: TypeAlias = dict[object, object] | list[object] | tuple[object, ...]


class Container(NamedTuple):
    """The tensors of one dict or list in a file.

    Attributes:
      file: path of the file.
      name: keys from the top of the file to the dict, joined by dots; empty at the top.
      tensors: key → array.
    """

    file: str
    name: str
    tensors: dict[str, np.ndarray]

    def __str__(self) -> str:
        return f"{self.file}: {printable(self.name)}" if self.name else self.file


class Network(NamedTuple):
    """The tensors of a container, after a prefix, recognised as a known network.

    Attributes:
      container: of the tensors.
      prefix: of the keys.
      tensors: key without the prefix → array.
      description: of the known network.
      layout: of the known network, at the width of the tensors.
      architecture: of a generator; empty for a discriminator.
    """

    container: Container
    prefix: str
    tensors: dict[str, np.ndarray]
    description: str
    layout: Layout
    architecture: str = ""

    def __str__(self) -> str:
        prefix = f", keys without their prefix {printable(self.prefix)!r}" if self.prefix else ""
        return f"{self.description}, from {self.container}{prefix}"

    @property
    def place(self) -> str:
        """The container's name and the prefix, joined by dots."""
        return f"{self.container.name}.{self.prefix}".strip(".")

    def matches(self) -> int:
        """The number of keys shared with the known network, without the counts."""
        return sum(key in self.tensors for key in needed(self.layout))


def containers(tree: object, *, file: str) -> Iterator[Container]:
    """Yields every dict and list in a tree that holds arrays, once each, outer ones first.

    Args:
      tree: from `read_weight_file`.
      file: its path.

    Raises:
      InputError: there are more than 100,000 dicts and lists.
    """
    seen = {id(tree)}
    waiting: collections.deque[tuple[str, _Node]] = collections.deque()
    if isinstance(tree, dict | list | tuple):
        waiting.append(("", tree))
    while waiting:
        name, node = waiting.popleft()
        tensors = {}
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, PickledArray):  # an array of NumPy in a file of PyTorch
                value = value.value
            if isinstance(value, np.ndarray):
                tensors[str(key)] = value
            elif (isinstance(value, dict | list | tuple) and id(value) not in seen
                  and len(name) < _MAX_NAME_LENGTH):
                seen.add(id(value))
                if len(seen) > _MAX_NODES:
                    raise InputError(f"{file}: refused: it holds more than {_MAX_NODES:,} dicts "
                                     "and lists")
                waiting.append((f"{name}.{key}" if name else str(key), value))
        if tensors:
            yield Container(file, name, tensors)


def _candidates(places: Sequence[Container], layout: Layout) -> list[tuple[Container, str]]:
    """The containers and prefixes that are followed by the most keys of a layout."""
    votes: collections.Counter[tuple[int, str]] = collections.Counter()
    for index, container in enumerate(places):
        for key in container.tensors:
            words = key.split(".")
            for start in range(max(len(words) - _WORDS, 0), len(words)):
                if ".".join(words[start:]) in layout:
                    votes[index, "".join(f"{word}." for word in words[:start])] += 1
    return [(places[index], prefix) for (index, prefix), _ in votes.most_common(_MAX_CANDIDATES)]


def _behind(container: Container, prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): array for key, array in container.tensors.items()
            if key.startswith(prefix)}


def find_generators(places: Sequence[Container]) -> list[Network]:
    """Finds generators by their keys, sorted by the number of known keys, largest first.

    `NetworkLayout.is_told_by_one_key` decides on the number of keys that is needed: other
    networks, too, have a `conv1`.
    """
    found = []
    for name, known in LAYOUTS.items():
        for container, prefix in _candidates(places, known.keys):
            tensors = _behind(container, prefix)
            options = known.shown(tensors)
            if options is None:
                continue
            network = Network(container, prefix, tensors,
                              f"{known.describe(options)}, width {options.width}",
                              known.layout(options), name)
            if known.is_told_by_one_key or is_whole_enough(network):
                found.append(network)
    return sorted(found, key=Network.matches, reverse=True)


def find_discriminators(places: Sequence[Container]) -> list[Network]:
    """Finds networks with at least half the keys of the discriminator."""
    found = []
    for container, prefix in _candidates(places, _DISCRIMINATOR):
        tensors = _behind(container, prefix)
        width = size_of(tensors, "conv1.0.weight", 0, default=128)
        channels = size_of(tensors, "conv1.0.weight", 1, default=2)
        found.append(Network(container, prefix, tensors,
                             f"PatchGAN discriminator of {channels} channels, width {width}",
                             torch_layout.discriminator_layout(channels=channels, width=width)))
    return [network for network in found if is_whole_enough(network)]


def is_whole_enough(network: Network) -> bool:
    """Whether a network has at least half the keys of the known network."""
    return 2 * network.matches() >= len(needed(network.layout))


def describe_foreign(places: Sequence[Container]) -> str:
    """Explains that tensors are no generator, when no key is known."""
    largest = max(places, key=lambda place: len(place.tensors))
    keys = ", ".join(printable(key) for key in list(largest.tensors)[:4])
    by_one, by_half = [], []
    for known in LAYOUTS.values():
        layouts = {known.describe(options): known.layout(options) for options in known.published}
        first, *_, last = next(iter(layouts.values()))
        counts = [f"the {len(needed(layout))} of {name}" for name, layout in layouts.items()]
        if known.is_told_by_one_key:
            by_one.append(f"among {' and '.join(counts)} ({first}, …)")
        else:
            by_half += [f", nor half {count} ({first}, …, {last})" for count in counts]
    return (f"{largest}: not a DFGAN generator: it holds {len(largest.tensors)} tensors ({keys}, "
            f"…), none of whose keys is {' or '.join(by_one)}{''.join(by_half)}")


def _to_float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow is reported as not finite
        return array.astype(np.float32)


def check(network: Network, *, others: Sequence[Network] = ()) -> None:
    """Checks that tensors match a network completely.

    Args:
      network: the recognised network.
      others: other recognised networks, whose tensors in the same container are allowed.

    Raises:
      InputError: tensors are missing, left over, of another shape or type, or not finite; the
        message names each.
    """
    tensors, layout, prefix = network.tensors, network.layout, network.prefix
    theirs = tuple(other.prefix for other in others if other.container is network.container
                   and len(other.prefix) > len(prefix))
    wrong: dict[str, list[str]] = {
        "missing": [prefix + key for key in needed(layout) if key not in tensors],
        "left over": [prefix + key for key in tensors
                      if key not in layout and not (prefix + key).startswith(theirs)],
        "of another shape": [], "of another type": [], "not finite": []}
    for key, entry in layout.items():
        if key not in tensors:
            continue
        array = tensors[key]
        is_count = entry.collection == COUNTS
        # Integers are of kind i and u; bfloat16 and the other types of ml_dtypes of kind V.
        if array.shape != entry.shape:
            wrong["of another shape"].append(f"{prefix}{key} {array.shape}, expected {entry.shape}")
        elif array.dtype.kind not in ("iu" if is_count else "fV"):
            wrong["of another type"].append(f"{prefix}{key} {array.dtype}")
        elif not is_count and not np.isfinite(_to_float32(array)).all():
            wrong["not finite"].append(prefix + key)
    if any(wrong.values()):
        lists = "".join(f"\n  {what} ({len(keys)}): {', '.join(map(printable, keys))}"
                        for what, keys in wrong.items() if keys)
        raise InputError(f"{network.container}: not a DFGAN generator or discriminator as it is; "
                         f"the closest known model is {network.description}:{lists}")


def to_variables(network: Network) -> dict[str, PyTree]:
    """Converts a network that has passed `check` to Flax variables.

    Returns:
      Collections, nested, in float32; counts in int64, 0 if the file has none.
    """
    state_dict = {}
    for key, entry in network.layout.items():
        array = network.tensors.get(key, np.zeros(()))
        state_dict[key] = (array.astype(np.int64) if entry.collection == COUNTS
                           else _to_float32(array))
    return torch_layout.from_state_dict(state_dict, network.layout)


def explain(network: Network) -> list[str]:
    """Explains the conversion of each tensor: key, shape and type → path, shape and axes."""
    parameters = sum(math.prod(entry.shape) for entry in network.layout.values()
                     if entry.collection == "params")
    lines = [f"{network}, {parameters:,} parameters"]
    width = max(map(len, network.layout))
    for key, entry in network.layout.items():
        there = entry.from_torch(np.empty(entry.shape)).shape
        if key in network.tensors:
            array = network.tensors[key]
            dtype = "int64" if entry.collection == COUNTS else "float32"
            here = f"{array.shape} {array.dtype}"
            change = f"{entry.axes.torch} → {entry.axes.flax}" if entry.axes else "as it is"
            change += "" if array.dtype == dtype else f", {array.dtype} → {dtype}"
        else:
            here, change = "not in the file", "0"
        lines.append(f"  {key:{width}}  {here:26} → {entry.path} {there}, {change}")
    return lines


def _judged(network: Network) -> str:
    """The role of a discriminator of one channel, from the last such word in its names."""
    for name in (network.place.lower(), pathlib.Path(network.container.file).name.lower()):
        difference, image = name.rfind("diff"), max(name.rfind("image"), name.rfind("img"))
        if difference != image:  # not both absent
            return "difference" if difference > image else "image"
    return ""


def roles(discriminators: Sequence[Network]) -> dict[str, Network]:
    """Assigns roles to discriminators.

    Returns:
      {"joint": …} for a discriminator of two channels, or {"image": …, "difference": …} for two
      of one channel whose container, prefix or file names the role; otherwise {}.
    """
    found: dict[str, Network] = {}
    for network in discriminators:
        channels, width = (network.layout["conv1.0.weight"].shape[axis] for axis in (1, 0))
        if found and width != next(iter(found.values())).layout["conv1.0.weight"].shape[0]:
            return {}
        role = "joint" if channels == 2 else _judged(network) if channels == 1 else ""
        if not role or role in found:
            return {}
        found[role] = network
    return found if set(found) in ({"joint"}, {"image", "difference"}) else {}


def unused(places: Sequence[Container], used: Sequence[Network]) -> dict[str, int]:
    """Counts the tensors that no network uses, by their outermost key."""
    counts: collections.Counter[str] = collections.Counter()
    for place in places:
        prefixes = tuple(network.prefix for network in used if network.container is place)
        left = sum(not key.startswith(prefixes) for key in place.tensors)
        if left:
            counts[printable(place.name.split(".")[0] or "beside them")] += left
    return dict(counts)
