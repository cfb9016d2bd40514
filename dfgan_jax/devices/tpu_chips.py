"""Detection of the TPU chips of this machine without JAX."""

import glob
import importlib.util
import os
import sys


def usable() -> bool:
    """Whether chips and their library are present, and JAX_PLATFORMS allows them."""
    allowed = os.environ.get("JAX_PLATFORMS") or "tpu"
    return "tpu" in allowed and _present() and importlib.util.find_spec("libtpu") is not None


def hide_libtpu_without() -> None:
    """Hides libtpu, installed for preflight, from JAX on a machine without a TPU.

    JAX would print warnings otherwise. With JAX_PLATFORMS set, nothing is changed.
    """
    if "JAX_PLATFORMS" not in os.environ and not _present():
        sys.modules["libtpu"] = None  # type: ignore[assignment]


def _present() -> bool:
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
