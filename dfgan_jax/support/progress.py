"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import contextlib
import contextvars
import math
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

_HIDDEN = contextvars.ContextVar("hidden", default=False)


class Progress:
    """Counts the units of one piece of work and shows the time left.

    On a terminal a bar is redrawn in place. Elsewhere (a log file, CI) one plain
    line is written at most every `line_every_s` seconds, and one at the end. The pace and the time
    left do not count the first `warm_up` units, such as steps that compile.
    """

    def __init__(self, description: str, *, total: int, unit: str, initial: int = 0,
                 warm_up: int = 0, line_every_s: float = 15.0):
        self._description = description
        self._total = total
        self._unit = unit
        self._initial = initial
        self._count = initial
        self._warm_at = initial + warm_up
        self._line_every_s = line_every_s
        self._start = self._last_line = time.monotonic()
        self._note = ""
        self._bar = None
        self._hidden = _HIDDEN.get()
        if sys.stderr.isatty() and not self._hidden:
            self._bar = tqdm(desc=description, total=total, unit=unit, initial=initial,
                             smoothing=0, dynamic_ncols=True, file=sys.stderr)

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Counts `count` more units as done, and shows `note` behind the bar."""
        is_warm = self._count < self._warm_at <= self._count + count
        self._count += count
        self._note = note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= self._line_every_s:
            self._write_line()
        if is_warm:
            self._initial, self._start = self._count, time.monotonic()
            if self._bar is not None:
                self._bar.initial, self._bar.start_t = self._bar.n, time.time()

    def seconds_left(self) -> float:
        """Seconds until the end at the pace so far; NaN before the first unit that counts."""
        done = self._count - self._initial
        if done == 0 or self._count < self._warm_at:
            return float("nan")
        return (time.monotonic() - self._start) / done * (self._total - self._count)

    def _write_line(self) -> None:
        self._last_line = time.monotonic()
        if self._hidden:
            return
        percent = 100 * self._count // max(self._total, 1)
        finished = self._count >= self._total
        seconds_left = self.seconds_left()
        left = ("" if finished or math.isnan(seconds_left) else
                f", {format_duration(seconds_left)} left")
        note = f", {self._note}" if self._note else ""
        elapsed = time.monotonic() - self._start
        done = self._count - self._initial
        rate = (f", {format_rate(done / elapsed)} {self._unit}/s"
                if done and elapsed and self._count >= self._warm_at else "")
        print(f"{self._description}: {self._count}/{self._total} {self._unit} ({percent}%), "
              f"{format_duration(elapsed)}{left}{rate}{note}", file=sys.stderr, flush=True)

    def message(self, text: str) -> None:
        """Writes a separate line without breaking the bar."""
        if self._hidden:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._count > self._initial:
            self._write_line()


@contextlib.contextmanager
def progress(description: str, *, total: int, unit: str, initial: int = 0, warm_up: int = 0
             ) -> Iterator[Progress]:
    """Shows `Progress` during a `with` block."""
    shown = Progress(description, total=total, unit=unit, initial=initial, warm_up=warm_up)
    try:
        yield shown
    finally:
        shown.close()


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Hides all progress that begins in a `with` block: another process shows the same."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def format_rate(per_second: float) -> str:
    """A pace in three digits, without a power of ten: 0.123, 6.72, 6,720."""
    return f"{per_second:.3g}" if per_second < 1000 else f"{per_second:,.0f}"


def format_duration(seconds: float) -> str:
    """Formats seconds for readers: `42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`; NaN as `?`."""
    if seconds != seconds:
        return "?"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600:02d} h"
