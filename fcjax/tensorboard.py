"""The figures of each epoch for TensorBoard, by tensorboardX where it is installed."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fcjax.expectations import UsageError

__all__ = ["TensorBoard", "refuse_without_writer"]


def refuse_without_writer() -> None:
    """Raises a ``UsageError`` where tensorboardX is not installed."""
    if find_spec("tensorboardX") is None:
        raise UsageError("tensorboard: expected tensorboardX, found it not installed: pip install tensorboardX")


class TensorBoard:
    """Writes one run's figures to a folder.

    Args:
        folder: for the event files.
        done: epochs done already; what an earlier process wrote about later ones is hidden.
    """

    def __init__(self, folder: Path, done: int) -> None:
        from tensorboardX import SummaryWriter

        # Named by the second it is made in: a run that goes on within one would write over what came before.
        self._writer = SummaryWriter(str(folder), purge_step=done + 1, filename_suffix=f".after-{done}")

    def write(self, entry: Mapping[str, Any], seeds: Sequence[int]) -> None:
        """Adds an epoch's line of ``metrics.jsonl``: ``test/accuracy`` and so on; of several replicas, one each."""
        epoch = entry["epoch"]
        for part, figures in entry.items():
            for name, values in figures.items() if isinstance(figures, dict) else ():
                for number, value in enumerate(values):
                    replica = f"/replica_{number}_seed_{seeds[number]}" if len(values) > 1 else ""
                    if value is not None:
                        self._writer.add_scalar(f"{part}/{name}{replica}", value, epoch)
        self._writer.add_scalar("samples_per_second", entry["samples_per_second"], epoch)
        self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        self._writer.close()
