"""Settings that must stand before JAX is first imported."""

import atexit
import importlib
import os
import shutil
import tempfile

import pytest
from jaxtyping import install_import_hook

from tests import typechecking

# Four CPU devices stand in for four accelerators.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

# Most of the time goes into compiling the same steps for one process after another.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers inherit the first one's
    _cache = tempfile.mkdtemp(prefix="dfgan_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # small ones are many
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)

# What modules with the hook import, Python compiles anew, not from the bytecode of other programs:
# so the largest packages come first.
for _package in ("chex", "flax.linen", "grain", "jax", "matplotlib.pyplot", "optax",
                 "orbax.checkpoint", "pydicom.pixels", "scipy.signal", "scipy.stats", "skimage"):
    importlib.import_module(_package)

# Every call in the tests checks the annotated types, with the shapes of arrays.
install_import_hook(typechecking.modules(), "tests.typechecking.checked")


def pytest_addoption(parser):
    parser.addoption("--fuzz-files", type=int, default=500,
                     help="mutated files for each test of a reader")
    parser.addoption("--four-processes", action="store_true",
                     help="train as four processes, too")


@pytest.fixture
def fuzz_files(request):
    return request.config.getoption("--fuzz-files")
