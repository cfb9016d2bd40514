"""Slices a second from file to file: DICOM folders by the number of workers, NIfTI and arrays.

    python -m benchmarks.denoise_throughput [--slices=500] [--width=2] [--workers=0,1,2] \
        [--rounds=3] [--json=denoise_throughput.json]

Makes a series of 512² slices, uncompressed, with a header of usual length, and denoises it with an
untrained U-Net; its weights would not change the time. --width=0 adds 5 HU in its place, as beside
a device that computes elsewhere. 0 workers are the threads of one process. The rounds take each
setting in turn, after one that compiles. Times begin with the search for files and end with the
complete folder; they lack the start of Python and the loading of weights. *Waits*: share of that
time in which the device computes nothing. *Busy*: time of all cores together for a slice, of
whatever runs on the machine, so nothing else should.

The stages are core time for a slice, of one process alone: header, pixels to HU, network, HU to
file.
"""

import pathlib
import statistics
import tempfile
from typing import Any

from absl import app, flags

from benchmarks.json_file import write_json

_SLICES = flags.DEFINE_integer("slices", 500, "Number of slices.", lower_bound=32)
_WIDTH = flags.DEFINE_integer("width", 2, "Channels of the first stage of the U-Net; 0: adds 5 HU "
                              "in its place.", lower_bound=0)
_WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "Numbers of workers.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds of all settings.", lower_bound=1,
                               allow_override=True)
_JSON = flags.DEFINE_string("json", None, "File to write.", allow_override=True)


def table(result: dict[str, Any]) -> str:
    """The medians of the rounds, with the lowest and the highest rate."""
    lines = ["| | slices/s (least to most) | device waits | busy [core ms/slice] |",
             "|---|---|---|---|"]
    for name, rounds in result["rounds"].items():
        rates = [each["slices_per_s"] for each in rounds]
        waits, busy = (statistics.median(each[key] for each in rounds)
                       for key in ("waits", "busy_ms"))
        lines.append(f"| {name} | {statistics.median(rates):.1f} ({min(rates):.1f} to "
                     f"{max(rates):.1f}) | {waits:.0%} | {busy:.1f} |")
    stages_ = ", ".join(f"{name} {ms:.1f}" for name, ms in result["stages_core_ms"].items())
    return "\n".join([*lines, "", f"Stages, core ms for a slice: {stages_}"])


def main(argv: list[str]) -> None:
    del argv
    # Not at the top, since worker processes import this module again.
    from benchmarks.series_throughput import measure
    with tempfile.TemporaryDirectory() as folder:
        result = measure(pathlib.Path(folder), count=_SLICES.value, width=_WIDTH.value,
                         workers=list(map(int, _WORKERS.value)), rounds=_ROUNDS.value)
    print(table(result))
    write_json(_JSON.value, result)


if __name__ == "__main__":
    app.run(main)
