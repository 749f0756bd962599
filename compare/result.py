"""What a check returns: plain data, and nothing that judges."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "Cause",
    "CheckResult",
    "Divergence",
    "LayerError",
    "Leaf",
    "MutationScore",
    "Picture",
    "Report",
    "UsageError",
]

CheckStatus = Literal["passed", "failed", "noted", "constants", "skipped", "error", "inconclusive"]
ReportStatus = Literal["passed", "failed", "inconclusive", "error"]


class UsageError(ValueError):
    """Something was asked for that can't be done: one sentence says what, and what was expected."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One compared array.

    Args:
        path: its name, with the case it was worst in.
        error: largest absolute difference; NaN where only one side is finite.
        allowed: what rounding can explain.
        scale: largest absolute value of the reference.
        index: where the largest difference is.
        detail: shapes, dtypes or flow where these differ.
        constants: whether it agrees only since constants that the port holds in a lower precision may round.
    """

    path: str
    error: float
    allowed: float
    scale: float = 0.0
    index: tuple[int, ...] | None = None
    detail: str = ""
    constants: bool = False

    @property
    def agrees(self) -> bool:
        """NaN never agrees."""
        return not self.detail and self.error <= self.allowed

    @property
    def relative(self) -> float:
        """The error in units of the largest reference value; zero where both are zero to rounding."""
        if self.agrees and self.scale <= self.allowed:
            return 0.0
        return self.error / self.scale if self.scale else self.error


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    Args:
        name: "weights", "parameters", "outputs", "gradients", "precision", "statistics", "adequacy", ...
        status: "passed", "failed", "noted", "constants", "skipped", "error" or "inconclusive".
        detail: one or two sentences.
        leaves: per compared array, the worst case.
    """

    name: str
    status: CheckStatus
    detail: str
    leaves: tuple[Leaf, ...] = ()


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The first place where the two computations part.

    Args:
        direction: "forward" or "backward".
        where: "inside" the module, or "before" it, in the code that prepares its input.
        module: the module's torch name; "" is the model itself.
        flax_path: its dotted path in the Flax model.
        error, allowed: largest difference there, and what rounding can explain.
        step, quantity: the training step and quantity, in ``check_training``.
    """

    direction: Literal["forward", "backward"]
    where: Literal["inside", "before"]
    module: str
    flax_path: str
    error: float
    allowed: float
    step: int | None = None
    quantity: str | None = None


@dataclasses.dataclass(frozen=True)
class Cause:
    """A mistake that explains the difference.

    Args:
        name: a stable identifier.
        summary: what is wrong.
        fix: what to write instead.
        evidence: what was seen.
    """

    name: str
    summary: str
    fix: str
    evidence: str


@dataclasses.dataclass(frozen=True)
class LayerError:
    """How far both sides are apart at one place of the network.

    Args:
        module, flax_path: its names.
        edge: "input" for what goes into the module, "output" for what comes out.
        error, allowed: largest difference of the values, and what rounding explains.
        gradient_error, gradient_allowed: the same for the gradients.
    """

    module: str
    flax_path: str
    edge: Literal["input", "output"]
    error: float
    allowed: float
    gradient_error: float = 0.0
    gradient_allowed: float = 0.0


@dataclasses.dataclass(frozen=True)
class Picture:
    """The differences of the array that differs most, small enough to be drawn.

    Args:
        path: the array's name.
        case: in which case.
        shape: of the array.
        cells: largest absolute difference in each cell of a grid laid over the array as a matrix.
        allowed: what rounding explains.
        index: where the largest difference is, in the array.
        cell: the same in the grid: row and column.
        expected, found: the values there, in torch and in Flax.
    """

    path: str
    case: str
    shape: tuple[int, ...]
    cells: tuple[tuple[float, ...], ...]
    allowed: float
    index: tuple[int, ...] | None
    cell: tuple[int, int] | None
    expected: float
    found: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything a check found.

    Args:
        name: the port's name.
        checks: in the order in which they ran.
        first_divergence: where, if anything differs.
        causes: what, likeliest first.
        numbers: the figures of the table of models: parameter counts and errors.
        settings: precision switches and versions in force.
        mapping: a row for each array: torch, flax, transform (in words) and found (what proposed the pair).
        layers: the error at each place of the network, in the order of execution.
        worst_array: the array that differs most; None where all agree.
        gradient_norms: torch name -> norm of the parameter's gradient in torch and in Flax, on the given inputs.
    """

    name: str
    checks: tuple[CheckResult, ...]
    first_divergence: Divergence | None = None
    causes: tuple[Cause, ...] = ()
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    mapping: list[dict[str, str]] = dataclasses.field(default_factory=list)
    layers: tuple[LayerError, ...] = ()
    worst_array: Picture | None = None
    gradient_norms: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def status(self) -> ReportStatus:
        """The verdict: any error or failure decides, then any doubt."""
        found = {check.status for check in self.checks}
        if "error" in found:
            return "error"
        if "failed" in found:
            return "failed"
        if "inconclusive" in found or not found & {"passed", "noted", "constants"}:
            return "inconclusive"
        return "passed"

    @property
    def passed(self) -> bool:
        """Whether the port computes the same, and that was shown."""
        return self.status == "passed"

    @property
    def unjudged(self) -> tuple[CheckResult, ...]:
        """What was asked for and could not be judged: a report that passes says nothing about it."""
        asked = ("gradients", "training mode")
        return tuple(check for check in self.checks if check.status == "skipped" and check.name in asked)

    def check(self, name: str) -> CheckResult:
        """The check called ``name``.

        Raises:
            KeyError: if it did not run.
        """
        for result in self.checks:
            if result.name == name:
                return result
        raise KeyError(f"no check called {name!r}; there are {', '.join(check.name for check in self.checks)}")

    def text(self) -> str:
        """The report for a terminal."""
        from compare.report.text import to_text

        return to_text(self)

    def to_json(self) -> str:
        """The report as JSON; non-finite numbers are the strings "nan", "inf" and "-inf"."""
        from compare.report.jsonable import jsonable

        return json.dumps(jsonable(self), indent=2)

    def to_html(self) -> str:
        """The report as one HTML page that needs no other file and no network."""
        from compare.report.html import to_html

        return to_html(self)

    def save(self, path: str | Path) -> None:
        """Writes the report in the format of the file name's suffix: .txt, .json or .html.

        Raises:
            UsageError: for any other suffix, or where the file can't be written.
        """
        path = Path(path)
        formats = {".txt": self.text, ".json": self.to_json, ".html": self.to_html}
        if path.suffix not in formats:
            raise UsageError(f"{path}: expected a file name that ends in {', '.join(formats)}, found {path.suffix!r}")
        try:
            path.write_text(formats[path.suffix]() + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path}: can't be written ({error.strerror})") from error

    def raise_for_failure(self) -> None:
        """Raises an ``AssertionError`` with the report's text unless the port passed."""
        if not self.passed:
            raise AssertionError(self.text())


@dataclasses.dataclass(frozen=True)
class MutationScore:
    """How many small planted mistakes a check would notice.

    Args:
        planted: how many were tried.
        noticed: how many of them would make the check fail.
        missed: the others, by place.
    """

    planted: int
    noticed: int
    missed: tuple[str, ...] = ()

    def text(self) -> str:
        """One sentence."""
        sentence = f"{self.noticed} of {self.planted} planted mistakes would be noticed"
        return f"{sentence}; not noticed: {', '.join(self.missed)}" if self.missed else sentence
