"""Calls that are made again and again (steps of a recurrent net, layers of a stack), and calls inside of calls."""

import re
from collections.abc import Sequence

from compare.hypotheses.edit import CallSite, Edit

__all__ = ["again", "nesting", "phases"]


def _role(site: CallSite) -> tuple[object, ...]:
    """What a call does, but not in which turn: layers differ in their number, q and k in their heads."""
    names = tuple(re.sub(r"\d+", "#", name) for name in (site.module, *site.parameters))
    ranks = tuple((len(shape), *shape[-1:]) for shape in site.shapes)
    return site.function, names, ranks, site.scalars


def again(edits: Sequence[Edit], sites: Sequence[CallSite]) -> tuple[Edit, ...]:
    """The same edits in every turn of the loop that they stand in; these alone where there is none."""
    numbered = {site.number: site for site in sites}
    found = {edit.site.number: edit for edit in edits}
    first, taken = edits[0].site, frozenset(found)
    for site in sites:
        shift = site.number - first.number
        if site.number in taken or _role(site) != _role(first):
            continue
        others = [numbered.get(edit.site.number + shift) for edit in edits]
        if all(o and o.number not in found and _role(o) == _role(e.site) for o, e in zip(others, edits, strict=True)):
            found |= {o.number: Edit(o, e.replace) for o, e in zip(others, edits, strict=True) if o}
    return tuple(found[number] for number in sorted(found))


def phases(sites: Sequence[CallSite]) -> list[list[CallSite]]:
    """For each call of the longest loop among ``sites``, the same call in all of its turns; empty if there is none."""
    roles = [_role(site) for site in sites]
    best = (0, 0, 0)  # length, start, period
    for period in range(1, len(sites) // 2 + 1):
        start = 0
        for i in range(len(sites)):
            alike = i + period < len(sites) and roles[i] == roles[i + period]
            if not alike:
                length = i - start + period
                if i > start and length >= 2 * period and length > best[0]:
                    best = (length, start, period)
                start = i + 1
    length, start, period = best
    return [list(sites[start + k : start + length : period]) for k in range(period)]


def nesting(sites: Sequence[CallSite]) -> dict[int, int]:
    """By number of a call, of how many others it is a part."""
    whole = [range(site.number + 1, site.number + site.span + 1) for site in sites if site.span]
    return {site.number: sum(site.number in parts for parts in whole) for site in sites}
