"""The backend: the cache of compiled programs."""

import os
import subprocess
import sys

import pytest

from tests.cli import command

KEEPS = """
import jax, jax.numpy as jnp
from dfgan_jax.devices.backend import keep_compiled
keep_compiled()
jax.jit(lambda x: [jnp.sort(x + i) for i in range(40)])(jnp.zeros(99))  # half a second to compile
"""


def compiled(tmp_path, *, named):
    """Compiles a program in a process of its own, and returns the files of the cache."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith((
        "JAX_COMPILATION_CACHE_", "JAX_PERSISTENT_CACHE_"))}  # those of the tests
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    if named:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "named")
    subprocess.run([sys.executable, "-c", KEEPS], check=True, cwd=command.ROOT, env=environment)
    folder = tmp_path / "named" if named else tmp_path / "cache" / "dfgan_jax" / "compiled"
    return list(folder.glob("*-cache"))


@pytest.mark.parametrize("named", [False, True])
def test_programs_are_kept_in_the_users_cache_or_where_jax_is_told(tmp_path, named):
    """Also those that a full disk left empty, which JAX itself would never write over."""
    programs = compiled(tmp_path, named=named)
    assert programs
    assert {p.name for p in tmp_path.iterdir()} == {"named" if named else "cache"}
    largest = max(programs, key=lambda path: path.stat().st_size)  # takes longest to compile
    os.truncate(largest, 0)
    assert largest in compiled(tmp_path, named=named)
    assert largest.stat().st_size > 0
