"""How steps run on devices: the one place that says jit, pmap, mesh or device.

State stays one unstacked tree in every form, so that nothing outside this file
depends on the choice. With several processes (`processes.py`), each holds the whole state
and gives its share of every batch.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dfgan_jax.devices import agreement
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import user_cache

Parallel = Literal["auto", "pmap", "jit"]

_AXIS = "batch"


def has_accelerator() -> bool:
    """Whether JAX found a GPU or TPU."""
    return jax.default_backend() != "cpu"


def describe_devices() -> str:
    """The devices in words, as in `4 × NVIDIA H200`, `1 × cpu` or `8 × cpu of 2 processes`."""
    devices = jax.devices()
    shared = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} × {devices[0].device_kind}{shared}"


def keep_compiled() -> None:
    """Has JAX keep what takes more than 0.1 s to compile, and find it at the next start.

    The folder is `compiled` in the user's cache, unless JAX_COMPILATION_CACHE_DIR names another.
    Where there is no such folder and none can be made, nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = user_cache() / "compiled"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # RuntimeError: a user without a home
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step over devices.

    Attributes:
      function: as jit or pmap has made it.
      arrange: a process's share of a batch → what `function` takes.
      arrange_shapes: the shapes of a whole batch → those that `function` takes.
    """

    function: Any
    arrange: Callable
    arrange_shapes: Callable

    def __call__(self, state: Any, batch: Mapping[str, np.ndarray]) -> Any:
        return self.function(state, self.arrange(batch))

    def lower(self, state: Any, batch: Mapping[str, jax.ShapeDtypeStruct]) -> jax.stages.Lowered:
        """The program for a state and a whole batch of some shapes, not compiled yet."""
        return self.function.lower(state, self.arrange_shapes(batch))


class Parallelism:
    """Runs pure steps over the devices of all processes.

    Args:
      parallel: `jit`: one program over a mesh of all devices; `pmap`: one copy a
        device, joined by collectives; `auto`: jit on one device, pmap on several.
      global_batch_size: images of one batch over all devices.
      devices: those to use, as many of each process; all by default.

    Raises:
      InputError: the batch does not divide among the devices; `auto` takes as many
        of each process as it divides among.

    Attributes:
      name: `jit` or `pmap`.
      device_count: devices in use, over all processes.
    """

    def __init__(self, parallel: Parallel, *, global_batch_size: int,
                 devices: Sequence[jax.Device] | None = None):
        # Process after process, so that each one's share of a batch is one part of it.
        ordered = sorted(devices or jax.devices(), key=lambda each: (each.process_index, each.id))
        of_process = [list(group) for _, group in itertools.groupby(
            ordered, key=lambda each: each.process_index)]
        if len({len(each) for each in of_process}) > 1:
            raise InputError(f"the processes have {sorted({len(each) for each in of_process})} "
                             "devices; expected as many each")
        self._process_count = len(of_process)
        if parallel == "auto":
            most = len(of_process[0])
            count = max((n for n in range(1, most + 1)
                         if global_batch_size % (n * self._process_count) == 0), default=most)
            of_process = [each[:count] for each in of_process]
        self._devices = [device for each in of_process for device in each]
        count = self.device_count = len(self._devices)
        if global_batch_size % count:
            raise InputError(f"batch_size is {global_batch_size}: expected a multiple of the "
                             f"{count} devices, such as {-(-global_batch_size // count) * count}")
        self.name = ("pmap" if count > 1 else "jit") if parallel == "auto" else parallel
        self._local = [each for each in self._devices if each.process_index == jax.process_index()]
        self._mesh = Mesh(np.array(self._devices), (_AXIS,))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._sharded = NamedSharding(self._mesh, PartitionSpec(_AXIS))
        self._by_column = NamedSharding(self._mesh, PartitionSpec(None, _AXIS))

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of what is given for each image of a batch, (…, N)."""
        index = self._devices.index(self._local[0]) // len(self._local)
        return np.split(rows, self._process_count, axis=-1)[index]

    def train(self, step: Callable) -> Compiled:
        """Compiles (state, batch, axis_name=…) → (state, metrics); donates the state."""
        if self.name == "pmap":
            return self._pmapped(functools.partial(step, axis_name=_AXIS), donate_argnums=0)
        return self._jitted(_jit(step, in_shardings=(self._replicated, self._sharded),
                                 out_shardings=self._replicated, donate_argnums=0))

    def train_many(self, step: Callable, *, take: Callable) -> Callable:
        """Compiles several updates in one call, from pairs that are on the devices.

        The host does nothing between them.

        Args:
          step: (state, batch, axis_name=…) → (state, metrics).
          take: (pairs, views) → batch, for arrays of views of (N,).

        Returns:
          (state, pairs, views, count) → (state, metrics): `pairs` from `place`, each
          (M, H, W, 1); `views`, arrays of (K, N) int32, which `take` makes the batch of each
          update from; `count`, of the K updates those to make. Donates the state. The
          metrics are (K,); those beyond `count` are zeros.
        """
        def updates(state, pairs, views, count, **axis):
            def batch(number):
                return take(pairs, jax.tree.map(lambda x: x[number], views))

            def update(number, carry):
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

    def evaluate(self, step: Callable) -> Compiled:
        """Compiles (state, batch) → tree of arrays with a leading axis of the whole batch."""
        if self.name == "pmap":
            def gathered(state, batch):
                return jax.tree.map(lambda x: jax.lax.all_gather(x, _AXIS, tiled=True),
                                    step(state, batch))
            return self._pmapped(gathered)
        return self._jitted(_jit(step, in_shardings=(self._replicated, self._sharded),
                                 out_shardings=self._replicated))

    def evaluate_many(self, step: Callable) -> Callable:
        """Compiles a whole evaluation in one call, from pairs that are on the devices.

        Returns:
          (state, pairs, indices) → tree of arrays, (K·N,): as `train_many`, of every batch.
        """
        def evaluations(state, pairs, indices):
            return jax.lax.map(lambda batch: step(state, _take(pairs, batch)), indices)

        if self.name == "pmap":
            def gathered(state, pairs, indices):
                return jax.tree.map(lambda x: jax.lax.all_gather(x, _AXIS, axis=1, tiled=True),
                                    evaluations(state, pairs, indices))
            compiled = jax.pmap(gathered, axis_name=_AXIS, in_axes=(None, None, 1), out_axes=None,
                                devices=self._devices)
        else:
            compiled = _jit(evaluations, out_shardings=self._replicated, in_shardings=(
                self._replicated, self._replicated, self._by_column))
        return lambda state, pairs, indices: jax.tree.map(
            np.ravel, jax.device_get(compiled(state, pairs, self._columns(indices))))

    def place(self, tree: Any) -> Any:
        """Puts a state, or pairs, on each device: where steps leave a state and look for pairs.

        Every process gives the same.
        """
        if self.name == "pmap":  # which takes what is on this process's own devices
            return jax.device_put(tree, NamedSharding(
                Mesh(np.array(self._local), (_AXIS,)), PartitionSpec()))
        if self._process_count == 1:
            return jax.device_put(tree, self._replicated)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(
            self._replicated, np.asarray(x)), tree)

    def greatest(self, value: int) -> Any:
        """The greatest of the processes' values: a number, or an array that soon holds it."""
        if self._process_count == 1:
            return value
        return _greatest(jax.make_array_from_process_local_data(
            self._sharded, np.full(len(self._local), value, np.int32)))

    def connect(self) -> None:
        """Has the devices of all processes meet once, before one is late because it compiles.

        On CPUs a first meeting fails after 30 s; later ones wait.
        """
        if self._process_count > 1:
            agreement.barrier("connect")
            jax.block_until_ready(self.greatest(0))

    def fits(self, size: int) -> bool:
        """Whether `size` bytes take no more than a quarter of each device's memory.

        False on a CPU, where nothing is won by a second copy.
        """
        stats = [device.memory_stats() if has_accelerator() else None for device in self._local]
        return all(each is not None and size <= each.get("bytes_limit", 0) / 4 for each in stats)

    def _jitted(self, compiled: Any) -> Compiled:
        def arrange(batch):
            if self._process_count == 1:
                return dict(batch)
            return {name: jax.make_array_from_process_local_data(self._sharded, x)
                    for name, x in batch.items()}
        return Compiled(compiled, arrange, dict)

    def _pmapped(self, function: Callable, **options: Any) -> Compiled:
        def divided(shape, count):
            return count, shape[0] // count, *shape[1:]

        def arrange(batch):
            return {name: x.reshape(divided(x.shape, len(self._local)))
                    for name, x in batch.items()}

        def arrange_shapes(batch):
            return {name: jax.ShapeDtypeStruct(divided(x.shape, self.device_count), x.dtype)
                    for name, x in batch.items()}

        return Compiled(jax.pmap(function, axis_name=_AXIS, in_axes=(None, 0), out_axes=None,
                                 devices=self._devices, **options), arrange, arrange_shapes)

    def _columns(self, indices: np.ndarray) -> Any:
        """(K, N), the same in all processes, as the devices of this one take their columns."""
        if self.name == "pmap":
            return self.share(indices).reshape(len(indices), len(self._local), -1)
        if self._process_count == 1:
            return indices
        return jax.make_array_from_process_local_data(self._by_column, self.share(indices))


def _take(pairs: Mapping[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
    """The batch that indices name."""
    return {name: jnp.take(images, indices, axis=0) for name, images in pairs.items()}


def _jit(function: Callable, **options: Any) -> Any:
    """`jax.jit` with XLA's options for training with its validation, and for bfloat16.

    On a CPU, XLA may hand operations to the library YNNPACK, whose gradients of kernels take
    about twice as long as XLA's own, and whose reductions of bfloat16 give NaN (JAX 0.12).
    """
    xla = {} if has_accelerator() else {"xla_cpu_experimental_ynn_fusion_type": ""}
    return jax.jit(function, compiler_options=xla, **options)


def run_once(function: Callable, *arguments: Any) -> Any:
    """Compiles without optimising, since optimising takes longer than the one run, and runs."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})(*arguments)


@jax.jit
def _greatest(values: jax.Array) -> jax.Array:
    return jnp.max(values)


def copied(tree: Any) -> Any:
    """A copy of what every device holds, on one of them, which no step can donate.

    It takes no other process.
    """
    return _copied(jax.tree.map(lambda x: x.addressable_data(0), tree))


@jax.jit
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def inference(function: Callable, *, dtype: Any) -> Any:
    """Compiles what takes no gradient, with networks that compute in `dtype`."""
    return (jax.jit if jnp.dtype(dtype or jnp.float32) == jnp.float32 else _jit)(function)


def unshared(step: Callable, *, donate_argnums: Sequence[int] = ()) -> Any:
    """Compiles (state, batch) → anything for any batch size: no device shares the batch."""
    return _jit(step, donate_argnums=donate_argnums)
