"""The content of the JSON file as a table in Markdown, and its insertion into a file."""

import collections
import statistics
from collections.abc import Mapping
from typing import Any

from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import format_duration
from drills.disturbances import DRILLS
from drills.workdir import PHASES

TABLE_BEGIN, TABLE_END = "<!-- drills -->\n", "<!-- /drills -->\n"


def table(report: Mapping[str, Any]) -> str:
    """The content of the JSON file as a table in Markdown."""
    lines = ["| drill | moments | ended as expected | final parameters identical | slowest end | "
             "remarks |", "|---|---|---|---|---|---|"]
    for name in DRILLS:
        if name in report["not_possible"]:
            lines.append(f"| `{name}` | 0 | – | – | – | not possible here: "
                         f"{report['not_possible'][name]} |")
        rows = [row for row in report["moments"] if row["drill"] == name]
        if not rows:
            continue
        ends = [row["end_s"] for row in rows if row["end_s"] is not None]
        slowest = f"{max(ends):.1f} s (median {statistics.median(ends):.1f} s)" if ends else "–"
        remarks = [_counts(row["outcome"] for row in rows)]
        if name != "damaged_checkpoint":
            remarks.append("while " + _counts(
                row["phase"] for row in sorted(rows, key=lambda row: PHASES.index(row["phase"]))))
        other_scores = sum(row["identical"] and not row["same_scores"] for row in rows)
        if other_scores:
            remarks.append(f"{other_scores} × another best epoch")
        lines.append(
            f"| `{name}` | {len(rows)} | {sum(not row['problems'] for row in rows)} | "
            f"{sum(row['identical'] for row in rows)} | {slowest} | {'; '.join(remarks)} |")
    machine = report["machine"]
    lives = ", ".join(f"{seconds:.1f} s with {count} process{'es' * (count != '1')}"
                      for count, seconds in report["life_s"].items())
    return "\n".join([*lines, "", (
        f"{report['created'][:10]}, seed {report['seed']}, {machine['cores']} cores, JAX "
        f"{machine['jax']}, Python {machine['python']}. An undisturbed run lasts {lives}; all "
        f"drills took {format_duration(report['seconds'])}, {report['jobs']} moments at a time.")])


def _counts(words: Any) -> str:
    return ", ".join(f"{count} × {word}" for word, count in collections.Counter(words).items())


def with_table(text: str, new: str, *, name: str) -> str:
    """The text of a Markdown file with a new table between its two marks.

    Raises:
      InputError: the marks are missing.
    """
    before, begin, rest = text.partition(TABLE_BEGIN)
    _, finish, after = rest.partition(TABLE_END)
    if not (begin and finish):
        raise InputError(f"{name}: expected the lines {TABLE_BEGIN.strip()} and "
                         f"{TABLE_END.strip()}, between which the table goes")
    return f"{before}{begin}{new}\n{finish}{after}"
