"""Runs steps on devices by jit or pmap.

The state is one unstacked tree in either form, so that code outside this file does not depend on
the choice. Each of several processes (`processes.py`) holds the whole state and contributes its
share of every batch.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Int, PyTree, Shaped

from dfgan_jax.devices import agreement
from dfgan_jax.devices.backend import has_accelerator
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.jax_functions import block_until_ready, shape_struct

Parallel = Literal["auto", "pmap", "jit"]

_AXIS = "batch"

T = TypeVar("T")

Step: TypeAlias = Callable[..., PyTree]
"""(state, batch) → tree of arrays; steps of training take the keyword `axis_name`, too."""

Batch: TypeAlias = Mapping[str, Shaped[np.ndarray, "n ..."]]

Shapes: TypeAlias = Mapping[str, jax.ShapeDtypeStruct]

# Typed names for untyped functions of JAX.
_spec: Callable[..., PartitionSpec] = PartitionSpec
_from_local: Callable[[NamedSharding, np.ndarray], Array] = (
    jax.make_array_from_process_local_data)


@runtime_checkable
class Lowerable(Protocol):
    """A function from jit or pmap."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Computes."""

    def lower(self, *arguments: Any, **named: Any) -> jax.stages.Lowered:
        """Lowers the program for some arguments, or their shapes."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step over devices.

    Attributes:
      function: from jit or pmap.
      arrange: a process's share of a batch → the batch argument of `function`.
      arrange_shapes: the shapes of a whole batch → the shapes of this argument.
    """

    function: Lowerable
    arrange: Callable[[Batch], PyTree]
    arrange_shapes: Callable[[Shapes], PyTree]

    def __call__(self, state: PyTree, batch: Batch) -> PyTree:
        return self.function(state, self.arrange(batch))

    def lower(self, state: PyTree, batch: Shapes) -> jax.stages.Lowered:
        """Lowers the program for a state and the shapes of a whole batch, without compiling."""
        return self.function.lower(state, self.arrange_shapes(batch))


class Parallelism:
    """Runs pure steps over the devices of all processes.

    Args:
      parallel: `jit`: one program over a mesh of all devices; `pmap`: one copy per
        device, joined by collectives; `auto`: jit on one device, pmap on several.
      global_batch_size: images of one batch over all devices.
      parts: of the configuration's batch, of which each is such a batch.
      devices: the devices to use, equally many of each process; all by default. `auto` uses the
        largest number that divides the batch.

    Raises:
      InputError: the number of devices does not divide the batch size.

    Attributes:
      name: `jit` or `pmap`.
      device_count: devices in use, over all processes.
      available_count: these and the devices that `auto` leaves idle.
    """

    def __init__(self, parallel: Parallel, *, global_batch_size: int, parts: int = 1,
                 devices: Sequence[jax.Device] | None = None):
        # Sorted by process, so that each process's share of a batch is contiguous.
        ordered = sorted(devices or jax.devices(), key=lambda each: (each.process_index, each.id))
        of_process = [list(group) for _, group in itertools.groupby(
            ordered, key=lambda each: each.process_index)]
        if len({len(each) for each in of_process}) > 1:
            raise InputError(f"the processes have {sorted({len(each) for each in of_process})} "
                             "devices; expected as many each")
        self._process_count = len(of_process)
        self.available_count = len(ordered)
        if parallel == "auto":
            most = len(of_process[0])
            count = max((n for n in range(1, most + 1)
                         if global_batch_size % (n * self._process_count) == 0), default=most)
            of_process = [each[:count] for each in of_process]
        self._devices = [device for each in of_process for device in each]
        count = self.device_count = len(self._devices)
        if global_batch_size % count:
            accumulated = f", times accumulate ({parts})" if parts > 1 else ""
            raise InputError(f"batch_size is {global_batch_size * parts}: expected a multiple of "
                             f"the {count} devices{accumulated}, such as "
                             f"{-(-global_batch_size // count) * count * parts}")
        self.name = ("pmap" if count > 1 else "jit") if parallel == "auto" else parallel
        self._local = [each for each in self._devices if each.process_index == jax.process_index()]
        self._mesh = Mesh(np.array(self._devices), (_AXIS,))
        self._replicated = NamedSharding(self._mesh, _spec())
        self._sharded = NamedSharding(self._mesh, _spec(_AXIS))
        self._by_column = NamedSharding(self._mesh, _spec(None, _AXIS))

    def share(self, rows: Shaped[np.ndarray, "... n"]) -> Shaped[np.ndarray, "... local"]:
        """This process's part of an array with an entry for each image of a batch, (…, N)."""
        index = self._devices.index(self._local[0]) // len(self._local)
        parts: list[np.ndarray] = np.split(rows, self._process_count, axis=-1)
        return parts[index]

    def train(self, step: Step) -> Compiled:
        """Compiles (state, batch, axis_name=…) → (state, metrics); donates the state."""
        if self.name == "pmap":
            return self._pmapped(functools.partial(step, axis_name=_AXIS), donate_argnums=(0,))
        return self._jitted(_jit(step, in_shardings=(self._replicated, self._sharded),
                                 out_shardings=self._replicated, donate_argnums=0))

    def train_many(self, step: Step, *, take: Callable[[PyTree, PyTree], PyTree]
                   ) -> Callable[..., PyTree]:
        """Compiles several updates in one call, from pairs on the devices.

        The host is idle between the updates.

        Args:
          step: (state, batch, axis_name=…) → (state, metrics).
          take: (pairs, views) → batch; views are arrays of (N,).

        Returns:
          (state, pairs, views, count) → (state, metrics): `pairs` from `place`, each
          (M, H, W, 1); `views`, arrays of (K, N) int32, from which `take` makes the batch of
          each update; `count`, the number of updates, at most K. Donates the state. The
          metrics are (K,), zeros from `count` on.
        """
        def updates(state: PyTree, pairs: PyTree, views: PyTree, count: Array, **axis: str
                    ) -> PyTree:
            def batch(number: int | Array) -> PyTree:
                return take(pairs, jax.tree.map(lambda x: x[number], views))

            def update(number: int | Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
                state, history = carry
                state, metrics = step(state, batch(number), **axis)
                return state, jax.tree.map(lambda all_, one: all_.at[number].set(one),
                                           history, metrics)

            shapes = jax.eval_shape(lambda: step(state, batch(0), **axis))[1]
            most = len(jax.tree.leaves(views)[0])
            history = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), shapes)
            return jax.lax.fori_loop(0, count, update, (state, history))

        if self.name == "pmap":
            compiled = jax.pmap(functools.partial(updates, axis_name=_AXIS), axis_name=_AXIS,
                                in_axes=(None, None, 1, None), out_axes=None,
                                devices=self._devices, donate_argnums=0)
        else:
            compiled = _jit(updates, donate_argnums=0, out_shardings=self._replicated,
                            in_shardings=(self._replicated, self._replicated, self._by_column,
                                          self._replicated))
        return lambda state, pairs, views, count: compiled(
            state, pairs, jax.tree.map(self._columns, views), count)

    def evaluate(self, step: Step) -> Compiled:
        """Compiles (state, batch) → tree of arrays with a leading axis of the whole batch."""
        if self.name == "pmap":
            def gathered(state: PyTree, batch: PyTree) -> PyTree:
                return jax.tree.map(lambda x: jax.lax.all_gather(x, _AXIS, tiled=True),
                                    step(state, batch))
            return self._pmapped(gathered)
        return self._jitted(_jit(step, in_shardings=(self._replicated, self._sharded),
                                 out_shardings=self._replicated))

    def evaluate_many(self, step: Step) -> Callable[..., PyTree]:
        """Compiles a whole evaluation in one call, from pairs on the devices.

        Returns:
          (state, pairs, indices) → tree of arrays, (K·N,): `pairs` from `place`; `indices`,
          (K, N) int32, the pairs of each batch.
        """
        def evaluations(state: PyTree, pairs: PyTree, indices: Array) -> PyTree:
            return jax.lax.map(lambda batch: step(state, _take(pairs, batch)), indices)

        if self.name == "pmap":
            def gathered(state: PyTree, pairs: PyTree, indices: Array) -> PyTree:
                return jax.tree.map(lambda x: jax.lax.all_gather(x, _AXIS, axis=1, tiled=True),
                                    evaluations(state, pairs, indices))
            compiled = jax.pmap(gathered, axis_name=_AXIS, in_axes=(None, None, 1), out_axes=None,
                                devices=self._devices)
        else:
            compiled = _jit(evaluations, out_shardings=self._replicated, in_shardings=(
                self._replicated, self._replicated, self._by_column))
        return lambda state, pairs, indices: jax.tree.map(
            np.ravel, jax.device_get(compiled(state, pairs, self._columns(indices))))

    def place(self, tree: PyTree) -> PyTree:
        """Copies a state, or pairs, to each device, with the sharding of the steps.

        Args:
          tree: the same in every process.
        """
        if self.name == "pmap":  # takes arrays on this process's own devices
            return jax.device_put(tree, NamedSharding(
                Mesh(np.array(self._local), (_AXIS,)), _spec()))
        if self._process_count == 1:
            return jax.device_put(tree, self._replicated)
        return jax.tree.map(lambda x: _from_local(self._replicated, np.asarray(x)), tree)

    def greatest(self, value: int) -> int | Int[Array, ""]:
        """The greatest of the processes' values; an array, computed in the background, of several.
        """
        if self._process_count == 1:
            return value
        greatest: Array = _greatest(_from_local(
            self._sharded, np.full(len(self._local), value, np.int32)))
        return greatest

    def connect(self) -> None:
        """Runs a first collective of all processes, before compilation delays one of them.

        On CPUs the first collective fails after 30 s; later ones wait.
        """
        if self._process_count > 1:
            agreement.barrier("connect")
            block_until_ready(self.greatest(0))

    def fits(self, size: int) -> bool:
        """Whether `size` bytes take no more than a quarter of each device's memory.

        False on a CPU, where a second copy has no benefit.
        """
        stats = [device.memory_stats() if has_accelerator() else None for device in self._local]
        return all(each is not None and size <= each.get("bytes_limit", 0) / 4 for each in stats)

    def _jitted(self, compiled: jax.stages.Wrapped) -> Compiled:
        def arrange(batch: Batch) -> PyTree:
            if self._process_count == 1:
                return dict(batch)
            return {name: _from_local(self._sharded, x) for name, x in batch.items()}
        return Compiled(compiled, arrange, dict)

    def _pmapped(self, function: Step, *, donate_argnums: tuple[int, ...] = ()) -> Compiled:
        def divided(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
            return count, shape[0] // count, *shape[1:]

        def arrange(batch: Batch) -> PyTree:
            return {name: x.reshape(divided(x.shape, len(self._local)))
                    for name, x in batch.items()}

        def arrange_shapes(batch: Shapes) -> PyTree:
            return {name: shape_struct(divided(x.shape, self.device_count), x.dtype)
                    for name, x in batch.items()}

        return Compiled(jax.pmap(function, axis_name=_AXIS, in_axes=(None, 0), out_axes=None,
                                 devices=self._devices, donate_argnums=donate_argnums),
                        arrange, arrange_shapes)

    def _columns(self, indices: Shaped[np.ndarray, "k n"]) -> np.ndarray | Array:
        """Divides (K, N), the same in all processes, by columns among the devices of this one."""
        if self.name == "pmap":
            return self.share(indices).reshape(len(indices), len(self._local), -1)
        if self._process_count == 1:
            return indices
        return _from_local(self._by_column, self.share(indices))


def _take(pairs: Mapping[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
    """The batch of the pairs with some indices."""
    return {name: jnp.take(images, indices, axis=0) for name, images in pairs.items()}


def _jit(function: Callable[..., PyTree], **options: Any) -> jax.stages.Wrapped:
    """`jax.jit` with XLA's options for training and validation, and for bfloat16.

    On a CPU, XLA may use the library YNNPACK, whose gradients of kernels take about twice as long
    as XLA's own, and whose reductions of bfloat16 are NaN (JAX 0.12).
    """
    xla = {} if has_accelerator() else {"xla_cpu_experimental_ynn_fusion_type": ""}
    return jax.jit(function, compiler_options=xla, **options)


def run_once(function: Callable[..., T], *arguments: PyTree) -> T:
    """Compiles and calls a function; without optimisation, which takes longer than one call."""
    compiled = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
    result: T = compiled(*arguments)
    return result


@jax.jit
def _greatest(values: jax.Array) -> jax.Array:
    return jnp.max(values)


def copied(tree: T) -> T:
    """Copies replicated arrays on one device, so that no step can donate the copy.

    Other processes take no part.
    """
    copy: T = _copied(jax.tree.map(lambda x: x.addressable_data(0), tree))
    return copy


@jax.jit
def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def inference(function: Callable[..., PyTree], *, dtype: DTypeLike | None) -> jax.stages.Wrapped:
    """Compiles a function without gradients, of networks that compute in `dtype`."""
    return jax.jit(function) if jnp.dtype(dtype or jnp.float32) == jnp.float32 else _jit(function)


def unshared(step: Step, *, donate_argnums: Sequence[int] = ()) -> jax.stages.Wrapped:
    """Compiles (state, batch) → tree of arrays for one device, and so for any batch size."""
    return _jit(step, donate_argnums=donate_argnums)
