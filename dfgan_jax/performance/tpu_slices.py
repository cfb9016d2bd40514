"""Absent slices of TPU chips, for which programs are compiled on a CPU.

The package libtpu contains the compiler, and needs no TPU. The memory of a chip comes from the
compiler, not from a table: of a v5e's 16 GB of HBM (https://cloud.google.com/tpu/docs/v5e) a
program may take 15.75 GiB, of a v6e's 32 GB 31.24 and of a v5p's 95 GB 95.73.
"""

import importlib.metadata
import importlib.util
import os
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from dfgan_jax.support.errors import InputError, first_line, is_out_of_memory
from dfgan_jax.support.jax_functions import shape_struct

KINDS = ("v5e", "v5p", "v6e")
"""The kinds of TPU with one JAX device per chip."""


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Two messages, from two passes of the compiler.
_NEEDED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm|"
                     r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")

# libtpu looks for a TPU when it is loaded, even for compiling alone, and prints warnings if there
# is none. Several processes may compile at once, since none of them takes a TPU.
_QUIET = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_ID": "0",
          "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def devices(topology: str) -> list[jax.Device]:
    """The chips of a slice; programs can be compiled for them, but not run.

    Args:
      topology: kind and shape, as in `v5e:16x16` or `v5p:4x4x4`.

    Raises:
      InputError: there is no such slice, or libtpu is missing.
    """
    kind, _, shape = topology.partition(":")
    if kind not in KINDS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise InputError(f"topology is {topology!r}; expected a kind of chip and a shape, such "
                         f"as v5e:16x16; the kinds are {', '.join(KINDS)}")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"topology={topology} needs the package libtpu, which compiles for TPUs "
                         "without one: pip install libtpu")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"topology={topology}: {first_line(error)}") from error


def memory_bytes(device: jax.Device) -> int:
    """The memory of a chip that a program may take, from the compiler [bytes].

    The compiler states it in the error of a program that is too large.
    """
    sharding = jax.sharding.SingleDeviceSharding(device)
    huge = shape_struct((2**42,), jnp.int8, sharding=sharding)
    try:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        return needed_and_available(error)[1]
    raise AssertionError(f"4 TiB fit {device.device_kind}")


def needed_and_available(error: jax.errors.JaxRuntimeError) -> tuple[int, int]:
    """The memory that a program needs, and the available memory [bytes].

    Args:
      error: from the compilation of a program that does not fit.

    Raises:
      JaxRuntimeError: `error`, if it is of another kind.
    """
    found = _NEEDED.search(str(error))
    if not is_out_of_memory(error) or found is None:
        raise error
    needed, needed_unit, available, available_unit = filter(
        lambda part: part is not None, found.groups())
    return (round(float(needed) * _UNITS[needed_unit]),
            round(float(available) * _UNITS[available_unit]))


def version() -> str:
    return importlib.metadata.version("libtpu")
