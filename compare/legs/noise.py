"""Roundings at random: what a computation in this precision can't tell apart from what it was given."""

import math
from collections.abc import Sequence

import torch

from compare.verdict import unit_roundoff

__all__ = ["Noise"]

# So many moves are drawn for one tensor; a larger one repeats them, with a prime period: no row is like the next.
_DRAWN = 65537


class Noise:
    """Moves floating tensors by at most one rounding, at random.

    Args:
        seed: of the moves.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """A moved copy, through which gradients flow."""
        if not tensor.is_floating_point():
            return tensor
        with torch._C.DisableTorchFunction():  # nothing that the model computes
            if tensor.numel() > _DRAWN and not (tensor.requires_grad and torch.is_grad_enabled()):
                moved = tensor.clone()
                self.move(moved)
                return moved
            moved = torch.addcmul(tensor, tensor, self._moves(tensor))
            finite = math.isfinite(moved.detach().sum())  # a sum that overflows only costs a closer look
            return moved if finite else _kept_where_infinite(moved, tensor)

    def move(self, tensor: torch.Tensor) -> None:
        """Moves ``tensor`` in place."""
        if not tensor.is_floating_point():
            return
        # In the order in which its numbers lie: a weight that is read transposed is not brought into another layout.
        flat = tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))
        if flat.numel() <= _DRAWN or not flat.is_contiguous() or not _far_from_infinite(flat):
            moved = torch.addcmul(tensor, tensor, self._moves(tensor))
            tensor.copy_(_kept_where_infinite(moved, tensor))
            return
        flat, drawn = flat.view(-1), self._draw((_DRAWN,), tensor)
        whole = flat.numel() // _DRAWN * _DRAWN
        for part, move in ((flat[:whole].view(-1, _DRAWN), drawn), (flat[whole:], drawn[: flat.numel() - whole])):
            part.addcmul_(part, move)

    def _moves(self, tensor: torch.Tensor) -> torch.Tensor:
        count = tensor.numel()
        if count <= _DRAWN:
            return self._draw(tensor.shape, tensor)
        return self._draw((_DRAWN,), tensor).repeat(-(-count // _DRAWN))[:count].view(tensor.shape)

    def _draw(self, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        # A relative move of 2u, uniform in sign and size, rounds to the neighbouring number about half of the time.
        size = 2 * unit_roundoff(str(like.dtype).removeprefix("torch."))
        return torch.empty(shape, dtype=like.dtype).uniform_(-size, size, generator=self.generator)


def _far_from_infinite(tensor: torch.Tensor) -> bool:
    lowest, highest = torch.aminmax(tensor)
    return max(-float(lowest), float(highest)) < torch.finfo(tensor.dtype).max / 2


def _kept_where_infinite(moved: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    # A mask's -inf and its finfo.min are no results that rounding moves, and there is no neighbour beyond them.
    return torch.where(moved.isfinite(), moved, tensor)
