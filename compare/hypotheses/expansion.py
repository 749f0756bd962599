"""Composite calls taken apart: an attention as projections, products and softmax, a recurrent layer as its steps.

A mistake inside such a call (another scale, heads split otherwise, another function of a gate) is then an edit of one
of its parts, like any other; of the same part of every step.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
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


def _recurrent(function: str, *args: Any) -> Any:
    """Recurrent layers apart: one in one direction by its steps, several as a call for each layer and direction.

    Arguments are those of ``torch.lstm`` and ``torch.gru``.
    """
    x, initial, weights, biases, layers, _, train, both, batch_first = args
    x = x.transpose(0, 1) if batch_first else x  # (time, batch, features)
    initial = initial if function == "lstm" else (initial,)
    per_turn, turns, last = 4 if biases else 2, 2 if both else 1, []
    for layer in range(layers):
        directions = []
        for direction in range(turns):
            number = layer * turns + direction
            state = tuple(part[number : number + 1] for part in initial)
            mine = weights[number * per_turn : (number + 1) * per_turn]
            if layers * turns == 1:
                outputs, *state = _by_steps(function, x, state, mine)
            else:
                call, given = _CALLS[function], state if function == "lstm" else state[0]
                read = x.flip(0) if direction else x
                outputs, *state = call(read, given, mine, biases, 1, 0.0, train, False, False)
            directions.append(outputs.flip(0) if direction else outputs)
            last.append(state)
        x = torch.cat(directions, -1) if both else directions[0]
    output = x.transpose(0, 1) if batch_first else x
    return output, *(torch.cat(parts) for parts in zip(*last, strict=True))


def _by_steps(function: str, x: torch.Tensor, initial: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> Any:
    state, outputs = tuple(part[0] for part in initial), []
    for step in x:
        state = _STEPS[function](step, *state, *weights)
        outputs.append(state[0])
    return torch.stack(outputs), *(part.unsqueeze(0) for part in state)


def _lstm_step(x: Any, h: Any, c: Any, w_x: Any, w_h: Any, b_x: Any = None, b_h: Any = None) -> Any:
    i, f, g, o = torch.add(F.linear(x, w_x, b_x), F.linear(h, w_h, b_h)).chunk(4, -1)
    c = torch.add(torch.mul(torch.sigmoid(f), c), torch.mul(torch.sigmoid(i), torch.tanh(g)))
    return torch.mul(torch.sigmoid(o), torch.tanh(c)), c


def _gru_step(x: Any, h: Any, w_x: Any, w_h: Any, b_x: Any = None, b_h: Any = None) -> Any:
    (a, b, c), (d, e, f) = F.linear(x, w_x, b_x).chunk(3, -1), F.linear(h, w_h, b_h).chunk(3, -1)
    r, z = torch.sigmoid(torch.add(a, d)), torch.sigmoid(torch.add(b, e))
    n = torch.tanh(torch.add(c, torch.mul(r, f)))
    return (torch.add(torch.mul(torch.rsub(z, 1), n), torch.mul(z, h)),)


_STEPS: dict[str, Callable[..., Any]] = {"lstm": _lstm_step, "gru": _gru_step}
_CALLS: dict[str, Callable[..., Any]] = {"lstm": torch.lstm, "gru": torch.gru}

# More steps than these are too many calls to search, and what goes wrong in a layer goes wrong in every step.
_MOST_STEPS = 64


def _steps_fit(*args: Any, **kwargs: Any) -> bool:
    if kwargs or len(args) != 9 or (isinstance(args[1], torch.Tensor) and args[1].dim() == 1):
        return False  # packed sequences
    x, _, weights, biases, layers, dropout, train, both, batch_first = args
    turns = layers * (2 if both else 1)
    whole = x.dim() == 3 and len(weights) == turns * (4 if biases else 2)
    return whole and not (dropout and train) and turns * x.shape[1 if batch_first else 0] <= _MOST_STEPS


def _lstm_cell(x: Any, state: Any, *weights: Any) -> Any:
    return _lstm_step(x, *state, *weights)


def _gru_cell(x: Any, h: Any, *weights: Any) -> Any:
    return _gru_step(x, h, *weights)[0]


def _plain_call(*_args: Any, **kwargs: Any) -> bool:
    return not kwargs


def _cosine(x1: torch.Tensor, x2: torch.Tensor, dim: int = 1, eps: float = 1e-8) -> torch.Tensor:
    size1, size2 = (torch.clamp_min(torch.linalg.vector_norm(x, dim=dim), eps) for x in (x1, x2))
    return torch.div(torch.div(torch.mul(x1, x2).sum(dim), size1), size2)


def _glu(input: torch.Tensor, dim: int = -1) -> torch.Tensor:
    values, gates = input.chunk(2, dim)
    return torch.mul(values, torch.sigmoid(gates))


def _normalize(input: torch.Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> torch.Tensor:
    return torch.div(input, torch.clamp_min(torch.linalg.vector_norm(input, p, dim, keepdim=True), eps))


def _always(*_args: Any, **_kwargs: Any) -> bool:
    return True


EXPANSIONS: dict[str, Expansion] = {
    "scaled_dot_product_attention": Expansion(_attention, _attention_fits),
    "multi_head_attention_forward": Expansion(_multi_head, _multi_head_fits),
    "cosine_similarity": Expansion(_cosine, _always),
    "glu": Expansion(_glu, _always),
    "normalize": Expansion(_normalize, _always),
    "lstm": Expansion(functools.partial(_recurrent, "lstm"), _steps_fit),
    "gru": Expansion(functools.partial(_recurrent, "gru"), _steps_fit),
    "lstm_cell": Expansion(_lstm_cell, _plain_call),
    "gru_cell": Expansion(_gru_cell, _plain_call),
}
"""By name of the call."""
