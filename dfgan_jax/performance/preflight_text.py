"""The report of preflight as text."""

from dfgan_jax.support.progress import format_duration
from dfgan_jax.support.types import JsonObject


def text(report: JsonObject) -> str:
    """The content of `preflight.json` as lines of text."""
    among = f"{report['chips']} × {report.get('chip', 'GPU')}"
    sizes = f"{report['size']}²" + ("" if report["slice_size"] == report["size"] else
                                    f" crops in training, {report['slice_size']}² in evaluation")
    lines = [f"\n{report['model']} ({report['config']}), {report['dtype']}, {sizes}, on "
             f"{among}, by {report['parallel']}"]
    changed = ("" if report["batch_divides"] else
               f" does NOT divide: the rest is for {report['compiled_batch_size']}")
    lines.append(f"  batch:       {report['batch_size']}{changed}, {report['images_per_chip']} a "
                 "chip")
    if report["platform"] == "cuda":
        for step, found in report["operations"].items():
            lines.append(f"  {step + ':':<12} lowers: " + ", ".join(
                f"{count} {op}" for op, count in found.items() if count))
        lines.append("  memory, time to compile: not known without a GPU. A step lowers if each of "
                     "its operations exists there; the compiler merges all_reduces"
                     + ("" if report["parallel"] == "pmap" else ", and adds those of jit"))
    else:
        lines += _tpu_lines(report)
    return "\n".join([*lines, *(f"  to change:   {each}" for each in report["advice"])])


def _tpu_lines(report: JsonObject) -> list[str]:
    verdict = "fits" if report["fits"] else "does NOT fit"
    lines = [f"  memory:      {report['memory_per_chip_gib']:.2f} of "
             f"{report['chip_memory_gib']:.2f} GiB a chip: {verdict}"]
    for step, memory in report["memory"].items():
        parts = ", ".join(f"{name} {size:.3f}" for name, size in memory.items() if name != "total")
        lines.append(f"    {step + ':':<11} {memory['total']:.3f}{f' ({parts})' if parts else ''}")
    largest = report["largest_batch"]
    if largest:
        sign = "" if report["largest_batch_is_exact"] else "at least "
        lines.append(f"  largest:     a batch of {sign}{largest}, {largest // report['chips']} a "
                     "chip, fits")
    for step, name in (("train", "collectives"), ("evaluation", "evaluation_collectives")):
        for each in report[name]:
            lines.append(f"  {step + ':':<12} {each['count']} × {each['op']} of {each['what']}, "
                         f"{_size(each['bytes'])}")
    lines += [f"  compiled:    {each['step']}, {each['images_per_chip']} a chip: "
              f"{each['memory_per_chip_gib']:.2f} GiB, in {format_duration(each['seconds'])}"
              for each in report["compiled"]]
    return lines


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
