"""A mistake in a part of an array alone: at the class token, in the first step, in the last channel."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from compare.hypotheses.bank import variants
from compare.hypotheses.call_arguments import Replacement
from compare.hypotheses.edit import CallSite, Edit, Hypothesis

__all__ = ["Block", "differing_block", "partial"]


@dataclasses.dataclass(frozen=True)
class Block:
    """The entries ``start`` to ``stop`` of an axis of a given length."""

    axis: int
    start: int
    stop: int
    length: int

    def __str__(self) -> str:
        entries = f"entry {self.start}" if self.stop - self.start == 1 else f"entries {self.start} to {self.stop - 1}"
        return f"{entries} of axis {self.axis}"


def differing_block(ours: np.ndarray, theirs: np.ndarray, allowed: float) -> Block | None:
    """Where two arrays differ, if that is the beginning, the end or one entry of an axis other than the batch's."""
    if ours.shape != theirs.shape:
        return None
    places = np.nonzero(~(np.abs(ours - theirs) <= allowed))
    found = []
    for axis, length in list(enumerate(ours.shape))[1:]:
        start, stop = (int(places[axis].min()), int(places[axis].max()) + 1) if len(places[axis]) else (0, 0)
        if 0 < stop - start < length and (start == 0 or stop == length or stop - start == 1):
            found.append(Block(axis, start, stop, length))
    return min(found, key=lambda block: (block.stop - block.start) / block.length, default=None)


def partial(near: Sequence[CallSite], ours: np.ndarray, theirs: np.ndarray, allowed: float) -> Iterator[Hypothesis]:
    """What is known to go wrong in a call, where the arrays differ alone; seen in the call's own axes, too."""
    for site in near:
        if ours.shape != theirs.shape or not site.result or int(np.prod(site.result)) != ours.size:
            continue
        block = differing_block(ours.reshape(site.result), theirs.reshape(site.result), allowed)
        if block is None:
            continue
        for name, summary, fix, replace in variants(site):
            words = f"{site.place}: {summary}, at {block} alone"
            yield Hypothesis(name, words, fix, (Edit(site, _within(block, replace)),))


def _within(block: Block, replace: Replacement) -> Replacement:
    def replaced(func: Any, args: Any, kwargs: Any) -> Any:
        right, wrong = func(*args, **kwargs), replace(func, args, kwargs)
        if not isinstance(right, torch.Tensor) or right.shape != wrong.shape:
            raise ValueError("no array of that shape")
        inside = torch.zeros(right.shape[block.axis], dtype=torch.bool)
        inside[block.start : block.stop] = True
        return torch.where(inside.reshape(-1, *[1] * (right.dim() - block.axis - 1)), wrong, right)

    return replaced
