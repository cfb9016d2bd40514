import itertools

import numpy as np
import pytest

from benchmarks.ratios import ratio, ratios, summary
from benchmarks.worker_processes import WorkerError


def row(framework, variant, batch, rounds_ms, dtype="float32"):
    name = f"{framework} {variant}, {dtype}"
    median = float(np.median(rounds_ms))
    return {"framework": framework, "variant": variant, "name": name, "batch": batch,
            "dtype": dtype, "rounds_ms": rounds_ms, "images_per_s": 1e3 * batch / median}


def test_ratio_compares_within_a_round():
    assert ratio([6.0, 2.0, 30.0], [2.0, 1.0, 5.0]) == (3.0, 2.0, 6.0, 2.0)


def test_ratios_are_of_the_same_batch_and_of_each_sides_best():
    rows = [row("torch", "eager", 1, [10.0, 10.0]), row("torch", "eager", 4, [80.0, 80.0]),
            row("jax", "ours", 1, [5.0, 5.0]), row("jax", "ours", 4, [8.0, 16.0]),
            {"framework": "torch", "batch": 1, "status": "failed: no compiler"}]
    found = {each["batch"]: (each["torch_batch"], each["ours_batch"], each["median"], each["min"],
                             each["max"]) for each in ratios(rows)}
    # Best for an image: PyTorch 10 ms (batch 1), ours 3 ms (batch 4).
    assert found == {"1": (1, 1, 2.0, 2.0, 2.0), "4": (4, 4, 7.5, 5.0, 10.0),
                     "best": (1, 4, 3.75, 2.5, 5.0)}


def jobs(*, eager=True):
    """Of each task one job, and one of a compiled form, in which ours is measured anew."""
    first = [row("torch", "channels_last", 2, [9.0]), row("jax", "ours", 2, [3.0])]
    first += [row("torch", "eager", 2, [12.0])] if eager else []
    second = [row("torch", "default", 2, [6.0]), row("jax", "ours", 2, [4.0])]
    return [{"task": task, "sides": sides, "ratios": ratios(sides)}
            for sides, task in itertools.product([first, second], ["training", "inference"])]


def test_summary_is_against_eager_and_against_the_fastest():
    result = summary(jobs())
    assert (result["train_ratio"], result["train_ratio_fastest"]) == (4.0, 1.5)
    assert (result["inference_ratio"], result["inference_ratio_fastest"]) == (4.0, 1.5)


def test_summary_needs_eager():
    with pytest.raises(WorkerError, match="eager PyTorch has not been compared"):
        summary(jobs(eager=False))
