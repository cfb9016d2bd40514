"""Stopping a run by a signal, after a step and a checkpoint, in all its processes alike."""

import os
import signal
from collections.abc import Callable
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Remembers the first signal, so that the loop can save before it ends; a context manager.

    A second signal acts as if this were not here.

    Args:
      greatest: the greatest of the processes' values, at once or as an array that soon
        holds it.
    """

    def __init__(self, greatest: Callable[[int], Any]) -> None:
        self.number: int | None = None
        self._greatest = greatest
        self._asked: Any = None
        self._heeded = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            # What nohup or a shell has set to be ignored stays so.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._restore()
        # It came too late for `agreed`; but what an error says is worth more.
        if error is None and self.number is not None and not self._heeded:
            signal.raise_signal(self.number)

    def _remember(self, number: int, _frame: object) -> None:
        self.number = number
        self._restore()
        # Not `print`: a write to stderr may be what the signal has interrupted.
        os.write(2, f"{signal.Signals(number).name}: saving first; once more ends it at once\n"
                 .encode())

    def agreed(self, *, at_last: bool = False) -> int | None:
        """The signal that the processes stop for, the same in all; None without one.

        Called by each after the same steps. Of several processes, what they asked for after
        the step before counts, which is known without waiting for the devices.

        Args:
          at_last: that no step comes any more, so that it is worth waiting.
        """
        asked = self._greatest(self.number or 0)
        if not (isinstance(asked, int) or at_last):
            asked, self._asked = 0 if self._asked is None else self._asked, asked
        number = int(asked) or None
        self._heeded = number is not None
        return number

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
