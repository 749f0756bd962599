"""Ctrl-C and SIGTERM as a wish that the training loop grants at its next segment boundary."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interruption", "TrainingInterrupted"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after its state had been saved.

    Args:
        signum: the signal's number; a program then ends with 128 plus this by convention: 130 or 143.
        message: where it stopped and where it is saved.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class Interruption:
    """While open, the first SIGINT or SIGTERM is only noted; a second one ends the program as it would have without.

    Args:
        active: False leaves signals alone. So they are outside the main thread, where Python forbids to catch them.
    """

    def __init__(self, active: bool = True) -> None:
        self.received: signal.Signals | None = None
        self._active = active and threading.current_thread() is threading.main_thread()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if self._active:
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
