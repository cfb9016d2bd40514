"""Agreement and sharing among the processes of one run.

JAX's coordination service, hosted by process 0, carries everything but arrays. In a run of one
process every function works without the service.
"""

import itertools
import json
import math
from collections.abc import Callable
from typing import Protocol, TypeVar, cast, runtime_checkable

import jax
import numpy as np
from jax._src.distributed import global_state  # as in orbax: there is no public access
from jax.experimental import multihost_utils
from jaxtyping import Num, PyTree

T = TypeVar("T")

FOR_EVER_MS = 10 * 365 * 24 * 3600 * 1000
"""Timeout of waits that last as long as the run."""

_SERIAL = itertools.count()  # equal in all processes, so that each key is used once, by all


@runtime_checkable
class Client(Protocol):
    """The client of JAX's coordination service, whose class is not public."""

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None: ...

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


def client() -> Client:
    """The client of JAX's coordination service, in a run of several processes."""
    return cast(Client, global_state.client)


def is_main() -> bool:
    """Whether this is process 0, which reads the workdir, writes and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when every process has reached this barrier."""
    if jax.process_count() > 1:
        client().wait_at_barrier(f"{name}/{next(_SERIAL)}", FOR_EVER_MS)


def wait_for_the_end() -> None:
    """Waits until process 0 ends the run by an error; other processes need not call this."""
    client().blocking_key_value_get("never", FOR_EVER_MS)


def from_main(function: Callable[[], T]) -> T:
    """Calls a function in process 0, and returns its result, a JSON value, in every process."""
    if jax.process_count() == 1:
        return function()
    key = f"said/{next(_SERIAL)}"
    if is_main():
        value = function()
        client().key_value_set(key, json.dumps(value))
        return value
    received: T = json.loads(client().blocking_key_value_get(key, FOR_EVER_MS))
    return received


def gathered(value: T) -> list[T]:
    """The values of all processes, JSON values, in every process, ordered by process."""
    if jax.process_count() == 1:
        return [value]
    key = f"gathered/{next(_SERIAL)}"
    client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
    return [json.loads(client().blocking_key_value_get(f"{key}/{index}", FOR_EVER_MS))
            for index in range(jax.process_count())]


def main_first(function: Callable[[], T]) -> T:
    """Calls a function in process 0, then in the others, which find the files of process 0."""
    if is_main():
        result = function()
        barrier("main first")
        return result
    barrier("main first")
    return function()


def broadcast(tree: PyTree) -> PyTree:
    """Returns the arrays of process 0 in every process.

    Args:
      tree: arrays; in other processes arrays or `jax.ShapeDtypeStruct`s of the same shapes and
        dtypes.
    """
    if jax.process_count() == 1:
        return tree
    barrier("broadcast")  # waits without limit; a collective of CPUs does not

    def as_bytes(x: np.ndarray | jax.Array | jax.ShapeDtypeStruct) -> np.ndarray:
        """JAX broadcasts by a sum over processes, which turns -0.0 and denormals into 0.0."""
        if is_main():
            return np.ascontiguousarray(cast(np.ndarray, x)).reshape(-1).view(np.uint8)
        return np.zeros(math.prod(x.shape) * np.dtype(x.dtype).itemsize, np.uint8)

    said = multihost_utils.broadcast_one_to_all(jax.tree.map(as_bytes, tree))
    return jax.tree.map(lambda x, each: np.asarray(each).view(x.dtype).reshape(x.shape), tree,
                        said)


def _parts(count: int) -> list[np.ndarray]:
    """The indices of each process's share of `count` items; the first share is the largest."""
    return np.array_split(np.arange(count), jax.process_count())


def share_of(count: int) -> int:
    """The size of this process's share of `count` items in `shared_out`."""
    return len(_parts(count)[jax.process_index()])


def shared_out(function: Callable[[np.ndarray], np.ndarray], items: Num[np.ndarray, "n ..."]
               ) -> Num[np.ndarray, "n ..."]:
    """Calls a function on a share of the items in each process.

    Args:
      function: (n, …) → (n, …) of the same shape, float32; treats each item by itself.
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
