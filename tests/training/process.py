"""One process of several that train the same: a command for `test_processes.py`.

Usage: python -m tests.training.process DEVICES OUTPUT COORDINATOR COUNT INDEX
"""

import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from dfgan_jax.checkpoints.folder import restore
from dfgan_jax.checkpoints.run import Checkpoints
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.devices import agreement, processes
from dfgan_jax.devices.launchers import Place
from dfgan_jax.devices.parallel import Parallelism
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.training import input_pipeline, steps
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers
from tests.training.initial import drawn_state
from tests.training.small_generator import SmallGenerator

STEPS = 20
HALF = 10
BATCH = 8
ODD = np.array([-0.0, 1e-45, np.nan], np.float32)  # which sums with 0 may change
NETWORKS = Networks(SmallGenerator(), PatchDiscriminator(width=2), "pair")
# SGD, since Adam would hide a gradient of the wrong scale.
OPTIMIZERS = Optimizers(optax.sgd(0.01), optax.sgd(0.01))


def pairs(count: int, seed: int) -> Pairs:
    rng = np.random.default_rng(seed)
    return Pairs(*(rng.normal(0.5, 1, (count, 32, 32)).astype(np.float32) for _ in range(2)))


@functools.cache
def initial_state():
    return drawn_state(NETWORKS, OPTIMIZERS)


def train(parallel: str, *, devices: Sequence[jax.Device] | None = None,
          goes_on_from: pathlib.Path | None = None, saves_to: pathlib.Path | None = None
          ) -> dict[str, np.ndarray]:
    """Losses of every step, the state after the last, and a validation of 11 pairs.

    Saves a checkpoint after half of the steps, or goes on from one.
    """
    devices_ = Parallelism(parallel, global_batch_size=BATCH, devices=devices)
    devices_.connect()
    update = devices_.train(functools.partial(
        steps.train_step, networks=NETWORKS, optimizers=OPTIMIZERS, loss=LossOptions()))
    validate = devices_.evaluate(functools.partial(
        steps.evaluation_step, networks=NETWORKS, loss=LossOptions()))
    state = initial_state()
    if goes_on_from is not None:
        state = restore(goes_on_from, state)
    first = int(state.step)
    state = devices_.place(state)
    batches = input_pipeline.iterate_from(input_pipeline.train_batches(
        pairs(20, 0), input_pipeline.Sampling(global_batch_size=BATCH, seed=1),
        share=devices_.share), first)
    result: dict[str, Any] = {}
    for step in range(first, STEPS):
        if step == HALF and saves_to is not None and agreement.is_main():
            with Checkpoints(saves_to) as kept:
                kept.save(state, {"step": step, "epoch": 1, "config": {}})
        state, metrics = update(state, next(batches))
        result |= {f"step {step} {name}": value for name, value in metrics.items()}
    parts = []
    for batch, mask in input_pipeline.evaluation_batches(pairs(11, 2), batch_size=BATCH,
                                                         share=devices_.share):
        _, terms = validate(state, batch)
        parts.append({name: np.asarray(values)[mask] for name, values in terms.items()})
    result |= {f"validation {name}": np.concatenate([part[name] for part in parts])
               for name in parts[0]}
    result |= {f"state {jax.tree_util.keystr(path)}": leaf
               for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    result["greatest"] = devices_.greatest(10 + jax.process_index())
    return {name: np.asarray(value) for name, value in result.items()}


def main() -> None:
    devices, output, coordinator, count, index = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    with processes.joined(Place(coordinator=coordinator, num_processes=int(count),
                                process_id=int(index))):
        for parallel in ("pmap", "jit"):
            np.savez(pathlib.Path(output) / f"{parallel}-{count}-{index}.npz",
                     **train(parallel, saves_to=pathlib.Path(output) / parallel))
        shared = agreement.broadcast({"x": np.full_like(ODD, 9) if jax.process_index() else ODD})
        items = np.arange(14, dtype=np.float32).reshape(7, 2)
        np.savez(
            pathlib.Path(output) / f"agreed-{count}-{index}.npz", x=shared["x"],
            index=agreement.from_main(lambda: {"index": jax.process_index()})["index"],
            items=agreement.shared_out(lambda part: part + 100, items),
            calls=agreement.share_of(7))


if __name__ == "__main__":
    main()
