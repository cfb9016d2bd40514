"""The origin of the numbers of a comparison."""

import datetime
import importlib.metadata
import platform
import sys
from collections.abc import Mapping

import dfgan_jax
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import backend
from dfgan_jax.evaluation import published
from dfgan_jax.support.types import JsonObject

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "dm-pix", "numpy", "scikit-image",
             "sewar", "scipy")


def provenance(denoisers: Mapping[str, Denoiser], sources: Mapping[str, str],
               data: Mapping[str, Pairs], *, evaluation_config: JsonObject) -> JsonObject:
    """The fields of `results.json` on data, checkpoints, command, device and versions.

    Args:
      denoisers: row → model, at least one.
      sources: split → source of its pairs, in words.
      data: split → its pairs, as they are scored.
      evaluation_config: the configuration of the command that evaluates.
    """
    first = next(iter(denoisers.values())).meta
    return {
        "data": dict(sources),
        "data_sha256": {split: data[split].sha256() for split in sources},
        "checkpoints": {name: {"path": str(each.path), "step": each.meta["step"],
                               "epoch": each.meta["epoch"],
                               "seed": each.meta["config"].get("seed"),
                               "weights_sha256": each.weights_sha256}
                        for name, each in denoisers.items()},
        "checkpoint": {"step": first["step"], "epoch": first["epoch"]},
        "config": first["config"],
        "evaluation_config": evaluation_config,
        "command": " ".join(sys.argv),
        "device": backend.describe_devices(),
        "versions": {"dfgan_jax": dfgan_jax.__version__, "python": platform.python_version()} | {
            name: importlib.metadata.version(name) for name in _PACKAGES},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "published": published.RESULTS,
    }
