"""Mistakes in fused attention: masks, and into how many heads the features are divided."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from compare.hypotheses.call_arguments import Replacement, given
from compare.hypotheses.edit import CallSite
from compare.hypotheses.variant import Maker, Variant

__all__ = ["ATTENTION"]

_NUM_HEADS = 4  # its place among the arguments of torch's multi_head_attention_forward


def _masks(site: CallSite) -> Iterator[Variant]:
    def masked(keep: Callable[[int, int], torch.Tensor]) -> Replacement:
        def replace(func: Any, args: Any, kwargs: Any) -> Any:
            call = given(site.function, func, args, kwargs)
            query, key = call["query"], call["key"]
            rest = {name: call[name] for name in ("scale", "enable_gqa") if call.get(name) is not None}
            return func(query, key, call["value"], attn_mask=keep(query.shape[-2], key.shape[-2]), **rest)

        return replace

    def ones(rows: int, columns: int) -> torch.Tensor:
        return torch.ones(rows, columns, dtype=torch.bool)

    yield (
        "attention_causal" if not site.arguments.get("is_causal") else "attention_not_causal",
        "the attention is causal" if not site.arguments.get("is_causal") else "the attention looks ahead",
        "pass the mask that torch has",
        masked((lambda n, m: ones(n, m).tril()) if not site.arguments.get("is_causal") else ones),
    )
    yield "attention_mask_missing", "the mask is not applied", "pass the mask", masked(ones)
    for name, words, keep in (
        ("attention_mask_direction", "the mask hides the past, not the future", lambda n, m: ones(n, m).triu()),
        ("attention_mask_shifted", "the mask lets each position see the next one", lambda n, m: ones(n, m).tril(1)),
        ("attention_mask_shifted", "the mask hides each position from itself", lambda n, m: ones(n, m).tril(-1)),
    ):
        yield name, words, "hide the positions after one's own: tril", masked(keep)

    def inverted(func: Any, args: Any, kwargs: Any) -> Any:
        call = given(site.function, func, args, kwargs)
        mask = call["attn_mask"]
        keep = mask.logical_not() if mask.dtype == torch.bool else -mask
        return func(call["query"], call["key"], call["value"], attn_mask=keep)

    yield "attention_mask_inverted", "the mask keeps what torch hides", "True means: take part", inverted


def _packed(site: CallSite) -> Iterator[Variant]:
    """Of ``nn.MultiheadAttention``, which is told the number."""
    heads, features = site.arguments.get("num_heads", site.arguments.get(_NUM_HEADS)), site.shapes[0][-1]
    if isinstance(heads, int):
        yield from _counts(heads, features, _told)


def _apart(site: CallSite) -> Iterator[Variant]:
    """Of arrays ``(batch, head, length, features)``, all with as many heads."""
    shapes = site.shapes[:3]
    if all(len(shape) == 4 for shape in shapes) and len({shape[1] for shape in shapes}) == 1:
        heads, features = shapes[0][1], shapes[0][3]
        if all(shape[3] == features for shape in shapes):
            yield from _counts(heads, heads * features, _regrouped)


def _counts(heads: int, features: int, replace: Any) -> Iterator[Variant]:
    for count in (n for n in range(1, features + 1) if features % n == 0 and n != heads):
        words = f"attention has {count} head{'s' * (count > 1)}, torch has {heads}"
        yield "head_count", words, f"num_heads={heads}", partial(replace, count)


def _told(count: int, func: Any, args: Any, kwargs: Any) -> Any:
    if len(args) > _NUM_HEADS:
        return func(*args[:_NUM_HEADS], count, *args[_NUM_HEADS + 1 :], **kwargs)
    return func(*args, **{**kwargs, "num_heads": count})


def _regrouped(count: int, func: Any, args: Any, kwargs: Any) -> Any:
    """The same features in ``count`` heads, and what comes out in torch's again."""
    heads = args[0].shape[1]
    query, key, value = (_heads(x, count) for x in args[:3])
    return _heads(func(query, key, value, *args[3:], **kwargs), heads)


def _heads(x: torch.Tensor, count: int) -> torch.Tensor:
    # (batch, head, length, features) -> (batch, length, all features) -> (batch, count, length, features of each)
    return x.transpose(1, 2).flatten(2).unflatten(-1, (count, -1)).transpose(1, 2)


ATTENTION: dict[str, tuple[Maker, ...]] = {
    F.multi_head_attention_forward.__name__: (_packed,),
    "scaled_dot_product_attention": (_masks, _apart),
}
