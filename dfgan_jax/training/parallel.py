"""How steps run on devices: the one place that says jit, pmap, mesh or device.

State stays one unstacked tree in every form, so that nothing outside this file
depends on the choice.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dfgan_jax.errors import InputError

Parallel = Literal["auto", "pmap", "jit"]

_AXIS = "batch"


def has_accelerator() -> bool:
    """Whether JAX found a GPU or TPU."""
    return jax.default_backend() != "cpu"


def describe_devices() -> str:
    """This machine's devices in words, as in `4 × NVIDIA H200` or `1 × cpu`."""
    devices = jax.devices()
    return f"{len(devices)} × {devices[0].device_kind}"


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
        mesh = Mesh(np.array(self._devices), (_AXIS,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec(_AXIS))

    def train(self, step: Callable) -> Callable:
        """Compiles (state, batch, axis_name=…) → (state, metrics); donates the state."""
        if self.name == "pmap":
            compiled = jax.pmap(functools.partial(step, axis_name=_AXIS), axis_name=_AXIS,
                                in_axes=(None, 0), out_axes=None, devices=self._devices,
                                donate_argnums=0)
            return lambda state, batch: compiled(state, self._split(batch))
        compiled = jax.jit(step, in_shardings=(self._replicated, self._sharded),
                           out_shardings=self._replicated, donate_argnums=0)
        return lambda state, batch: compiled(state, dict(batch))

    def evaluate(self, step: Callable) -> Callable:
        """Compiles (state, batch) → tree of arrays with a leading batch axis."""
        if self.name == "pmap":
            compiled = jax.pmap(step, in_axes=(None, 0), devices=self._devices)

            def run(state, batch):
                outputs = compiled(state, self._split(batch))
                return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
            return run
        compiled = jax.jit(step, in_shardings=(self._replicated, self._sharded),
                           out_shardings=self._sharded)
        return lambda state, batch: compiled(state, dict(batch))

    def place(self, state: Any) -> Any:
        """Puts a state where the steps leave it, so that no step compiles twice."""
        return jax.device_put(state, self._replicated)

    def _split(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """(N, …) to (devices, N / devices, …)."""
        count = self.device_count
        return {name: x.reshape(count, x.shape[0] // count, *x.shape[1:])
                for name, x in batch.items()}


def run_once(function: Callable, *arguments: Any) -> Any:
    """Compiles without optimising, since optimising takes longer than the one run, and runs."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})(*arguments)


def unshared(step: Callable) -> Callable:
    """Compiles (state, batch) → anything for any batch size: no device shares the batch."""
    return jax.jit(step)
