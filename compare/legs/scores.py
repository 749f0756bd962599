"""How large attention scores become, and whether some are masked."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Scores"]

# Scores of ordinary weights are far smaller; what hides an entry is at or below it: -1e4, -1e9, finfo.min, -inf.
_HIDES = -1e3


class Scores(TorchFunctionMode):
    """Watches what goes into softmax and fused attention while a model runs.

    Attributes:
        largest: the largest finite score; of fused attention a bound, the product of the longest query and key.
        masked: whether some entries are hidden from softmax.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0.0
        self.masked = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "softmax" and args and args[0].is_floating_point():
            self._see(args[0])
        elif name == "scaled_dot_product_attention":
            self._see_fused(*args, **kwargs)
        return func(*args, **kwargs)

    def _see(self, scores: torch.Tensor) -> None:
        finite = scores[scores.isfinite()]
        self.largest = max(self.largest, float(finite.max()) if finite.numel() else 0.0)
        self.masked |= bool((scores <= _HIDES).any())

    def _see_fused(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **_: Any,
    ) -> None:
        if query.numel() and key.numel():
            bound = float(query.norm(dim=-1).max() * key.norm(dim=-1).max())
            self.largest = max(self.largest, bound * (query.shape[-1] ** -0.5 if scale is None else abs(scale)))
        self.masked |= attn_mask is not None or is_causal
