"""What the processes of one run agree on, and share.

JAX's coordination service, which process 0 hosts, carries all of it but arrays. Alone, a
process needs none of this, and every function is there for it all the same.
"""

import itertools
import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src.distributed import global_state  # which orbax uses, too: there is no public way
from jax.experimental import multihost_utils

T = TypeVar("T")

FOR_EVER_MS = 10 * 365 * 24 * 3600 * 1000
"""A run may take longer than any wait."""

_SERIAL = itertools.count()  # every process counts alike, so that keys are found and not reused


def client() -> Any:
    """The client of JAX's coordination service; None where no other process was joined."""
    return global_state.client


def is_main() -> bool:
    """Whether this process is the one that reads the workdir, writes and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        client().wait_at_barrier(f"{name}/{next(_SERIAL)}", FOR_EVER_MS)


def wait_for_the_end() -> None:
    """Waits until process 0 ends the run by an error; no other process needs to come here."""
    client().blocking_key_value_get("never", FOR_EVER_MS)


def from_main(function: Callable[[], T]) -> T:
    """What a function gives in process 0, in every process: a JSON value."""
    if jax.process_count() == 1:
        return function()
    key = f"said/{next(_SERIAL)}"
    if is_main():
        value = function()
        client().key_value_set(key, json.dumps(value))
        return value
    return json.loads(client().blocking_key_value_get(key, FOR_EVER_MS))


def main_first(function: Callable[[], T]) -> T:
    """Calls a function in process 0, and then in the others, who find what it has left."""
    if is_main():
        result = function()
        barrier("main first")
        return result
    barrier("main first")
    return function()


def broadcast(tree: Any) -> Any:
    """The arrays of process 0 in every process.

    The others give arrays, or `jax.ShapeDtypeStruct`s, of the same shapes and types.
    """
    if jax.process_count() == 1:
        return tree
    barrier("broadcast")  # which waits for ever; a collective of CPUs does not

    def as_bytes(x: Any) -> np.ndarray:
        """What JAX broadcasts it adds up, which would make 0.0 of -0.0 and of denormals."""
        if is_main():
            return np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        return np.zeros(math.prod(x.shape) * np.dtype(x.dtype).itemsize, np.uint8)

    said = multihost_utils.broadcast_one_to_all(jax.tree.map(as_bytes, tree))
    return jax.tree.map(lambda x, each: np.asarray(each).view(x.dtype).reshape(x.shape), tree,
                        said)


def _parts(count: int) -> list[np.ndarray]:
    """The numbers of `count` items that fall to each process; the first has most."""
    return np.array_split(np.arange(count), jax.process_count())


def share_of(count: int) -> int:
    """How many of `count` items fall to this process in `shared_out`."""
    return len(_parts(count)[jax.process_index()])


def shared_out(function: Callable[[np.ndarray], np.ndarray], items: np.ndarray) -> np.ndarray:
    """Calls a function on a share of some items in each process.

    Args:
      function: (n, …) → (n, …) of the same shape, float32, item by item.
      items: (N, …), the same in every process.

    Returns:
      The results of all items, (N, …), in every process.
    """
    if jax.process_count() == 1:
        return function(items)
    parts = _parts(len(items))
    mine = parts[jax.process_index()]
    padded = np.zeros((len(parts[0]), *items.shape[1:]), np.float32)
    if len(mine):
        padded[:len(mine)] = function(items[mine])
    barrier("shared out")
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    return np.concatenate([each[:len(part)] for each, part in zip(gathered, parts, strict=True)])
