"""The table of all built-in ports."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from compare.result import Report

__all__ = ["check_all", "row", "table"]

# Two load the frameworks at the same time, and each more takes as much memory.
_PROCESSES = 2


def check_all(progress: bool = False) -> list[Report]:
    """The reports of all built-in ports, in the order of the table.

    A process that has loaded neither framework leaves the work to two others, which share it.

    Args:
        progress: whether to say on standard error what has been checked.
    """
    reports: dict[int, Report] = {}
    fresh = not {"torch", "jax"} & sys.modules.keys()
    shared = fresh and sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1
    for number, report in _in_processes() if shared else map(_checked, _numbers()):
        reports[number] = report
        if progress:
            print(f"\r\033[Kchecked {report.name}", end="", file=sys.stderr, flush=True)
    if progress:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return [reports[number] for number in sorted(reports)]


def _in_processes() -> Iterator[tuple[int, Report]]:
    # Forked, since nothing is loaded yet: no threads, and the program's own main module is not run again.
    with multiprocessing.get_context("fork").Pool(_PROCESSES, _alone) as pool:
        numbers = pool.apply(_numbers)
        yield from pool.imap_unordered(_checked, numbers[::-1])  # the last ones are the largest


def _alone() -> None:
    """Makes this process one of several."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends all
    # A pool starts a worker that can't begin anew, for ever: its first task will say what is missing.
    with contextlib.suppress(Exception):
        import torch

        import compare.checking
        import compare.ports  # noqa: F401  # both load at the same time

        torch.set_num_threads(max(len(os.sched_getaffinity(0)) // _PROCESSES, 1))


def _numbers() -> list[int]:
    from compare.ports import PORTS

    return list(range(len(PORTS)))


def _checked(number: int) -> tuple[int, Report]:
    from compare.checking import check
    from compare.ports import PORTS

    name, make = list(PORTS.items())[number]
    return number, check(dataclasses.replace(make(), name=name))


def row(report: Report) -> dict[str, Any]:
    """One report as a row of the table, for people and for JSON."""
    missing = {"float64": None, "float32": None}
    return {
        "name": report.name,
        "passed": report.passed,
        "status": report.status,
        "parameters": report.numbers.get("parameters", {}),
        "output_error": report.numbers.get("output_error", missing),
        "gradient_error": report.numbers.get("gradient_error", missing),
        "gradient_flow": report.numbers.get("gradient_flow", {}),
        "notes": [
            f"{check.name}: {check.detail}"
            for check in report.checks
            if check.status == "noted" or check in report.unjudged
        ],
    }


def table(reports: Sequence[Report]) -> str:
    """Rows of name, parameters, largest relative differences and verdict; below, the text of what did not pass."""
    rows = [row(report) for report in reports]
    width = max(len(r["name"]) for r in rows)
    lines = [
        f"{'':{width}}  {'parameters':>10}  {'outputs: largest':^21}  {'gradients: largest':^21}",
        f"{'port':{width}}  {'':>10}  {'float64':>10} {'float32':>10}  {'float64':>10} {'float32':>10}  verdict",
    ]
    for r in rows:
        counts = {count for count in r["parameters"].values() if count is not None}
        count = f"{counts.pop():,}" if len(counts) == 1 else "differ"
        errors = [r[kind][dtype] for kind in ("output_error", "gradient_error") for dtype in ("float64", "float32")]
        cells = [f"{'-' if error is None else format(error, '.1e'):>10}" for error in errors]
        lines.append(f"{r['name']:{width}}  {count:>10}  {cells[0]} {cells[1]}  {cells[2]} {cells[3]}  {r['status']}")
    passed = sum(report.passed for report in reports)
    lines.append(f"{passed} of {len(reports)} passed. Differences are relative to the largest value of each array.")
    notes = [f"{r['name']}: {note}" for r in rows for note in r["notes"]]
    lines += [f"  note: {note}" for note in notes]
    lines += [report.text() for report in reports if not report.passed]
    return "\n".join(lines)
