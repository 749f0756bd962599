"""Charts of a report as plain HTML and SVG: no script, no picture file, readable at any width."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from compare.result import LayerError, Picture

__all__ = ["error_profile", "gradient_norms", "heatmap"]

# float64 cannot tell smaller differences from none, at any scale that a network works in.
_SMALLEST = 1e-20


class _LogAxis:
    """Positions in percent on a logarithmic axis: zero at the left end, what is not finite at the right one."""

    def __init__(self, values: Iterable[float]) -> None:
        shown = [max(value, _SMALLEST) for value in values if math.isfinite(value) and value > 0]
        self.low = math.floor(math.log10(min(shown, default=1e-16))) - 1
        self.high = max(math.ceil(math.log10(max(shown, default=1.0))), self.low + 2)

    def percent(self, value: float) -> float:
        if not math.isfinite(value):
            return 100.0
        exponent = math.log10(max(value, 10.0**self.low))
        return round(100.0 * min((exponent - self.low) / (self.high - self.low), 1.0), 2)

    def row(self) -> str:
        """The row of tick labels, at most seven."""
        step = max(math.ceil((self.high - self.low) / 6), 1)
        ticks = range(self.low + step, self.high + 1, step)
        labels = "".join(f'<span style="left:{self.percent(10.0**tick)}%">1e{tick}</span>' for tick in ticks)
        return f'<li class="axis" aria-hidden="true"><span></span><span class="track">{labels}</span><span></span></li>'


def error_profile(layers: Sequence[LayerError], direction: str) -> str:
    """Each layer's largest difference on a log axis, against what rounding explains there.

    Args:
        layers: in the order of execution.
        direction: "forward" for values, "backward" for gradients.
    """
    backward = direction == "backward"
    points = [
        (layer, layer.gradient_error, layer.gradient_allowed) if backward else (layer, layer.error, layer.allowed)
        for layer in layers
    ]
    axis = _LogAxis(value for _, error, allowed in points for value in (error, allowed))
    rows = [_profile_row(axis, f"{direction}-{i}", *point) for i, point in enumerate(points)]
    return f'<ol class="chart">{axis.row()}{"".join(rows)}</ol>'


def _profile_row(axis: _LogAxis, anchor: str, layer: LayerError, error: float, allowed: float) -> str:
    bad = "" if error <= allowed else ' class="bad"'
    side = "into" if layer.edge == "input" else "out of"
    told = f"{side} {layer.module}: differs by {error:.3g}, rounding explains {allowed:.3g}"
    return (
        f'<li id="{anchor}"{bad} title="{escape(told)}"><a href="#{anchor}"><span class="edge">{side}</span> '
        f'{escape(layer.module)}</a><span class="track"><i style="width:{axis.percent(allowed)}%"></i>'
        f'<b style="left:{axis.percent(error)}%"></b></span><span class="number">{error:.1e}</span></li>'
    )


def gradient_norms(norms: dict[str, tuple[float, float]]) -> str:
    """The Euclidean norm of each parameter's gradient on both sides, torch a dot and Flax a square around it."""
    axis = _LogAxis(norm for pair in norms.values() for norm in pair)
    rows = [
        f'<li title="{escape(f"{name}: torch {ours:.6g}, Flax {theirs:.6g}")}"><span>{escape(name)}</span>'
        f'<span class="track"><b style="left:{axis.percent(ours)}%"></b>'
        f'<b class="second" style="left:{axis.percent(theirs)}%"></b></span>'
        f'<span class="number">{ours:.1e}</span></li>'
        for name, (ours, theirs) in norms.items()
    ]
    return f'<ol class="chart">{axis.row()}{"".join(rows)}</ol>'


def heatmap(picture: Picture) -> str:
    """The differences of one array: the darker a cell, the larger, on a log scale down to what rounding explains."""
    rows, columns = len(picture.cells), max(len(row) for row in picture.cells)
    axis = _LogAxis([picture.allowed, *(cell for row in picture.cells for cell in row)])
    floor = axis.percent(picture.allowed)
    marks = []
    for i, row in enumerate(picture.cells):
        for j, cell in enumerate(row):
            if cell <= picture.allowed:
                continue
            shade = 0.15 + 0.85 * (axis.percent(cell) - floor) / max(100.0 - floor, 1e-9)
            marks.append(f'<rect x="{j}" y="{i}" width="1" height="1" fill-opacity="{shade:.2f}"/>')
    if picture.cell is not None:
        marks.append(f'<rect class="spot" x="{picture.cell[1]}" y="{picture.cell[0]}" width="1" height="1"/>')
    label = f"differences in {picture.path}"
    return (
        f'<svg class="heat" viewBox="0 0 {columns} {rows}" role="img" aria-label="{escape(label)}" '
        f'shape-rendering="crispEdges">{"".join(marks)}</svg>'
    )
