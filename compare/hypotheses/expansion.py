"""Composite calls taken apart: an attention as the projections, products and softmax that it is made of.

A mistake inside such a call (another scale, heads split otherwise, a softmax over another axis) is then an edit of one
of its parts, like any other.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["EXPANSIONS", "Expansion"]


@dataclasses.dataclass(frozen=True)
class Expansion:
    """Another way to compute a call.

    Args:
        compute: takes the call's arguments.
        fits: whether it computes the same for these arguments.
    """

    compute: Callable[..., Any]
    fits: Callable[..., bool]


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """``softmax(query keyᵀ / sqrt(d) + mask) value`` over the last two axes."""
    return torch.matmul(_shares(query, key, attn_mask, is_causal, scale), value)


def _shares(
    query: torch.Tensor, key: torch.Tensor, attn_mask: torch.Tensor | None, is_causal: bool, scale: float | None
) -> torch.Tensor:
    scores = torch.matmul(query, key.transpose(-2, -1))
    scores = torch.div(scores, math.sqrt(query.size(-1))) if scale is None else torch.mul(scores, scale)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    elif attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(attn_mask.logical_not(), -math.inf)
        else:
            scores = torch.add(scores, attn_mask)
    return torch.softmax(scores, dim=-1)


def _attention_fits(*args: Any, **kwargs: Any) -> bool:
    given = inspect.signature(_attention).bind(*args, **kwargs).arguments
    return not given.get("dropout_p") and not given.get("enable_gqa")


def _multi_head(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Packed projections, heads, attention and the output projection; arrays are (length, batch, features)."""
    given = _bound(args, kwargs)
    query, key, value, heads = given["query"], given["key"], given["value"], given["num_heads"]
    weights, biases = given["in_proj_weight"].chunk(3), given["in_proj_bias"].chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    # (length, batch, features) -> (batch, head, length, features of a head)
    q, k, v = (x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for x in (q, k, v))
    mask, padding = _additive(given["attn_mask"]), _additive(given["key_padding_mask"])
    if padding is not None:
        padding = padding[:, None, None, :]
        mask = padding if mask is None else mask + padding
    shares = _shares(q, k, mask, False, None)
    joined = torch.matmul(shares, v).permute(2, 0, 1, 3).flatten(-2)
    out = F.linear(joined, given["out_proj_weight"], given["out_proj_bias"])
    if not given["need_weights"]:
        return out, None
    return out, shares.mean(1) if given["average_attn_weights"] else shares


def _additive(mask: torch.Tensor | None) -> torch.Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape).masked_fill(mask, -math.inf)


def _multi_head_fits(*args: Any, **kwargs: Any) -> bool:
    given = _bound(args, kwargs)
    absent = ("bias_k", "bias_v", "static_k", "static_v", "add_zero_attn", "use_separate_proj_weight")
    dropping = given["training"] and given["dropout_p"]
    three = given["attn_mask"] is not None and given["attn_mask"].dim() == 3  # one mask per head
    whole = given["query"].dim() == 3 and given["in_proj_bias"] is not None
    return whole and not dropping and not three and not any(given[name] not in (None, False) for name in absent)


def _bound(args: Any, kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


EXPANSIONS: dict[str, Expansion] = {
    "scaled_dot_product_attention": Expansion(_attention, _attention_fits),
    "multi_head_attention_forward": Expansion(_multi_head, _multi_head_fits),
}
"""By name of the call."""
