"""PyTorch's time for an image over ours: above 1, ours is faster."""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.worker_processes import WorkerError


class Ratio(NamedTuple):
    """PyTorch's time over ours.

    Attributes:
      median: over the rounds.
      min: of the rounds.
      max: of the rounds.
      of_least: ratio of each side's least time over all rounds; far from the median if other
        processes were running.
    """

    median: float
    min: float
    max: float
    of_least: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.min:.2f} to {self.max:.2f})"


def ratio(torch_s: Sequence[float], ours_s: Sequence[float]) -> Ratio:
    """Compares times for an image, round by round."""
    each = [theirs / ours for theirs, ours in zip(torch_s, ours_s, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each), min(torch_s) / min(ours_s))


def fastest(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row with the most images a second."""
    return max(rows, key=lambda row: row["images_per_s"])


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """PyTorch's time for an image over ours, of rows of one job.

    Returns:
      One for each pair of the same batch size; and, with several sizes, one for each pair of
      variants, each at its best size, named `best`.
    """
    measured = [row for row in rows if "rounds_ms" in row]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in measured:
        groups.setdefault((row["framework"], row["name"]), []).append(row)
    theirs, ours = ([group for (framework, _), group in groups.items() if framework == wanted]
                    for wanted in ("torch", "jax"))
    result = []
    for their_rows, our_rows in itertools.product(theirs, ours):
        pairs = [(a, b, str(a["batch"])) for a in their_rows for b in our_rows
                 if a["batch"] == b["batch"]]
        if len({row["batch"] for row in measured}) > 1:
            pairs.append((fastest(their_rows), fastest(our_rows), "best"))
        for a, b, batch in pairs:
            compared = ratio(*([ms / row["batch"] for ms in row["rounds_ms"]] for row in (a, b)))
            result.append({"torch": a["name"], "ours": b["name"], "batch": batch,
                           "torch_batch": a["batch"], "ours_batch": b["batch"],
                           "torch_dtype": a["dtype"], "ours_dtype": b["dtype"],
                           "as_published": a["variant"] == "eager", **compared._asdict()})
    return result


def summary(jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The main ratios: against eager, and against PyTorch's fastest variant.

    Training has the first batch size, inference each side's best.

    Raises:
      WorkerError: eager PyTorch has not been compared with ours.
    """
    result: dict[str, Any] = {}
    for task, name in (("training", "train"), ("inference", "inference")):
        found = []
        for job in (job for job in jobs if job["task"] == task):
            batch = str(job["sides"][0]["batch"])
            best = task == "inference" and any(r["batch"] == "best" for r in job["ratios"])
            speeds = {(row["name"], row["batch"]): row.get("images_per_s")
                      for row in job["sides"]}
            found += [(each, speeds[each["torch"], each["torch_batch"]]) for each in job["ratios"]
                      if each["batch"] == ("best" if best else batch)]
        eager = [each for each, _ in found
                 if each["as_published"] and each["ours_dtype"] == "float32"]
        if not eager:
            raise WorkerError(f"{task}: eager PyTorch has not been compared with ours: "
                              "--gpu_budget is too small")
        rival, _ = max(((each, speed) for each, speed in found
                        if each["ours_dtype"] == each["torch_dtype"]), key=lambda pair: pair[1])
        result |= {f"{name}_ratio": eager[0]["median"], f"{name}_ratio_of": eager[0],
                   f"{name}_ratio_fastest": rival["median"], f"{name}_ratio_fastest_of": rival}
    return result
