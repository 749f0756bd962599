"""The command line. Asking for help imports neither jax nor torch.

Exit codes: 0 equal, 1 a difference, 2 wrong usage, 3 inconclusive.
"""

import difflib
import functools
import importlib
import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from compare.result import UsageError

if TYPE_CHECKING:
    from compare.result import Report

__all__ = ["check", "convert", "main", "models"]

EQUAL, DIFFERENT, WRONG_USAGE, INCONCLUSIVE, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs ``python -m compare``, also installed as ``fcjax-compare``."""
    try:
        code = _parsed(arguments)()
    except UsageError as error:
        _leave(f"compare: {error}", WRONG_USAGE)
    except KeyboardInterrupt:
        _leave("compare: interrupted", INTERRUPTED)
    sys.exit(code)


def _parsed(arguments: Sequence[str] | None) -> Callable[[], int]:
    """The command that ``arguments`` ask for, not run yet."""
    app = tyro.extras.SubcommandApp()
    for command in (models, check, convert):
        app.command(_later(command))
    description = "Is a PyTorch-to-Flax port right? Exit codes: 0 equal, 1 different, 2 wrong usage, 3 inconclusive."
    refused = io.StringIO()
    try:
        with redirect_stderr(refused):
            found: Callable[[], int] = app.cli(prog="python -m compare", description=description, args=arguments)
    except SystemExit as end:
        if end.code != WRONG_USAGE:  # help
            raise
        raise UsageError(_in_one_line(refused.getvalue())) from None
    return found


def _later(command: Callable[..., int]) -> Callable[..., Any]:
    """``command`` for the parser: bound to its arguments, but not run yet."""

    @functools.wraps(command)
    def bound(*arguments: Any, **keywords: Any) -> Callable[[], int]:
        return functools.partial(command, *arguments, **keywords)

    return bound


def _in_one_line(box: str) -> str:
    """What the parser says in a frame, without frame and help, and with the nearest name if it offers some."""
    lines = [line.strip(" │") for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if line[:1] in ("╭", "╰") or (line and set(line) <= {"─", "-"})]
    body, *rest = (" ".join(filter(None, lines[i + 1 : j])) for i, j in itertools.pairwise([*rules, len(lines)]))
    offered = [*re.findall(r"--[\w-]+", " ".join(rest)), "models", "check", "convert"]
    wrong = re.search(r"options: ([^\s,]+)", body)
    near = difflib.get_close_matches(wrong[1], offered, 1) if wrong else []
    return body.partition(" Got errors")[0].rstrip(".") + (
        f"; did you mean {near[0]}?" if near else "; --help says more"
    )


def models(json: Path | None = None) -> int:
    """Checks every built-in port and prints one row for each.

    Args:
        json: also write the table to this file, as a list of objects.
    """
    _quiet_gpu_memory()
    from compare.report.table import check_all, table

    reports = check_all(progress=sys.stderr.isatty())
    print(table(reports))
    if json is not None:
        _write(json, _rows_json(reports))
    return EQUAL if all(report.passed for report in reports) else DIFFERENT


def check(
    target: Annotated[str, tyro.conf.Positional],
    flax: Annotated[str | None, tyro.conf.Positional] = None,
    input: tuple[str, ...] = (),
    train: bool = False,
    json: Path | None = None,
    html: Path | None = None,
    seed: int | None = None,
    show_mapping: bool = False,
    mutants: int = 0,
) -> int:
    """Checks a port: one import path of a compare.Port, or two of functions that make the torch and the Flax model.

    Args:
        target: pkg.mod:port (a compare.Port, or a function that returns one), or pkg.mod:make_torch.
        flax: pkg.mod:make_flax.
        input: shape and dtype of each positional input of the two models, for example 8x784 or 4x16:int64.
        train: compare in training mode, with the same dropout masks on both sides.
        json: also write the report to this file.
        html: also write the report to this file, as one page for a browser.
        seed: of drawn inputs, redrawn weights and masks; 0, or the Port's own, where not given.
        show_mapping: also print which torch array is which Flax array, how it is laid out and what told so.
        mutants: also plant up to this many small mistakes in the torch model, and say how many the check would notice.
    """
    if flax is not None and not input:
        raise UsageError("--input: expected the shape of each input, for example --input 8x784, found none")
    drawn = [_drawn(text, (seed or 0) + i) for i, text in enumerate(input)]
    _quiet_gpu_memory()
    import dataclasses

    from compare.checking import check as check_port
    from compare.port import Port

    if flax is None:
        found = _imported(target)
        port = _called(found, target) if callable(found) and not isinstance(found, Port) else found
        if not isinstance(port, Port):
            raise UsageError(f"{target}: expected a compare.Port or a function that returns one, found {_kind(port)}")
        if input:
            raise UsageError(f"--input: {target} is a Port, which holds its own inputs")
        if train:
            port = dataclasses.replace(port, mode="train")
        if seed is not None:
            port = dataclasses.replace(port, seed=seed)
    else:
        port = Port(
            _called(_imported(target), target),
            _called(_imported(flax), flax),
            tuple(drawn),
            mode="train" if train else "eval",
            seed=seed or 0,
        )
    with _status(f"checking {port.title}"):
        report = check_port(dataclasses.replace(port, profile=port.profile or html is not None))
    print(report.text())
    if show_mapping:
        from compare.mapping.table import table

        print(table(report.mapping))
    if mutants:
        from compare.mutation import mutation_score

        with _status(f"planting mistakes in {port.title}"):
            score = mutation_score(port, max_mutants=mutants)
        report = dataclasses.replace(report, numbers={**report.numbers, "mutants": dataclasses.asdict(score)})
        print(f"  mutants: {score.text()}")
    if json is not None:
        _write(json, report.to_json())
    if html is not None:
        _write(html, report.to_html())
    return _code(report)


def convert(
    source: Annotated[Path, tyro.conf.Positional],
    target: Annotated[Path, tyro.conf.Positional],
    torch: str,
    flax: str,
    to: Literal["flax", "torch"],
    overwrite: bool = False,
    show_mapping: bool = False,
) -> int:
    """Converts a weights file from one framework to the other.

    Args:
        source: .safetensors, or a PyTorch .pt file of plain tensors.
        target: the .safetensors file to write.
        torch: pkg.mod:make_torch, a function that makes the torch model.
        flax: pkg.mod:make_flax, a function that makes the Flax model.
        to: the framework to convert to.
        overwrite: replace the target if it exists.
        show_mapping: also print which torch array is which Flax array, how it is laid out and what told so.
    """
    _quiet_gpu_memory()
    from compare.conversion import convert_files

    torch_model, flax_model = _called(_imported(torch), torch), _called(_imported(flax), flax)
    mapping = convert_files(source, target, torch_model, flax_model, to=to, overwrite=overwrite)
    written = len({rule.target if to == "flax" else rule.source for rule in mapping.rules})
    print(f"{target}: {written} arrays written for {to}")
    if to == "torch" and mapping.zeroed:
        print(f"  zeros in {', '.join(mapping.zeroed)}: torch adds another array to each, and that one holds the sum")
    if show_mapping:
        from compare.mapping.table import rows, table

        print(table(rows(mapping)))
    return EQUAL


def _status(words: str) -> AbstractContextManager[object]:
    """A line that moves while something long goes on, on a terminal's standard error."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(words)


def _quiet_gpu_memory() -> None:
    import os

    # torch and JAX share one GPU here; by default JAX would take most of its memory at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _code(report: "Report") -> int:
    return {"passed": EQUAL, "failed": DIFFERENT, "inconclusive": INCONCLUSIVE, "error": WRONG_USAGE}[report.status]


def _imported(path: str) -> Any:
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"{path}: expected an import path such as package.module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's own modules beside the shell's folder
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(f"{path}: {module_name} can't be imported: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{path}: {module_name} has no {attribute!r}")
        found = getattr(found, part)
    return found


def _called(found: Any, path: str) -> Any:
    if not callable(found):
        raise UsageError(f"{path}: expected a function, found {_kind(found)}")
    try:
        return found()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path}: calling it raised {type(error).__name__}: {error}") from error


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"


def _drawn(text: str, seed: int) -> Any:
    """An input of the shape and dtype that ``text`` names: standard normal, or integers 0 and 1."""
    import numpy as np

    shape_text, _, dtype = text.partition(":")
    dtype = dtype or "float32"
    try:
        shape = tuple(int(size) for size in shape_text.split("x"))
    except ValueError:
        shape = (-1,)
    if min(shape) < 0 or dtype not in ("float32", "float64", "int32", "int64", "bool"):
        raise UsageError(f"--input {text}: expected sizes joined by x and a dtype, such as 8x784 or 4x16:int64")
    random = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def _rows_json(reports: "Sequence[Report]") -> str:
    from compare.report.jsonable import plain
    from compare.report.table import row

    return json.dumps([plain(row(report)) for report in reports], indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: can't be written ({error.strerror})") from error


def _leave(message: str, code: int) -> None:
    with suppress(BrokenPipeError):
        print(message, file=sys.stderr)
    sys.exit(code)
