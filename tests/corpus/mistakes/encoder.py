"""Mistakes in a transformer encoder with attention written by hand, NNX."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

from compare import Port
from tests.corpus.mistake import Case, Family, Mistake, entry
from tests.corpus.models import ids, seeded

Array = jax.Array
WORDS, LENGTH, WIDTH, HEADS, HIDDEN = 11, 6, 8, 2, 20


class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (f(x).view(batch, length, HEADS, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5  # (batch, heads, length, length)
        weights = scores.masked_fill(~mask[:, None, None, :], float("-inf")).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, WIDTH))


class TorchLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm1, self.norm2 = TorchAttention(), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attention(x, mask))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class TorchEncoder(nn.Module):
    """Word and position embeddings, two post-norm layers, the mean over real positions, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH, padding_idx=0), nn.Embedding(LENGTH + 2, WIDTH)
        self.layers = nn.ModuleList([TorchLayer() for _ in range(2)])
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = tokens != 0
        x = self.words(tokens) * WIDTH**0.5 + self.positions(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x, mask)
        kept = mask[:, :, None].to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1))


@dataclasses.dataclass(frozen=True)
class Flaws:
    """What is wrong with the port; nothing by default."""

    scale: float = (WIDTH // HEADS) ** -0.5
    softmax_axis: int = -1
    heads_first: bool = False
    merge: bool = True
    swap_qk: bool = False
    mask: str = "keys"
    fill: float = -np.inf
    pre_norm: bool = False
    same_norm: bool = False
    embed_scale: bool = True
    first_position: int = 0
    mask_shift: int = 0
    pooling: str = "masked"
    approximate: bool = False
    epsilon: float = 1e-5
    skip: bool = True
    float16_scores: bool = False
    v_from_k: bool = False
    attended: bool = False


class FlaxAttention(nnx.Module):
    def __init__(self, flaws: Flaws, rngs: nnx.Rngs) -> None:
        self.q, self.k, self.v, self.out = (nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(4))
        self.flaws = flaws

    def __call__(self, x: Array, mask: Array) -> Array:
        flaws, (batch, length, _) = self.flaws, x.shape
        q, k = self.q(x), self.k(x)
        v = self.v(k if flaws.v_from_k else x)
        if flaws.heads_first:
            q, k, v = (a.reshape(batch, length, -1, HEADS).transpose(0, 3, 1, 2) for a in (q, k, v))
        else:
            q, k, v = (a.reshape(batch, length, HEADS, -1).transpose(0, 2, 1, 3) for a in (q, k, v))
        if flaws.swap_qk:
            q, k = k, q
        if flaws.float16_scores:
            q, k = q.astype(jnp.bfloat16), k.astype(jnp.bfloat16)
        scores = (jnp.einsum("bhqd,bhkd->bhqk", q, k) * flaws.scale).astype(v.dtype)
        match flaws.mask:
            case "keys":
                scores = jnp.where(mask[:, None, None, :], scores, flaws.fill)
            case "queries":
                scores = jnp.where(mask[:, None, :, None], scores, -1e30)
            case "inverted":
                scores = jnp.where(mask[:, None, None, :], -1e30, scores)
            case "multiplied":
                scores = scores * mask[:, None, None, :]
        weights = jax.nn.softmax(scores, axis=flaws.softmax_axis)
        if flaws.mask == "after":
            weights = weights * mask[:, None, None, :]
        h = jnp.einsum("bhqk,bhkd->bhqd", weights, v)
        return self.out((h.transpose(0, 2, 1, 3) if flaws.merge else h).reshape(batch, length, WIDTH))


class FlaxLayer(nnx.Module):
    def __init__(self, flaws: Flaws, rngs: nnx.Rngs) -> None:
        self.attention = FlaxAttention(flaws, rngs)
        self.norm1 = nnx.LayerNorm(WIDTH, epsilon=flaws.epsilon, use_fast_variance=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.flaws = flaws

    def __call__(self, x: Array, mask: Array) -> Array:
        flaws = self.flaws
        norm2 = self.norm1 if flaws.same_norm else self.norm2
        if flaws.pre_norm:
            x = x + self.attention(self.norm1(x), mask)
            return x + self.down(jax.nn.gelu(self.up(norm2(x)), approximate=False))
        attended = self.attention(x, mask)
        x = self.norm1(x + attended if flaws.skip else attended)
        h = self.down(jax.nn.gelu(self.up(x), approximate=flaws.approximate))
        return norm2((attended if flaws.attended else x) + h)


class FlaxEncoder(nnx.Module):
    def __init__(self, first: Flaws, second: Flaws) -> None:
        rngs = nnx.Rngs(0)
        self.words, self.positions = nnx.Embed(WORDS, WIDTH, rngs=rngs), nnx.Embed(LENGTH + 2, WIDTH, rngs=rngs)
        self.layers = nnx.List([FlaxLayer(flaws, rngs) for flaws in (first, second)])
        self.head, self.flaws = nnx.Linear(WIDTH, 3, rngs=rngs), second

    def __call__(self, tokens: Array) -> Array:
        flaws, mask = self.flaws, tokens > self.flaws.mask_shift
        x = self.words(tokens) * (WIDTH**0.5 if flaws.embed_scale else 1.0)
        x = x + self.positions(jnp.arange(tokens.shape[1]) + flaws.first_position)
        for layer in self.layers:
            x = layer(x, mask)
        kept = mask[:, :, None].astype(x.dtype)
        match flaws.pooling:
            case "mean":
                x = x.mean(1)
            case "first":
                x = x[:, 0]
            case "length":
                x = (x * kept).sum(1) / x.shape[1]
            case _:
                x = (x * kept).sum(1) / kept.sum(1)
        return self.head(x)


def tokens(padded: bool = True) -> Any:
    """Three sentences, two of them padded with zeros."""
    found = ids(3, LENGTH, vocabulary=WORDS - 1) + 1
    if padded:
        found[1, 4:] = 0
        found[2, 5:] = 0
    return found


def case(first: Flaws | None = None, second: Flaws | None = None, padded: bool = True) -> Case:
    """A check of the encoder with these flaws in its layers."""
    model = FlaxEncoder(first or Flaws(), second or Flaws())
    return Case("check", (Port(seeded(TorchEncoder), model, tokens(padded), ranges={"0": (0, WORDS - 1)}),))


SCORES = ("before layers.1.attention.out", "inside layers.1.attention")
POOL = ("before head",)
EMBED = ("before layers.0", "before layers.0.attention", "before layers.0.attention.q")
BLOCK = ("inside layers.1",)


def flaw(
    name: str, words: str, places: tuple[str, ...], *causes: str, both: bool = False, padded: bool = True, **flaws: Any
) -> Mistake:
    """A mistake by the names of its flaws, in the second layer or in both."""
    wrong = Flaws(**flaws)
    return entry(name, words, lambda: case(wrong if both else None, wrong, padded), places, *causes)


FAMILY = Family(
    "encoder",
    {
        "padded": case,
        "full": lambda: case(padded=False),
        "large_fill": lambda: case(Flaws(fill=-1e30), Flaws(fill=-1e30)),
    },
    (
        flaw("scale_by_width", "scores divided by √width, not √head", SCORES, "attention_scale", scale=WIDTH**-0.5),
        flaw("scale_missing", "scores not scaled", SCORES, "attention_scale", scale=1.0),
        flaw("softmax_over_queries", "softmax over the queries", SCORES, "softmax_axis", softmax_axis=-2, fill=-1e30),
        flaw("heads_interleaved", "width split into (size, heads)", SCORES, "heads_order", heads_first=True),
        flaw(
            "heads_not_merged",
            "no transpose before the heads are merged",
            SCORES,
            "transpose_missing",
            "heads_order",
            merge=False,
        ),
        flaw("query_key_exchanged", "keys ask, queries answer", SCORES, "query_key_exchanged", swap_qk=True),
        flaw(
            "value_from_key",
            "the value projection is fed the keys",
            ("before layers.1.attention.v",),
            "input_exchanged",
            v_from_k=True,
        ),
        flaw("mask_on_queries", "padding mask on the wrong axis", SCORES, "mask_axis", mask="queries"),
        flaw("mask_inverted", "padding attended, words hidden", SCORES, "mask_inverted", mask="inverted"),
        flaw("mask_missing", "no padding mask", SCORES, "mask_missing", mask="none"),
        flaw(
            "mask_missing_on_full_rows",
            "no padding mask, and the given sentences have no padding",
            SCORES,
            "mask_missing",
            padded=False,
            mask="none",
        ),
        flaw("mask_multiplied", "masked scores set to 0 before the softmax", SCORES, "mask_value", mask="multiplied"),
        flaw(
            "mask_after_softmax",
            "weights masked after the softmax, not renormalised",
            SCORES,
            "mask_after_softmax",
            mask="after",
        ),
        flaw("mask_fill_small", "filled with -10 in place of -inf", SCORES, "mask_value", fill=-10.0),
        flaw(
            "mask_one_word_more",
            "tokens > 1 for tokens != 0: word 1 counts as padding",
            ("before layers.0", "before layers.0.attention.out"),
            both=True,
            mask_shift=1,
        ),
        flaw(
            "pre_norm",
            "pre-norm for post-norm",
            ("before layers.1.attention", "before layers.1.attention.q", "before layers.1.norm1", "inside layers.1"),
            "norm_order",
            pre_norm=True,
        ),
        flaw(
            "norm_used_twice",
            "norm1 in place of norm2",
            ("inside layers.1.norm2", "before layers.1.norm2", "inside layers.1"),
            "module_reused",
            "weights_shared",
            same_norm=True,
        ),
        flaw("embedding_scale", "√width left out", EMBED, "constant_factor", "scale_missing", embed_scale=False),
        flaw("positions_from_one", "positions counted from 1", ("before positions",), "ids_shifted", first_position=1),
        flaw("mean_over_padding", "mean over padding too", POOL, "mask_missing", pooling="mean"),
        flaw("divided_by_length", "masked sum divided by the padded length", POOL, pooling="length"),
        flaw("first_token", "first position in place of the mean", POOL, "selected_for_mean", pooling="first"),
        flaw(
            "gelu_tanh",
            "tanh GELU in both layers",
            ("before layers.0.down", "inside layers.0"),
            "gelu_approximation",
            both=True,
            approximate=True,
        ),
        flaw("norm1_epsilon", "default epsilon in norm1", ("inside layers.1.norm1",), "norm_epsilon", epsilon=1e-6),
        flaw("norm1_epsilon_bert", "1e-12, as in BERT", ("inside layers.1.norm1",), "norm_epsilon", epsilon=1e-12),
        flaw(
            "skip_around_attention",
            "attention's skip connection forgotten",
            ("before layers.1.norm1",),
            "term_missing",
            skip=False,
        ),
        flaw(
            "skip_from_attention",
            "second skip from before the norm",
            ("before layers.1.norm2",),
            "residual_from",
            attended=True,
        ),
        flaw("bfloat16_scores", "queries and keys cast to bfloat16", (), "lower_precision", float16_scores=True),
    ),
)
