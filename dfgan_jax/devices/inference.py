"""A function of slices, each by itself, on all devices of this process."""

from collections.abc import Callable, Sequence
from typing import Final

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import PyTree, Shaped

from dfgan_jax.devices.parallel import inference

_AXIS: Final = "slices"

# Typed names for untyped functions of JAX.
_spec: Callable[..., PartitionSpec] = PartitionSpec
_shard_map: Callable[..., Callable[..., PyTree]] = jax.shard_map


class Inference:
    """Divides batches among devices; each computes its slices without the others.

    Args:
      function: (variables, slices) → tree of arrays, each with a leading axis of the slices.
      variables: tree of arrays.
      dtype: of the computation.
      devices: of this process; all by default.

    Attributes:
      device_count: number of devices.
    """

    def __init__(self, function: Callable[..., PyTree], variables: PyTree, *,
                 dtype: DTypeLike | None, devices: Sequence[jax.Device] | None = None):
        self._function, self._variables, self._dtype = function, variables, dtype
        self._devices = list(devices or jax.local_devices())
        self.device_count = len(self._devices)
        self._compiled: dict[int, Callable[[np.ndarray], PyTree]] = {}

    def __call__(self, slices: Shaped[np.ndarray, "n ..."]) -> PyTree:
        """Computes a batch on the largest number of devices that divides it."""
        count = max(n for n in range(1, self.device_count + 1) if len(slices) % n == 0)
        if count not in self._compiled:
            self._compiled[count] = self._over(self._devices[:count])
        return self._compiled[count](slices)

    def _over(self, devices: list[jax.Device]) -> Callable[[np.ndarray], PyTree]:
        if len(devices) == 1:
            one = inference(self._function, dtype=self._dtype)
            variables = jax.device_put(self._variables, devices[0])
            return lambda slices: one(variables, slices)
        mesh = Mesh(np.array(devices), (_AXIS,))
        everywhere, divided = _spec(), _spec(_AXIS)
        several = inference(
            _shard_map(self._function, mesh=mesh, in_specs=(everywhere, divided),
                       out_specs=divided), dtype=self._dtype)
        copies = jax.device_put(self._variables, NamedSharding(mesh, everywhere))
        return lambda slices: several(copies, jax.device_put(slices, NamedSharding(mesh, divided)))
