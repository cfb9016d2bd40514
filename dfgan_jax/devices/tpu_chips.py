"""The TPU chips of this machine, as far as one can tell without JAX."""

import glob
import importlib.util
import os
import sys


def usable() -> bool:
    """Whether there are chips, and the library for them, and JAX may take them."""
    allowed = os.environ.get("JAX_PLATFORMS") or "tpu"
    return "tpu" in allowed and _present() and importlib.util.find_spec("libtpu") is not None


def hide_libtpu_without() -> None:
    """Hides libtpu from JAX where there is no TPU: it is there for preflight, and would complain.

    As if it were not installed; nothing is changed where JAX_PLATFORMS says what to use.
    """
    if "JAX_PLATFORMS" not in os.environ and not _present():
        sys.modules["libtpu"] = None  # type: ignore[assignment]


def _present() -> bool:
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
