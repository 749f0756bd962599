"""The folder of one run: its settings, metrics, summary, weights and checkpoints. Never overwrites a run."""

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fcjax.config import UsageError

__all__ = ["RunDirectory"]

CONFIG, METRICS, SUMMARY, WEIGHTS = "config.json", "metrics.jsonl", "summary.json", "weights.safetensors"
CHECKPOINTS = "checkpoints"


class RunDirectory:
    """Writes the results of one run. Every file but the log appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._claim: int | None = None

    def claim(self) -> None:
        """Makes the folder, and keeps other processes from writing into it until ``release`` or the process's end.

        The lock is the kernel's, on the folder itself: of a process that was killed nothing stays behind.

        Raises:
            UsageError: the folder can't be made, or another process writes into it.
        """
        self._refuse_file()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._claim = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise UsageError(f"{self.path}: expected a folder to write to, found: {error.strerror or error}") from error
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise UsageError(
                f"{self.path}: expected a run directory of its own, found another process that writes into it; wait "
                "for its end, or name another"
            ) from None
        except OSError:  # a network's file system that knows no locks on folders
            pass

    def release(self) -> None:
        """Lets other processes write into the folder."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def refuse_existing(self) -> None:
        """Raises a ``UsageError`` if the folder holds a run already, or is no folder."""
        self._refuse_file()
        found = [name for name in (CONFIG, METRICS, SUMMARY, WEIGHTS, CHECKPOINTS) if (self.path / name).exists()]
        if found:
            raise UsageError(
                f"{self.path}: expected a new run directory, found a run ({', '.join(found)}); name another, or "
                "--resume it"
            )

    def create(self, config: dict[str, object], files: Mapping[str, str]) -> None:
        """Writes ``config.json`` and ``files``, texts by name, into the folder that ``claim`` made.

        Raises:
            UsageError: the folder holds a run already, or can't be written.
        """
        self.refuse_existing()
        self._describe(config, files)

    def recorded(self) -> dict[str, Any] | None:
        """What ``config.json`` holds; None where there is no run to resume.

        Raises:
            UsageError: ``config.json`` isn't one of ours.
        """
        if not (self.path / CONFIG).exists():
            return None
        try:
            config = json.loads((self.path / CONFIG).read_text())
            if isinstance(config, dict):
                return config
        except (OSError, ValueError):
            pass
        raise UsageError(f"{self.path / CONFIG}: expected the settings of a run as JSON, found something else")

    @property
    def finished(self) -> int | None:
        """After how many epochs the run came to its end; None where it didn't.

        Raises:
            UsageError: ``summary.json`` isn't one of ours.
        """
        if not (self.path / SUMMARY).exists():
            return None
        try:
            return int(json.loads((self.path / SUMMARY).read_text())["epochs"])
        except (OSError, ValueError, LookupError, TypeError):
            raise UsageError(
                f"{self.path / SUMMARY}: expected the summary of a run as JSON, found something else"
            ) from None

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.path / CHECKPOINTS

    def rewind(self, config: dict[str, object], files: Mapping[str, str], history: list[dict[str, Any]]) -> None:
        """Brings the files to where a resumed run goes on: no line of a later epoch, no half line.

        Raises:
            UsageError: a file can't be deleted or written.
        """
        self._remove(*self.path.glob(".*.tmp"))
        self._describe(config, files)
        text = "".join(self._line(METRICS, line) + "\n" for line in history)
        self._write(METRICS, lambda path: path.write_text(text))
        # Of a run that was finished and now goes on; last, so that they are still there if the disk was full.
        self._remove(self.path / SUMMARY, self.path / WEIGHTS)

    def _refuse_file(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: expected a folder or nothing, found a file")

    def append_metrics(self, line: dict[str, object]) -> None:
        """Adds one line to ``metrics.jsonl``."""
        text = self._line(METRICS, line) + "\n"
        try:
            with (self.path / METRICS).open("ab", buffering=0) as log:
                log.write(text.encode())  # in one piece
        except OSError as error:
            raise self._unwritable(METRICS, error) from error

    def write_summary(self, summary: dict[str, object]) -> None:
        """Writes ``summary.json``, the last file: a run that has it is finished, and all of it can be loaded."""
        self._write_json(SUMMARY, summary)

    def write_weights(self, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        """Writes ``weights.safetensors``: dotted Flax path -> array."""
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self._write(WEIGHTS, lambda path: save_file(whole, path, metadata))

    def _describe(self, config: dict[str, object], files: Mapping[str, str]) -> None:
        """The settings, and whatever else is known before training."""
        self._write_json(CONFIG, config)
        for name, text in files.items():
            self._write(name, partial(Path.write_text, data=text, encoding="utf-8"))

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise self._unwritable(path.name, error) from error

    def _unwritable(self, name: str, error: Exception) -> UsageError:
        return UsageError(f"{self.path / name}: can't be written: {getattr(error, 'strerror', None) or error}")

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        text = self._line(name, value, indent=2) + "\n"
        self._write(name, lambda path: path.write_text(text))

    def _line(self, name: str, value: dict[str, Any], indent: int | None = None) -> str:
        """``value`` as JSON, which has no word for what is not a number."""
        try:
            return json.dumps(value, indent=indent, allow_nan=False)
        except ValueError:
            wrong = [key for key, part in value.items() if not _is_finite(part)]
            raise UsageError(
                f"{self.path / name}: expected finite figures, found others under {', '.join(wrong)}; a lower learning "
                "rate may help"
            ) from None

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        """To a temporary file that is then renamed: whoever reads sees the old file or the new one, never a part."""
        temporary = None
        try:
            handle, path = tempfile.mkstemp(dir=self.path, prefix=f".{name}.", suffix=".tmp")
            temporary = Path(path)
            os.close(handle)
            write(temporary)
            temporary.chmod(0o644)  # mkstemp's own 0600 would lock out a colleague
            os.replace(temporary, self.path / name)
        except BaseException as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError | SafetensorError):
                raise self._unwritable(name, error) from error
            raise


def _is_finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
