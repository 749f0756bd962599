"""A report for the terminal and for a test's failure message."""

from compare.result import CheckResult, Divergence, Leaf, Report

__all__ = ["to_text"]

_MARKS = {
    "passed": "ok  ",
    "failed": "FAIL",
    "noted": "note",
    "constants": "note",
    "skipped": "skip",
    "error": "ERR ",
    "inconclusive": "????",
}
_LEAVES_SHOWN = 8


def to_text(report: Report) -> str:
    """Verdict first, then where and what, then the checks with the arrays that disagree."""
    lines = [f"{report.name}: {report.status}"]
    if report.passed and report.unjudged:
        lines[0] += f", but not judged: {'; '.join(f'{check.name} ({check.detail})' for check in report.unjudged)}"
    if (place := report.first_divergence) is not None:
        module = place.module or "the model itself"
        flax_path = f" (Flax: {place.flax_path})" if place.flax_path else ""
        step = "" if place.step is None else f"step {place.step}, {(place.quantity or '').replace('_', ' ')}, "
        lines.append(f"  first difference, {place.direction}: {step}{place.where} {module}{flax_path}, {_sizes(place)}")
    for cause in report.causes:
        lines += [f"  cause: {cause.name}: {cause.summary}", f"    fix: {cause.fix}", f"    seen: {cause.evidence}"]
    for check in report.checks:
        lines += _check_lines(check)
    lines.append("  settings: " + ", ".join(f"{key} {value}" for key, value in report.settings.items()))
    return "\n".join(lines)


def _check_lines(check: CheckResult) -> list[str]:
    lines = [f"  {_MARKS[check.status]} {check.name}: {check.detail}"]
    bad = [leaf for leaf in check.leaves if not leaf.agrees]
    if check.status in ("failed", "error", "noted"):
        lines += [f"         {_leaf_line(leaf)}" for leaf in bad[:_LEAVES_SHOWN]]
        if len(bad) > _LEAVES_SHOWN:
            lines.append(f"         and {len(bad) - _LEAVES_SHOWN} more")
    return lines


def _leaf_line(leaf: Leaf) -> str:
    name = leaf.path or "output"
    if leaf.detail:
        return f"{name}: {leaf.detail}"
    at = f" at {list(leaf.index)}" if leaf.index is not None else ""
    return f"{name}: {_sizes(leaf)}{at}"


def _sizes(value: Leaf | Divergence) -> str:
    return f"differs by {value.error:.3g}, rounding explains {value.allowed:.3g}"
