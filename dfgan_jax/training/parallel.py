"""How steps run on devices: the one place that says jit, pmap, mesh or device.

State stays one unstacked tree in every form, so that nothing outside this file
depends on the choice.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dfgan_jax.errors import InputError
from dfgan_jax.files import user_cache

Parallel = Literal["auto", "pmap", "jit"]

_AXIS = "batch"


def has_accelerator() -> bool:
    """Whether JAX found a GPU or TPU."""
    return jax.default_backend() != "cpu"


def describe_devices() -> str:
    """This machine's devices in words, as in `4 × NVIDIA H200` or `1 × cpu`."""
    devices = jax.devices()
    return f"{len(devices)} × {devices[0].device_kind}"


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


class Parallelism:
    """Runs pure steps over this machine's devices.

    Args:
      parallel: `jit`: one program over a mesh of all devices; `pmap`: one copy a
        device, joined by collectives; `auto`: jit on one device, pmap on several.
      global_batch_size: images of one batch over all devices.
      devices: those to use; all by default.

    Raises:
      InputError: the batch does not divide among the devices; `auto` takes as many
        of them as it divides among.

    Attributes:
      name: `jit` or `pmap`.
      device_count: devices in use.
    """

    def __init__(self, parallel: Parallel, *, global_batch_size: int,
                 devices: Sequence[jax.Device] | None = None):
        self._devices = list(devices or jax.devices())
        count = len(self._devices)
        if parallel == "auto":
            count = max(n for n in range(1, count + 1) if global_batch_size % n == 0)
            self._devices = self._devices[:count]
        self.device_count = count
        if global_batch_size % count:
            raise InputError(f"batch_size is {global_batch_size}: expected a multiple of the "
                             f"{count} devices, such as {-(-global_batch_size // count) * count}")
        self.name = ("pmap" if count > 1 else "jit") if parallel == "auto" else parallel
        self._mesh = Mesh(np.array(self._devices), (_AXIS,))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._sharded = NamedSharding(self._mesh, PartitionSpec(_AXIS))
        self._by_column = NamedSharding(self._mesh, PartitionSpec(None, _AXIS))

    def train(self, step: Callable) -> Callable:
        """Compiles (state, batch, axis_name=…) → (state, metrics); donates the state."""
        if self.name == "pmap":
            compiled = jax.pmap(functools.partial(step, axis_name=_AXIS), axis_name=_AXIS,
                                in_axes=(None, 0), out_axes=None, devices=self._devices,
                                donate_argnums=0)
            return lambda state, batch: compiled(state, self._split(batch))
        compiled = _jit(step, in_shardings=(self._replicated, self._sharded),
                        out_shardings=self._replicated, donate_argnums=0)
        return lambda state, batch: compiled(state, dict(batch))

    def train_many(self, step: Callable) -> Callable:
        """Compiles several updates in one call, from pairs that are on the devices.

        The host does nothing between them.

        Returns:
          (state, pairs, indices, count) → (state, metrics): `pairs` from `place`, each
          (M, H, W, 1); `indices`, (K, N) int32, which of them make the batch of each
          update; `count`, of the K updates those to make. Donates the state. The
          metrics are (K,); those beyond `count` are zeros.
        """
        def updates(state, pairs, indices, count, **axis):
            def update(number, carry):
                state, history = carry
                state, metrics = step(state, _take(pairs, indices[number]), **axis)
                return state, jax.tree.map(lambda all_, one: all_.at[number].set(one),
                                           history, metrics)

            shapes = jax.eval_shape(lambda: step(state, _take(pairs, indices[0]), **axis))[1]
            history = jax.tree.map(lambda x: jnp.zeros((len(indices), *x.shape), x.dtype), shapes)
            return jax.lax.fori_loop(0, count, update, (state, history))

        if self.name == "pmap":
            compiled = jax.pmap(functools.partial(updates, axis_name=_AXIS), axis_name=_AXIS,
                                in_axes=(None, None, 1, None), out_axes=None,
                                devices=self._devices, donate_argnums=0)
            return lambda state, pairs, indices, count: compiled(
                state, pairs, self._split_columns(indices), count)
        return _jit(updates, donate_argnums=0, out_shardings=self._replicated,
                    in_shardings=(self._replicated, self._replicated, self._by_column,
                                  self._replicated))

    def evaluate(self, step: Callable) -> Callable:
        """Compiles (state, batch) → tree of arrays with a leading batch axis."""
        if self.name == "pmap":
            compiled = jax.pmap(step, in_axes=(None, 0), devices=self._devices)

            def run(state, batch):
                outputs = compiled(state, self._split(batch))
                return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
            return run
        compiled = _jit(step, in_shardings=(self._replicated, self._sharded),
                        out_shardings=self._sharded)
        return lambda state, batch: compiled(state, dict(batch))

    def evaluate_many(self, step: Callable) -> Callable:
        """Compiles a whole evaluation in one call, from pairs that are on the devices.

        Returns:
          (state, pairs, indices) → tree of arrays, (K·N,): as `train_many`, of every batch.
        """
        def evaluations(state, pairs, indices):
            return jax.lax.map(lambda batch: step(state, _take(pairs, batch)), indices)

        if self.name == "pmap":
            mapped = jax.pmap(evaluations, in_axes=(None, None, 1), out_axes=1,
                              devices=self._devices)

            def compiled(state, pairs, indices):
                return mapped(state, pairs, self._split_columns(indices))
        else:
            compiled = _jit(evaluations, out_shardings=self._replicated, in_shardings=(
                self._replicated, self._replicated, self._by_column))
        return lambda state, pairs, indices: jax.tree.map(
            np.ravel, compiled(state, pairs, indices))

    def place(self, tree: Any) -> Any:
        """Puts a state, or pairs, on each device: where steps leave a state and look for pairs."""
        return jax.device_put(tree, self._replicated)

    def fits(self, size: int) -> bool:
        """Whether `size` bytes take no more than a quarter of each device's memory.

        False on a CPU, where nothing is won by a second copy.
        """
        stats = [device.memory_stats() if has_accelerator() else None for device in self._devices]
        return all(each is not None and size <= each.get("bytes_limit", 0) / 4 for each in stats)

    def _split_columns(self, indices: np.ndarray) -> np.ndarray:
        """(K, N) to (K, devices, N / devices)."""
        return indices.reshape(len(indices), self.device_count, -1)

    def _split(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """(N, …) to (devices, N / devices, …)."""
        count = self.device_count
        return {name: x.reshape(count, x.shape[0] // count, *x.shape[1:])
                for name, x in batch.items()}


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
def copied(tree: Any) -> Any:
    """A copy on the same devices, which no step can donate."""
    return jax.tree.map(jnp.copy, tree)


def inference(function: Callable, *, dtype: Any) -> Any:
    """Compiles what takes no gradient, with networks that compute in `dtype`."""
    return (jax.jit if jnp.dtype(dtype or jnp.float32) == jnp.float32 else _jit)(function)


def unshared(step: Callable, *, donate_argnums: Sequence[int] = ()) -> Any:
    """Compiles (state, batch) → anything for any batch size: no device shares the batch."""
    return _jit(step, donate_argnums=donate_argnums)
