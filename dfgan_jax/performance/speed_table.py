"""The speed card as text."""

import itertools

from dfgan_jax.performance.speed_card import MEASURED, words
from dfgan_jax.support.types import JsonObject


def table(card: JsonObject) -> str:
    """The content of `benchmark.json` as lines of text."""
    machine, peaks = card["machine"], card["peaks"]
    matmul = ", ".join(f"{dtype} {peak['flops_per_s'] / 1e12:.3g} TFLOP/s"
                       for dtype, peak in peaks["matmul"].items())
    lines = [
        f"\n{machine['model']} on one of {machine['devices']}, JAX {machine['jax']}, Python "
        f"{machine['python']}",
        f"  matrix products: {matmul}",
        f"  memory:          {peaks['memory']['bytes_per_s'] / 1e9:.4g} GB/s",
        f"  compiling:       {_compile_words(card['compile'])}",
        f"  input pipeline:  {_input_words(card['input'])}",
        f"  the same slices: {comparison_words(card['bfloat16'])}"]
    for kind, unit in (("training", "images/s"), ("inference", "slices/s")):
        for size, rows in itertools.groupby(sorted(card[kind], key=lambda row: row["size"]),
                                            key=lambda row: row["size"]):
            lines += [f"\n{kind} at {size}²",
                      f"  dtype     batch  {unit}  ms (min to max)          GFLOP  TFLOP/s"
                      "  of peak    GB/s  of memory's  GB taken"]
            lines += [_line(row) for row in rows]
    return "\n".join(lines)


def _compile_words(row: JsonObject) -> str:
    if row["status"] != MEASURED:
        return str(row["status"])
    return (f"{row['cold_s']:.1f} s, with a warm cache {row['warm_s']:.1f} s, after "
            f"{row['trace_s']:.1f} s of tracing ({words(row)})")


def _input_words(row: JsonObject) -> str:
    if row["status"] != MEASURED:
        return str(row["status"])
    return (f"{row['images_per_s']:.4g} images/s, {row['pipeline_over_step']:.3g} times as many as "
            f"the step takes; {row['waiting_share']:.1%} of the time waiting ({words(row)})")


def comparison_words(comparison: JsonObject) -> str:
    """The comparison of bfloat16 with float32, in words."""
    if comparison["status"] != MEASURED:
        return str(comparison["status"])
    difference = comparison["difference"]
    return (f"bfloat16 {difference['psnr']:+.4f} dB, SSIM {difference['ssim']:+.6f} against "
            f"float32, RMSE between both {comparison['rmse_hu_between']:.2f} HU "
            f"({comparison['slices']} slices at {comparison['size']}², {comparison['weights']} "
            f"weights, {comparison['protocol']}, {comparison['data_range']})")


def _line(row: JsonObject) -> str:
    start = f"  {row['dtype']:8}  {row['batch']:5}  "
    if row["status"] != MEASURED:
        return f"{start}{row['status']}"
    times = (f"{1e3 * row['median_s']:.4g} ({1e3 * row['min_s']:.4g} to "
             f"{1e3 * row['max_s']:.4g})")
    return (f"{start}{row['images_per_s']:8.2f}  {times:22} {row['flops'] / 1e9:7.0f}  "
            f"{row['flops_per_s'] / 1e12:7.3f}  {row['compute_utilisation']:7.1%}  "
            f"{row['bytes_per_s'] / 1e9:6.1f}  {row['bandwidth_utilisation']:11.1%}  "
            f"{row['peak_memory_bytes'] / 1e9:8.2f}")
