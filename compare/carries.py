"""Arrays at one edge in torch's order, where Flax has them in another.

A cell of torch's takes ``x, (h, c)`` and returns ``h, c``; one of Flax's takes ``(c, h), x`` and returns ``(c, h), h``.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence

import numpy as np
import torch

from compare.legs.watch import Checkpoint

__all__ = ["in_torch_order", "recurrent_modules"]

# Of more arrays there are too many orders.
_MOST_ARRAYS = 5


def recurrent_modules(model: torch.nn.Module) -> frozenset[str]:
    """Names of the recurrent cells and layers of ``model``, whose state both frameworks hand on in their own ways."""
    kinds = torch.nn.RNNBase, torch.nn.RNNCellBase
    return frozenset(name for name, module in model.named_modules() if isinstance(module, kinds))


def in_torch_order(
    reference: Sequence[Checkpoint],
    found: Sequence[Checkpoint],
    pairs: Mapping[str, str],
    recurrent: Container[str] = frozenset(),
) -> tuple[Checkpoint, ...]:
    """``found`` with the arrays of each edge in the order in which torch has them.

    An order is looked for only where shapes show that they are not the same, and at recurrent modules. All calls of a
    module have the same one: that which brings the arrays closest.

    Args:
        reference: torch's checkpoints.
        found: Flax's.
        pairs: torch module name -> Flax path.
        recurrent: torch modules whose arrays may come in another order though their shapes fit.
    """
    ours, theirs = _by_edge(reference), _by_edge(found)
    orders: dict[tuple[str, str], Sequence[int]] = {}
    for (module, edge), calls in ours.items():
        key = pairs.get(module, ""), edge
        if key[0] and key in theirs:
            order = _order(calls, theirs[key], module in recurrent)
            if order is not None:
                orders[key] = order
    return tuple(_reordered(checkpoint, orders.get((checkpoint.module, checkpoint.edge))) for checkpoint in found)


def _by_edge(checkpoints: Sequence[Checkpoint]) -> dict[tuple[str, str], list[Checkpoint]]:
    calls: dict[tuple[str, str], list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        calls[checkpoint.module, checkpoint.edge].append(checkpoint)
    return calls


def _order(ours: Sequence[Checkpoint], theirs: Sequence[Checkpoint], recurrent: bool) -> Sequence[int] | None:
    """The order of Flax's arrays that is torch's; None where it is already, or nothing fits."""
    shapes, others = ([array.shape for array in calls[0].arrays] for calls in (ours, theirs))
    if (shapes == others and not recurrent) or not shapes or len(others) > _MOST_ARRAYS:
        return None
    fitting = [
        order
        for order in itertools.permutations(range(len(others)), min(len(shapes), len(others)))
        if all(shapes[k] == others[i] for k, i in enumerate(order))
    ]
    if not fitting:
        return None
    best = min(fitting, key=lambda order: sum(_apart(a, b, order) for a, b in zip(ours, theirs, strict=False)))
    return None if best == tuple(range(len(others))) else best


def _apart(ours: Checkpoint, theirs: Checkpoint, order: Sequence[int]) -> float:
    """How far the arrays are from one another, each by its size and at most by 1."""
    total = 0.0
    for array, i in zip(ours.arrays, order, strict=False):
        if i >= len(theirs.arrays) or theirs.arrays[i].shape != array.shape:
            return float(len(order))
        size = float(np.abs(array).max(initial=0.0)) or 1.0
        with np.errstate(invalid="ignore"):
            error = float(np.abs(array - theirs.arrays[i]).max(initial=0.0)) / size
        total += error if error <= 1.0 else 1.0  # NaN counts as far
    return total


def _reordered(checkpoint: Checkpoint, order: Sequence[int] | None) -> Checkpoint:
    if order is None or max(order) >= len(checkpoint.arrays):
        return checkpoint
    # An array that Flax hands on twice has a share of the gradient each time.
    whole = bool(checkpoint.gradients) and len(order) == len(checkpoint.arrays)
    gradients = tuple(checkpoint.gradients[i] for i in order) if whole else ()
    return dataclasses.replace(checkpoint, arrays=tuple(checkpoint.arrays[i] for i in order), gradients=gradients)
