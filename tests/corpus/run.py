"""Runs the corpus: ``python -m tests.corpus.run [family ...] [--json FILE] [--verbose]``.

Prints a table of the planted mistakes and the rates: caught, located, named, and false alarms on right ports.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import os
import pkgutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

# Nets here are tiny: compiling well costs more than it saves, and what a program computes does not depend on it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import torch

import compare
from tests.corpus.mistake import Case, Family, Mistake
from tests.corpus.names import acceptable

__all__ = ["Outcome", "families", "judge", "ports", "rates", "run_mistake", "run_right"]

BOOKKEEPING = {"weights", "parameters"}
HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one entry.

    Args:
        family, name: of the entry.
        planted: whether it holds a mistake.
        status: of the report, or the exception that was raised.
        caught, located, named: of a mistake; None where there is nothing to locate or to name.
        place: what the report names as the first divergence.
        causes: names, likeliest first.
        seconds: of the processor, for the check.
        note: what went wrong, in words.
    """

    family: str
    name: str
    planted: bool
    status: str
    caught: bool | None = None
    located: bool | None = None
    named: bool | None = None
    place: str = ""
    causes: tuple[str, ...] = ()
    seconds: float = 0.0
    note: str = ""


def _modules(folder: str) -> Iterator[Any]:
    for found in pkgutil.iter_modules([str(HERE / folder)]):
        yield importlib.import_module(f"tests.corpus.{folder}.{found.name}")


def families() -> list[Family]:
    """Every family of mistakes."""
    return [module.FAMILY for module in _modules("mistakes")]


def ports() -> list[tuple[str, Callable[[], Case]]]:
    """Name -> right port, those that the mistakes were made from and those kept for themselves."""
    found = [(f"{family.name}/{name}", make) for family in families() for name, make in family.right.items()]
    for module in _modules("ports"):
        family = module.__name__.rpartition(".")[2]
        for build in module.BUILDERS:
            found.append((f"{family}/{build.__name__}", functools.partial(_built, build)))
    return found


def _built(build: Callable[[], compare.Port]) -> Case:
    return Case("check", (build(),))


def place_of(report: compare.Report) -> str:
    """ "inside fc1", "before fc2", "inside" for the model itself; "" where nothing is named."""
    found = report.first_divergence
    return "" if found is None else f"{found.where} {found.module}".strip()


def judge(mistake: Mistake, report: compare.Report) -> tuple[bool, bool | None, bool | None]:
    """Whether the report catches, locates and names the mistake."""
    failed = {check.name for check in report.checks if check.status == "failed"}
    # A weights check fails too where the checker could not pair the arrays: that says nothing of the mistake.
    caught = report.status == "failed" and bool(
        failed & set(mistake.checks) if mistake.checks else failed - BOOKKEEPING
    )
    found, names = report.first_divergence, [cause.name for cause in report.causes]
    located: bool | None = None
    if mistake.places or mistake.quantity:
        located = caught and found is not None
        if found is not None and mistake.places:
            located = located and place_of(report) in mistake.places and found.direction == mistake.direction
        if found is not None and mistake.quantity:
            located = located and (found.step, found.quantity) == (mistake.step, mistake.quantity)
    named: bool | None = None
    if mistake.causes is not None:
        first, behind = acceptable(mistake.causes), acceptable(mistake.behind or ())
        named = caught and bool(names) and names[0] in first | behind and bool(set(names) & first)
        named = named and (mistake.behind is None or bool(set(names) & behind))
    return caught, located, named


def _reported(case: Callable[[], Case]) -> tuple[compare.Report | None, str, float]:
    start = time.process_time()
    try:
        report = case().report()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        note = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return None, note, time.process_time() - start
    return report, "", time.process_time() - start


def run_mistake(family: str, mistake: Mistake) -> tuple[Outcome, compare.Report | None]:
    """Runs the check on a planted mistake and judges the report."""
    report, note, seconds = _reported(mistake.make)
    if report is None:
        return Outcome(family, mistake.name, True, "raised", False, False, False, note=note, seconds=seconds), None
    caught, located, named = judge(mistake, report)
    names, place = tuple(cause.name for cause in report.causes), place_of(report)
    if report.first_divergence is not None and report.first_divergence.quantity:
        place = f"step {report.first_divergence.step}, {report.first_divergence.quantity}"
    return Outcome(family, mistake.name, True, report.status, caught, located, named, place, names, seconds), report


def run_right(name: str, case: Callable[[], Case]) -> tuple[Outcome, compare.Report | None]:
    """Runs the check on a right port, which must pass."""
    family, _, short = name.partition("/")
    report, note, seconds = _reported(case)
    if report is None:
        return Outcome(family, short, False, "raised", note=note, seconds=seconds), None
    doubts = [f"{check.name}: {check.detail}" for check in report.checks if check.status not in ("passed", "noted")]
    names = tuple(cause.name for cause in report.causes)
    return Outcome(
        family,
        short,
        False,
        report.status,
        place=place_of(report),
        causes=names,
        seconds=seconds,
        note="" if report.passed else "; ".join(doubts)[:300],
    ), report


def rates(outcomes: Iterable[Outcome]) -> dict[str, tuple[int, int]]:
    """Kind -> (how many, of how many)."""
    outcomes = list(outcomes)
    planted = [outcome for outcome in outcomes if outcome.planted]
    right = [outcome for outcome in outcomes if not outcome.planted]

    def count(kind: str) -> tuple[int, int]:
        asked = [getattr(outcome, kind) for outcome in planted if getattr(outcome, kind) is not None]
        return sum(asked), len(asked)

    alarms = sum(outcome.status in ("failed", "error", "raised") for outcome in right)
    doubts = sum(outcome.status == "inconclusive" for outcome in right)
    return {
        **{kind: count(kind) for kind in ("caught", "located", "named")},
        "false alarms": (alarms, len(right)),
        "inconclusive": (doubts, len(right)),
    }


def _mark(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "NO"


def line(outcome: Outcome) -> str:
    """One line of the table."""
    who = f"{outcome.family}/{outcome.name}"
    if not outcome.planted:
        return f"{who:44} right port: {outcome.status} {outcome.note} [{outcome.seconds:.1f} s]"
    marks = "  ".join(f"{_mark(value):3}" for value in (outcome.caught, outcome.located, outcome.named))
    found = "; ".join(part for part in (outcome.place, ", ".join(outcome.causes), outcome.note) if part)
    status = "" if outcome.caught else f"{outcome.status}; "
    return f"{who:44} {marks}  {status}{found} [{outcome.seconds:.1f} s]"


def _short(outcome: Outcome) -> bool:
    """Whether the report fell short of what it should say."""
    if outcome.planted:
        return False in (outcome.caught, outcome.located, outcome.named)
    return outcome.status != "passed"


def _entries() -> Iterator[tuple[str, bool, Callable[[], tuple[Outcome, compare.Report | None]]]]:
    """Name, whether a mistake is planted, and what runs it."""
    for family in families():
        for mistake in family.mistakes:
            yield f"{family.name}/{mistake.name}", True, functools.partial(run_mistake, family.name, mistake)
    for name, case in ports():
        yield name, False, functools.partial(run_right, name, case)


def _save(path: Path, outcomes: list[Outcome]) -> None:
    entries = [dataclasses.asdict(outcome) for outcome in outcomes]
    path.write_text(json.dumps({"rates": rates(outcomes), "entries": entries}, indent=1))


def main(arguments: list[str] | None = None) -> int:
    """Runs the corpus and prints the table and the rates; 1 if anything fell short."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus.run", description="Runs the corpus of mistakes.")
    parser.add_argument("names", nargs="*", help="families (mlp), entries (mlp/missing_residual) or the word right")
    parser.add_argument("--json", type=Path, help="writes the outcomes there; those of earlier runs stay")
    parser.add_argument("--verbose", action="store_true", help="prints the reports of entries that fell short")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    jax.config.update("jax_disable_most_optimizations", True)

    def wanted(name: str, planted: bool) -> bool:
        family = name.partition("/")[0]
        return not options.names or bool({name, family, "" if planted else "right"} & set(options.names))

    kept = json.loads(options.json.read_text())["entries"] if options.json and options.json.exists() else []
    found = {(entry["family"], entry["name"], entry["planted"]): Outcome(**entry) for entry in kept}
    print(f"{'entry':44} caught located named; what the report says", flush=True)
    for count, (name, planted, runs) in enumerate(_entries(), start=1):
        if not wanted(name, planted):
            continue
        outcome, report = runs()
        found[outcome.family, outcome.name, planted] = outcome
        print(line(outcome), flush=True)
        if options.verbose and report is not None and _short(outcome):
            print(report.text(), flush=True)
        if options.json:
            _save(options.json, list(found.values()))
        if count % 20 == 0:
            jax.clear_caches()  # Compiled programs of models that are gone.
    print("\n" + "\n".join(f"{kind:14} {some} of {of}" for kind, (some, of) in rates(found.values()).items()))
    return int(any(_short(outcome) for outcome in found.values()))


if __name__ == "__main__":
    sys.exit(main())
