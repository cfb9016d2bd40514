"""JAX's backend: its platforms, its devices in words, and its cache of compiled programs."""

import contextlib
import os
import pathlib

import jax

from dfgan_jax.support.errors import InputError, first_line
from dfgan_jax.support.files import user_cache
from dfgan_jax.support.jax_functions import configure


def has_accelerator() -> bool:
    """Whether JAX found a GPU or TPU."""
    return jax.default_backend() != "cpu"


def describe_devices() -> str:
    """Describes the devices, as in `4 × NVIDIA H200`, `1 × cpu` or `8 × cpu of 2 processes`."""
    devices = jax.devices()
    shared = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} × {devices[0].device_kind}{shared}"


def check_platforms() -> None:
    """Starts JAX on the platforms that JAX_PLATFORMS names, if it names any.

    Raises:
      InputError: this machine lacks one.
    """
    named = os.environ.get("JAX_PLATFORMS")
    if not named:
        return
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = f" ({first_line(error)})" if str(error) else ""
        raise InputError(f"JAX_PLATFORMS is {named!r}, and JAX cannot use it on this machine"
                         f"{reason}; expected platforms that this machine has, such as cpu, or no "
                         "such variable") from error


def keep_compiled() -> None:
    """Enables JAX's cache of programs that take more than 0.1 s to compile.

    The folder is `compiled` in the user's cache, unless JAX_COMPILATION_CACHE_DIR names another.
    If the folder cannot be made, the cache is not enabled. Its empty files, which a full disk or a
    power cut leaves, are removed.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = user_cache() / "compiled"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # RuntimeError: the user has no home
            return
        configure("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        configure("jax_persistent_cache_min_compile_time_secs", 0.1)
    # JAX would compile an empty program at each start, and never writes over its file. Other damage
    # shows only when a whole file is decompressed; JAX warns of it.
    kept = jax.config.jax_compilation_cache_dir
    for program in pathlib.Path(kept).glob("*-cache") if kept else ():
        with contextlib.suppress(OSError):  # of a read-only folder, or removed by another process
            if program.stat().st_size == 0:
                program.unlink()
