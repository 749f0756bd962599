"""The folder of one run: config.json, metrics.jsonl, summary.json and weights.safetensors. Never overwrites a run."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fcjax.config import UsageError

__all__ = ["RunDirectory"]

CONFIG, METRICS, SUMMARY, WEIGHTS = "config.json", "metrics.jsonl", "summary.json", "weights.safetensors"


class RunDirectory:
    """Writes the results of one run. Every file but the log appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse_existing(self) -> None:
        """Raises a ``UsageError`` if the folder holds a run already, or is no folder."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: expected a folder or nothing, found a file")
        found = [name for name in (CONFIG, METRICS, SUMMARY, WEIGHTS) if (self.path / name).exists()]
        if found:
            raise UsageError(
                f"{self.path}: expected a new run directory, found a run ({', '.join(found)}); name another"
            )

    def create(self, config: dict[str, object]) -> None:
        """Makes the folder and writes ``config.json``.

        Raises:
            UsageError: the folder holds a run already, or can't be written.
        """
        self.refuse_existing()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_json(CONFIG, config)
        except OSError as error:
            raise UsageError(f"{self.path}: expected a folder to write to, found: {error.strerror or error}") from error

    def append_metrics(self, line: dict[str, object]) -> None:
        """Adds one line to ``metrics.jsonl``."""
        with (self.path / METRICS).open("a") as log:
            log.write(json.dumps(line) + "\n")

    def write_summary(self, summary: dict[str, object]) -> None:
        """Writes ``summary.json``."""
        self._write_json(SUMMARY, summary)

    def write_weights(self, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        """Writes ``weights.safetensors``: dotted Flax path -> array."""
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self._write(WEIGHTS, lambda path: save_file(whole, path, metadata))

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        self._write(name, lambda path: path.write_text(json.dumps(value, indent=2) + "\n"))

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        """To a temporary file that is then renamed: whoever reads sees the old file or the new one, never a part."""
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
        os.close(handle)
        try:
            write(Path(temporary))
            Path(temporary).chmod(0o644)  # mkstemp's own 0600 would lock out a colleague
            os.replace(temporary, self.path / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
