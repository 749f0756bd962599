"""A mapping as a table for people and for JSON."""

from collections.abc import Sequence

from compare.mapping.weight_mapping import WeightMapping

__all__ = ["Row", "rows", "table"]

Row = dict[str, str]

_FOUND = {"agreement": "confirmed by agreement"}
_COLUMNS = ("torch", "flax", "transform", "found")


def rows(mapping: WeightMapping) -> list[Row]:
    """One row per rule, in torch's names: torch, flax, transform (in words), found (what proposed the pair)."""
    found = [
        _row(rule.source, rule.target, rule.describe(), _FOUND.get(rule.found, rule.found)) for rule in mapping.rules
    ]
    found += [_row(name, "", "", "no counterpart by nature") for name in mapping.without_counterpart]
    found += [_row("", path, "", "no counterpart by nature") for path in mapping.flax_only]
    for problem in (*mapping.problems, *mapping.idle):
        name, path = (("", problem.name), (problem.name, ""))[problem.side == "torch"]
        found.append(_row(name, path, "", f"not placed: {problem.detail}"))
    return found


def _row(*cells: str) -> Row:
    return dict(zip(_COLUMNS, cells, strict=True))


def table(found: Sequence[Row]) -> str:
    """``rows`` as aligned lines under a heading."""
    lines = [("torch", "Flax", "transform", "found by"), *(tuple(row[c] or "-" for c in _COLUMNS) for row in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
