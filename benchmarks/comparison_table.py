"""The measurements of `benchmarks.against_torch` as text."""

from typing import Any

from benchmarks.comparison import MEASURED
from benchmarks.ratios import Ratio


def table(report: dict[str, Any]) -> str:
    """The content of the JSON file as lines of text."""
    machine = report["machine"]
    lines = [f"\n{machine['torch']['framework']} (Python {machine['torch']['python']}) against "
             f"{machine['jax']['framework']} (Python {machine['jax']['python']}) on "
             f"{machine['torch']['device']}, {machine['processor']}, {machine['cpu_cores']} cores",
             "AttnDFGAN, joint discriminator. Ratio: PyTorch's time over ours, for an image; above "
             "1, ours is faster."]
    for job in report["jobs"]:
        lines += [f"\n{job['task']} at {job['size']}²",
                  f"  {'':58}  batch  images/s  ms (least to most of the rounds)"]
        for row in job["sides"]:
            start = f"  {row['name']:58}  {row['batch']:5}  "
            if "median_ms" in row:
                lines.append(f"{start}{row['images_per_s']:8.2f}  {row['median_ms']:.4g} "
                             f"({row['min_ms']:.4g} to {row['max_ms']:.4g})")
            else:
                lines.append(start + ("not compared" if row["status"] == MEASURED
                                      else row["status"]))
        lines += [f"  {each['torch'] + ' over ' + each['ours']:58}  {each['batch']:>5}  "
                  f"{_ratio_words(each)}" for each in job["ratios"]
                  if each["as_published"] or each["torch_dtype"] == each["ours_dtype"]]
    for name in ("train", "inference"):
        for suffix, words in (("", "as published"), ("_fastest", "at its fastest")):
            each = report[f"{name}_ratio{suffix}_of"]
            lines.append(f"{'' if suffix or name == 'inference' else chr(10)}"
                         f"{name + '_ratio' + suffix:24} {_ratio_words(each)}  PyTorch {words}: "
                         f"{each['torch']}, batch {each['torch_batch']}, over {each['ours']}, "
                         f"batch {each['ours_batch']}")
    return "\n".join(lines)


def _ratio_words(each: dict[str, Any]) -> Ratio:
    return Ratio(*(each[name] for name in Ratio._fields))
