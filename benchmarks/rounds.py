"""Contenders that take turns (A B C, A B C, ...): a machine that slows down slows all of them alike."""

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["Measured", "Row", "Turn", "machine", "missing", "options", "rates_table", "ratio", "save", "take_turns"]

Turn = Callable[[], float]
"""One turn of a contender; returns a figure (a loss) by which it can be seen that all do the same work."""

# Seconds between turns: threads of the contender before go on spinning for a while, on the cores of the next.
REST = 0.3

Row = dict[str, Any]
"""One measured figure with what it belongs to, as plain JSON values."""


@dataclass(frozen=True)
class Measured:
    """What one contender showed.

    Args:
        seconds: of every turn but the first.
        figure: what its last turn returned.
    """

    seconds: tuple[float, ...]
    figure: float

    @property
    def median(self) -> float:
        """Seconds of the middle turn."""
        return statistics.median(self.seconds)


def take_turns(turns: Mapping[str, Turn], rounds: int) -> dict[str, Measured]:
    """Runs every turn ``rounds`` times in alternation, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    figures = dict.fromkeys(turns, float("nan"))
    for number in range(rounds + 1):
        for name, turn in turns.items():
            gc.collect()
            time.sleep(REST)
            started = time.perf_counter()
            figures[name] = turn()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: Measured(tuple(seconds[name]), figures[name]) for name in turns}


def ratio(ours: Measured, theirs: Measured) -> float:
    """How many times faster ``ours`` is: the median over rounds of the ratio within each round."""
    return statistics.median(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))


def rates_table(measured: Mapping[str, Measured], work: float, unit: str, best: str | None = None) -> str:
    """One row per contender: median rate, spread, last figure and how many times as fast as ``best``.

    Args:
        measured: from ``take_turns``.
        work: how many units a turn does.
        unit: their name.
        best: the contender that the others are measured against.
    """
    lines = []
    for name, found in measured.items():
        low, high = work / max(found.seconds), work / min(found.seconds)
        against = "" if best is None else f"  {ratio(found, measured[best]):6.2f}x"
        rate = f"{work / found.median:12,.0f} {unit}/s  ({low:,.0f} to {high:,.0f})"
        lines.append(f"  {name:44}{rate}{against}  loss {found.figure:.3f}")
    return "\n".join(lines)


def machine() -> str:
    """The machine and the versions that a figure belongs to."""
    import jax

    packages = []
    for name in ("jax", "flax", "optax", "torch"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"no {name}")
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{platform.machine()}, {cores} cores, {len(jax.devices())} JAX device(s): {device.device_kind}; "
        f"Python {platform.python_version()}, {', '.join(packages)}"
    )


def missing(what: str, error: Exception | str) -> None:
    """Says that a contender is left out, and why."""
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    print(f"  {what} is left out: {reason}")


def options(about: str | None) -> argparse.ArgumentParser:
    """A benchmark's parser: its docstring is the help, and ``--json`` keeps what it measures."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="append every figure to this file, one JSON object a line")
    return parser


def save(path: Path | None, benchmark: str, rows: list[Row]) -> None:
    """Appends ``rows``, each with the benchmark's name and the machine, to the file of ``--json``, if there is one."""
    if path is None:
        return
    common = {"benchmark": benchmark, "machine": machine()}
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(common | row) + "\n")
