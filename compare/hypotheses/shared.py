"""One number of the port's that torch's code writes in several places: an axis, a bound, a temperature."""

from collections.abc import Iterator, Sequence

from compare.hypotheses.arguments import axis_arguments
from compare.hypotheses.call_arguments import with_arguments
from compare.hypotheses.edit import CallSite, Edit, Hypothesis
from compare.hypotheses.variant import Knob

__all__ = ["same_axes", "same_numbers"]


def same_axes(near: Sequence[CallSite]) -> Iterator[Hypothesis]:
    """Another axis at every call that works along one axis (a mean and the deviation from it)."""
    groups: dict[tuple[int, int], list[tuple[CallSite, str | int]]] = {}
    for site in near:
        for key, axis in axis_arguments(site):
            rank = len(site.shapes[0])
            groups.setdefault((rank, axis % rank), []).append((site, key))
    for (rank, axis), places in groups.items():
        if len({site.function for site, _ in places}) < 2:
            continue
        for other in (k for k in range(rank) if k != axis):
            edits = tuple(Edit(site, with_arguments(site.function, {key: other})) for site, key in places)
            functions = ", ".join(dict.fromkeys(site.function for site, _ in places))
            words = f"{functions} run over axis {other}, torch's over {axis}"
            yield Hypothesis("wrong_axis", words, f"use axis {axis}", edits)


def same_numbers(found: Sequence[tuple[CallSite, Sequence[Knob]]]) -> Iterator[tuple[list[CallSite], list[Knob]]]:
    """Calls of several functions with the same number in them, and the knob of each."""
    groups: dict[float, list[tuple[CallSite, Knob]]] = {}
    for site, knobs in found:
        for knob in knobs:
            if not knob.logarithmic and abs(knob.start) not in (0.0, 1.0):
                groups.setdefault(knob.start, []).append((site, knob))
    for places in groups.values():
        if len({site.function for site, _ in places}) > 1 and len({site.number for site, _ in places}) == len(places):
            yield [site for site, _ in places], [knob for _, knob in places]
