"""Stops all processes of a run by a signal, after the same step and a checkpoint."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeAlias

from jaxtyping import Array, Int

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

SAVED = 85
"""Exit status of `main.py` after a checkpoint of new steps and a signal other than Ctrl-C's.

128 + the signal would also be the status of a process that it ended outside of training.
"""

_Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class StoppedError(Exception):
    """All processes of the run stop for a signal.

    Attributes:
      number: of the signal, the same in all processes.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Remembers the first signal, so that the loop can save before it ends; a context manager.

    A second signal has its usual effect.

    Args:
      greatest: value of this process → the greatest value of all processes, as a number or as an
        array that is computed in the background.
    """

    def __init__(self, greatest: Callable[[int], int | Int[Array, ""]]) -> None:
        self.number: int | None = None
        self._greatest = greatest
        self._asked: int | Array | None = None
        self._heeded = False
        self._previous: dict[int, _Handler] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            # Signals that nohup or a shell ignores stay ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._restore()
        # A signal too late for `agreed` acts now, unless an error ends the run.
        if error is None and self.number is not None and not self._heeded:
            signal.raise_signal(self.number)

    def _remember(self, number: int, _frame: object) -> None:
        self.number = number
        self._restore()
        # Not `print`: the signal may have interrupted a write to stderr.
        os.write(2, f"{signal.Signals(number).name}: saving first; once more ends it at once\n"
                 .encode())

    def agreed(self, *, at_last: bool = False) -> int | None:
        """The signal that the processes stop for, the same in all; None without a signal.

        Every process calls this after the same steps. With several processes, the signals before
        the previous call count, which are known without waiting for the devices.

        Args:
          at_last: there is no further step, so that the newest signals count, after a wait.
        """
        asked = self._greatest(self.number or 0)
        if not (isinstance(asked, int) or at_last):
            asked, self._asked = 0 if self._asked is None else self._asked, asked
        number = int(asked) or None
        self._heeded = number is not None
        return number

    def poll(self) -> None:
        """Asks `agreed` where there is nothing to save, such as between batches of validation.

        Raises:
          StoppedError: the processes stop.
        """
        number = self.agreed()
        if number is not None:
            raise StoppedError(number)

    def end_by(self, number: int) -> NoReturn:
        """Ends this process as the signal would outside of training, where nothing is saved."""
        self._restore()
        signal.raise_signal(number)
        raise SystemExit(128 + number)  # the signal was ignored

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
