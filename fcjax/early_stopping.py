"""When to stop, by the validation loss of each replica, and the weights of its best epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

__all__ = ["Standing", "merged", "standings"]


@dataclass(frozen=True)
class Standing:
    """How far one replica has come.

    Args:
        best: its epoch with the least validation loss, from 1; 0 before any loss was a number.
        stopped: the loss has not fallen for ``patience`` epochs since. What comes later doesn't count.
    """

    best: int
    stopped: bool


def standings(losses: Sequence[Sequence[float | None]], patience: int) -> list[Standing]:
    """The standing of every replica: the same whether it is trained alone or beside others.

    Args:
        losses: of each epoch, one per replica; None or NaN where it was no number.
        patience: epochs without a lesser loss after which a replica stops.
    """
    return [_standing(own, patience) for own in zip(*losses, strict=True)]


def _standing(losses: Sequence[float | None], patience: int) -> Standing:
    best, least = 0, float("inf")
    for epoch, loss in enumerate(losses, start=1):
        if loss is not None and loss < least:  # NaN never is
            best, least = epoch, loss
        elif epoch - best >= patience:
            return Standing(best, stopped=True)
    return Standing(best, stopped=False)


def merged(old: Any, new: Any, takes_new: Sequence[bool]) -> Any:
    """For every replica the arrays of ``new`` or of ``old``, on the host.

    Args:
        old, new: trees of arrays; with several replicas each has a leading replica axis.
        takes_new: one entry per replica.
    """
    if all(takes_new):
        return jax.tree.map(lambda leaf: np.array(leaf, copy=True), new)
    if not any(takes_new):
        return old
    chosen = np.asarray(takes_new)
    return jax.tree.map(lambda a, b: np.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), b, a), old, new)
