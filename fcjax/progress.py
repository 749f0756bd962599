"""What a run shows while it trains: a bar in a terminal, plain lines elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Reporter"]


class Reporter:
    """Shows the epochs of one run; a context manager, so that the bar is closed whatever happens.

    Args:
        epochs: how many there will be.
        shown: False keeps silent.
    """

    def __init__(self, epochs: int, shown: bool = True) -> None:
        self._console = Console(quiet=not shown, highlight=False, soft_wrap=True)
        columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
        times = (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
        interactive = shown and self._console.is_terminal
        self._bar = Progress(*columns, *times, console=self._console, disable=not interactive)
        self._task = self._bar.add_task("compiling", total=epochs)
        self._epochs = epochs

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """One line of text."""
        self._console.print(line, markup=False)

    def epoch(self, number: int, loss: float, metric: str, speed: float, remaining: float) -> None:
        """One epoch is done.

        Args:
            number: from 1.
            loss: mean training loss.
            metric: the leading figure in words.
            speed: training samples per second.
            remaining: seconds.
        """
        text = f"loss {loss:.4f}  {metric}  {speed:,.0f} samples/s"
        self._bar.update(self._task, completed=number, description=text)
        if self._bar.disable:
            self.say(f"epoch {number}/{self._epochs}  {text}  ETA {remaining:.0f} s")
