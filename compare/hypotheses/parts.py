"""What is taken apart or put together in another order: chunks, slices, blocks of an axis, factors of its length."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from compare.hypotheses.edit import CallSite, Edit, Hypothesis
from compare.hypotheses.variant import Variant, after, on_operand

__all__ = ["part_orders", "taken_apart"]

# Gates, q, k and v, scale and shift: more parts than these are not told apart by hand.
_MOST_PARTS = 4
_TAKING = {"chunk", "split", "tensor_split", "__getitem__", "narrow", "select", "unflatten", "view", "reshape"}


def part_orders(site: CallSite) -> Iterator[Variant]:
    """The parts of one call in another order, or an axis split into its factors the other way round."""
    if site.function in ("chunk", "split", "tensor_split", "unbind") and site.returned > 1:
        fix = "give each part torch's meaning"
        for order in _orders(site.returned):
            name = "halves_swapped" if site.returned == 2 else "parts_order"
            words = f"the parts of {site.function} are taken in the order {order}"
            yield name, words, fix, lambda f, a, k, order=order: tuple(f(*a, **k)[i] for i in order)  # type: ignore[misc]
    if site.function in ("reshape", "view", "unflatten") and site.shapes and site.result:
        taken = site.result
        for i, j in itertools.combinations(range(len(taken)), 2):
            if taken[i] != taken[j] and len(taken) > len(site.shapes[0]):
                other = list(taken)
                other[i], other[j] = other[j], other[i]
                yield (
                    "reshape_order",
                    f"{site.function} splits into lengths {tuple(other)}, torch into {taken}",
                    "split in torch's order",
                    lambda f, a, k, other=tuple(other): a[0].reshape(other),  # type: ignore[misc]
                )
    shape = site.result or ()
    for axis in (axis for axis, size in enumerate(shape) if 2 < size <= _MOST_PARTS):
        for order in _orders(shape[axis]):
            words = f"axis {axis} of what {site.function} returns is taken in the order {order}"
            yield "parts_order", words, "keep the order", after(functools.partial(_entries, axis=axis, order=order))


def taken_apart(near: Sequence[CallSite]) -> Iterator[Hypothesis]:
    """An array of which several calls take their parts, its blocks in another order in all of them."""
    groups: dict[tuple[object, ...], list[CallSite]] = {}
    for site in near:
        if site.function in _TAKING and site.sources:
            groups.setdefault((site.sources[0], site.shapes[0]), []).append(site)
    apart = [group for group in groups.values() if len(group) > 1 or group[0].function not in ("view", "reshape")]
    together = [[site for group in apart for site in group]] if len(apart) > 1 else []
    for sites in [*apart, *together]:
        for name, words, change in _blocks([site.shapes[0] for site in sites]):
            edits = tuple(Edit(site, on_operand(0, change)) for site in sites)
            where = f"{sites[0].place}: " if len(sites) == 1 else ""
            yield Hypothesis(name, f"{where}{words} of what is taken apart", "split the axis as torch does", edits)


def _blocks(shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[str, str, Callable[[torch.Tensor], torch.Tensor]]]:
    """Blocks of one axis in another order, and in turns for one after the other."""
    rank = min(len(shape) for shape in shapes)
    for axis in range(-1, -rank, -1):
        for parts in range(2, _MOST_PARTS + 1):
            if any(shape[axis] % parts or shape[axis] == parts for shape in shapes):
                continue
            for order in _orders(parts):
                name = "halves_swapped" if parts == 2 else "parts_order"
                words = f"the {parts} blocks of axis {axis} are taken in the order {order},"
                yield name, words, functools.partial(_reordered, axis=axis, order=order)
        for parts in dict.fromkeys([2, 3, 4, *(shape[axis] // n for shape in shapes[:1] for n in (2, 3, 4))]):
            if parts > 1 and not any(shape[axis] % parts or shape[axis] == parts for shape in shapes):
                words = f"axis {axis} holds {parts} parts in turns where torch has one after the other, in all"
                yield "parts_interleaved", words, functools.partial(_turned, axis=axis, parts=parts)


def _orders(parts: int) -> Iterator[tuple[int, ...]]:
    if parts <= _MOST_PARTS:
        yield from itertools.islice(itertools.permutations(range(parts)), 1, None)


def _entries(x: torch.Tensor, axis: int, order: Sequence[int]) -> torch.Tensor:
    return torch.cat([x.narrow(axis, i, 1) for i in order], axis)


def _reordered(x: torch.Tensor, axis: int, order: Sequence[int]) -> torch.Tensor:
    parts: Any = x.chunk(len(order), axis)
    return torch.cat([parts[i] for i in order], axis)


def _turned(x: torch.Tensor, axis: int, parts: int) -> torch.Tensor:
    return x.unflatten(axis, (parts, -1)).transpose(axis - 1, axis).flatten(axis - 1, axis)
