"""Prints the largest differences between this package and the published networks.

    python -m tests.parity.differences

A Markdown table of what the tests of this folder bound, on the CPU of this
machine; it takes some minutes.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
import torch

from tests.parity import cases, our_runs
from tests.parity.cases import Difference, Precision, Quantities
from tests.parity.published import metrics, runs

PRECISIONS: tuple[Precision, ...] = ("float32", "float64")
Runs = tuple[Callable[[Precision], Quantities], Callable[[Precision], Quantities]]
"""Our run of a case and the published one, by precision."""

METRIC_UNITS = {"psnr": "PSNR [dB]", "ssim": "SSIM"}

EXPLANATION = """\
Each number is the largest over the cases of its part. *Worst tensor*: of each tensor the largest
difference over its largest value; of these the largest. *All tensors*: the norm of the difference
over the norm, of all tensors together. PSNR and SSIM: the difference itself. *Change*: of each
weight over {steps} steps of Adam. In float32, a ReLU's input that rounding puts on the other side
of zero moves gradients by far more than rounding, and Adam moves a weight whose gradient is
rounding by the whole learning rate, in PyTorch against itself as well: float64 is the proof."""


def merged(parts: Iterable[Mapping[str, Difference]]) -> dict[str, Difference]:
    """Quantity → the largest differences of several cases."""
    result: dict[str, Difference] = {}
    for part in parts:
        for quantity, each in part.items():
            result[quantity] = Difference(*np.maximum(each, result.get(quantity, each)))
    return result


def compare(parts: Iterable[Runs]) -> dict[str, tuple[Difference, Difference, Difference]]:
    """Compares our runs with the published ones.

    Args:
      parts: of each case.

    Returns:
      Quantity → differences in float32, between PyTorch's float32 and its float64,
      and in float64.
    """
    float32, rounding, float64 = [], [], []
    for ours, published in parts:
        expected = {precision: published(precision) for precision in PRECISIONS}
        float32.append(cases.differences(ours("float32"), expected["float32"]))
        rounding.append(cases.differences(expected["float32"], expected["float64"]))
        float64.append(cases.differences(ours("float64"), expected["float64"]))
        print(".", end="", file=sys.stderr, flush=True)  # a case takes up to a minute
    print(file=sys.stderr)
    columns = merged(float32), merged(rounding), merged(float64)
    return {quantity: (columns[0][quantity], columns[1][quantity], columns[2][quantity])
            for quantity in columns[0]}


def generators() -> list[Runs]:
    return [(functools.cache(functools.partial(our_runs.generator, attention)),
             functools.cache(functools.partial(
                 runs.generator, attention,
                 layers=tuple(our_runs.generator_layers(attention=attention)))))
            for attention in (False, True)]


def discriminators() -> list[Runs]:
    layers = tuple(our_runs.discriminator_layers())
    return [(functools.partial(our_runs.discriminator, channels),
             functools.partial(runs.discriminator, channels, layers=layers))
            for channels in (1, 2)]


def trainings() -> list[Runs]:
    return [(functools.partial(our_runs.training, case), functools.partial(runs.training, case))
            for case in cases.TRAINING_CASES]


def sign_row(parts: Sequence[Runs]) -> list[str]:
    """How many inputs of a ReLU lie on the other side of zero, as in `compare`."""
    counts = np.zeros(3, int)
    total = 0
    for ours, published in parts:
        a, b, c, d = (run(precision)["layers"] for run in (ours, published)
                      for precision in PRECISIONS)
        counts += [cases.sign_changes(*pair) for pair in ((a, c), (c, d), (b, d))]
        total += sum(value.size for value in cases.relu_inputs(d).values())
    float32, rounding, float64 = map(str, counts)
    return [f"inputs of a ReLU that are positive on one side only, of {total:,}",
            "", float32, rounding, float64]


def metric_rows() -> dict[str, tuple[float, float, float]]:
    """Metric → absolute differences, as in `compare`."""
    published = {precision: metrics.metrics(*cases.metric_inputs(precision))
                 for precision in PRECISIONS}
    ours = {precision: our_runs.metrics(*cases.metric_inputs(precision), precision)
            for precision in PRECISIONS}
    return {unit: (abs(ours["float32"][name] - published["float32"][name]),
                   abs(published["float32"][name] - published["float64"][name]),
                   abs(ours["float64"][name] - published["float64"][name]))
            for name, unit in METRIC_UNITS.items()}


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    print(f"JAX {jax.__version__} against PyTorch {torch.__version__}.",
          EXPLANATION.format(steps=cases.STEPS), sep="\n", end="\n\n")
    print(row(["", "quantity", "float32, worst tensor", "float32, all tensors",
               "PyTorch's float32 against its own float64, all tensors",
               "float64, worst tensor"]))
    print(row(["---"] * 6))
    parts: dict[str, list[Runs]] = {
        "generator": generators(), "discriminator": discriminators(),
        "losses": [(our_runs.loss_functions, runs.loss_functions)], "training": trainings()}
    for part, runs_of_part in parts.items():
        for quantity, (float32, rounding, float64) in compare(runs_of_part).items():
            numbers = float32.worst, float32.overall, rounding.overall, float64.worst
            print(row([part, quantity, *(f"{number:.1e}" for number in numbers)]))
    print(row(["generator", *sign_row(parts["generator"])]))
    for quantity, differences in metric_rows().items():
        cells = [f"{number:.1e}" for number in differences]
        print(row(["metrics", quantity, cells[0], "", *cells[1:]]))


if __name__ == "__main__":
    main()
