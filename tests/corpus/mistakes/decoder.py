"""Mistakes in a decoder with rotary positions, RMSNorm, grouped queries, SwiGLU and a tied head, Linen."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen
from torch import nn
from torch.nn import functional as F

from compare import Port
from tests.corpus.mistake import Case, Family, Mistake, entry
from tests.corpus.models import ids, seeded

Array = jax.Array
WORDS, WIDTH, HEADS, GROUPS, SIZE, HIDDEN = 13, 12, 4, 2, 6, 10


class TorchRMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def torch_rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions, halves convention; x: (batch, heads, length, size)."""
    frequency = 10000.0 ** (-torch.arange(0, SIZE, 2, dtype=x.dtype) / SIZE)
    angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * frequency
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class TorchDecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = TorchRMSNorm(WIDTH), TorchRMSNorm(WIDTH)
        self.q, self.o = nn.Linear(WIDTH, HEADS * SIZE, bias=False), nn.Linear(HEADS * SIZE, WIDTH, bias=False)
        self.k, self.v = (nn.Linear(WIDTH, GROUPS * SIZE, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        batch, length, _ = h.shape
        q, k, v = (f(h).view(batch, length, -1, SIZE).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = torch_rotate(q), torch_rotate(k)
        k, v = (a.repeat_interleave(HEADS // GROUPS, dim=1) for a in (k, v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(h.transpose(1, 2).reshape(batch, length, -1))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class TorchDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList([TorchDecoderLayer()])
        self.norm, self.head = TorchRMSNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


@dataclasses.dataclass(frozen=True)
class Flaws:
    """What is wrong with the port; nothing by default."""

    epsilon: float = 1e-5
    norm_mean: bool = False
    norm_plus_one: bool = False
    norm_epsilon_outside: bool = False
    base: float = 10000.0
    interleaved: bool = False
    sign: float = 1.0
    first_position: int = 0
    rotate_values: bool = False
    rotate_keys: bool = True
    tile: bool = False
    causal: int = 0
    gate_swapped: bool = False
    gate_activation: Any = jax.nn.silu
    gate_on_product: bool = False
    bfloat16_softmax: bool = False
    feed_from_first_norm: bool = False
    head_scale: float = 1.0
    frequency_step: bool = False


class RMSNorm(linen.Module):
    flaws: Flaws

    @linen.compact
    def __call__(self, x: Array) -> Array:
        weight, flaws = self.param("weight", linen.initializers.ones, (x.shape[-1],)), self.flaws
        if flaws.norm_mean:
            x = x - x.mean(-1, keepdims=True)
        square = jnp.mean(x * x, -1, keepdims=True)
        if flaws.norm_epsilon_outside:
            return weight * x / (jnp.sqrt(square) + flaws.epsilon)
        return (weight + flaws.norm_plus_one) * x * jax.lax.rsqrt(square + flaws.epsilon)


def rotate(x: Array, flaws: Flaws) -> Array:
    half = jnp.arange(SIZE // 2) if flaws.frequency_step else jnp.arange(0, SIZE, 2)
    frequency = flaws.base ** (-half / SIZE)
    angle = (jnp.arange(x.shape[2]) + flaws.first_position)[:, None] * frequency
    if flaws.interleaved:
        cos, sin = (jnp.repeat(f(angle), 2, axis=-1) for f in (jnp.cos, jnp.sin))
        turned = jnp.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * cos + turned * sin
    cos, sin = (jnp.concatenate([f(angle)] * 2, -1) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, -1)
    return x * cos + flaws.sign * jnp.concatenate([-second, first], -1) * sin


class DecoderLayer(linen.Module):
    flaws: Flaws

    @linen.compact
    def __call__(self, x: Array) -> Array:
        flaws = self.flaws
        dense = lambda width, name: linen.Dense(width, use_bias=False, name=name)  # noqa: E731
        h = RMSNorm(flaws, name="norm1")(x)
        first, (batch, length, _) = h, h.shape
        sizes = {"q": HEADS, "k": GROUPS, "v": GROUPS}
        q, k, v = (dense(n * SIZE, name)(h).reshape(batch, length, n, SIZE).swapaxes(1, 2) for name, n in sizes.items())
        q = rotate(q, flaws)
        k = rotate(k, flaws) if flaws.rotate_keys else k
        v = rotate(v, flaws) if flaws.rotate_values else v
        times = HEADS // GROUPS
        k, v = (jnp.tile(a, (1, times, 1, 1)) if flaws.tile else jnp.repeat(a, times, 1) for a in (k, v))
        scores = q @ k.swapaxes(-1, -2) / SIZE**0.5
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool), flaws.causal), scores, -1e30)
        if flaws.bfloat16_softmax:
            scores = scores.astype(jnp.bfloat16)
        h = jax.nn.softmax(scores, -1).astype(v.dtype) @ v
        x = x + dense(WIDTH, "o")(h.swapaxes(1, 2).reshape(batch, length, -1))
        h = RMSNorm(flaws, name="norm2")(x)
        h = first if flaws.feed_from_first_norm else h
        gate, up = dense(HIDDEN, "gate")(h), dense(HIDDEN, "up")(h)
        if flaws.gate_swapped:
            gate, up = up, gate
        act = flaws.gate_activation
        return x + dense(WIDTH, "down")(act(gate * up) if flaws.gate_on_product else act(gate) * up)


class Decoder(linen.Module):
    flaws: Flaws = Flaws()

    @linen.compact
    def __call__(self, tokens: Array) -> Array:
        embed = linen.Embed(WORDS, WIDTH, name="embed")
        x = embed(tokens)
        x = DecoderLayer(self.flaws, name="layers_0")(x)
        return embed.attend(RMSNorm(Flaws(), name="norm")(x) * self.flaws.head_scale)


LINEAR = ("q", "k", "v", "o", "gate", "up", "down")
PAIRS = {
    f"layers.{i}.{name}.weight": f"layers_{i}.{name}.{'kernel' if name in LINEAR else 'weight'}"
    for i in range(1)
    for name in (*LINEAR, "norm1", "norm2")
}


def case(**flaws: Any) -> Case:
    """A check of the decoder with these flaws."""
    model = Decoder(Flaws(**flaws))
    return Case("check", (Port(seeded(TorchDecoder), model, ids(3, 5, vocabulary=WORDS), mapping=PAIRS),))


def flaw(name: str, words: str, places: tuple[str, ...], *causes: str, behind: Any = None, **flaws: Any) -> Mistake:
    """A mistake by the names of its flaws."""
    return entry(name, words, lambda: case(**flaws), places, *causes, behind=behind)


SCORES = ("before layers.0.o",)
NORM = ("inside layers.0.norm1",)


FAMILY = Family(
    "decoder",
    {"plain": case},
    (
        flaw("rms_epsilon", "epsilon 1e-6 for 1e-5", NORM, "norm_epsilon", epsilon=1e-6),
        flaw(
            "rms_epsilon_outside",
            "epsilon added to the root, not under it",
            NORM,
            "norm_epsilon_outside_root",
            norm_epsilon_outside=True,
        ),
        flaw("rms_subtracts_mean", "LayerNorm without bias for RMSNorm", NORM, "norm_mean_subtracted", norm_mean=True),
        flaw(
            "rms_plus_one", "(1 + weight), as in Gemma", NORM, "one_plus_factor", "scale_plus_one", norm_plus_one=True
        ),
        flaw("rotary_base", "base 1000 for 10000", SCORES, "rotary_base", base=1000.0),
        flaw("rotary_interleaved", "pairs (0, 1), (2, 3) for halves", SCORES, "rotary_interleaved", interleaved=True),
        flaw("rotary_backwards", "turned the other way", SCORES, "rotary_sign", sign=-1.0),
        flaw("rotary_frequencies", "exponents i/size for 2i/size", SCORES, "rotary_base", frequency_step=True),
        flaw("rotary_on_values", "values turned as well", SCORES, rotate_values=True),
        flaw("rotary_not_on_keys", "keys not turned", SCORES, rotate_keys=False),
        flaw("groups_tiled", "jnp.tile for repeat_interleave over the groups", SCORES, "repeat_for_tile", tile=True),
        flaw("causal_one_late", "each position sees the next", SCORES, "causal_mask_shifted", "mask_shifted", causal=1),
        flaw(
            "causal_strict",
            "no position sees itself; the first sees all alike",
            SCORES,
            "causal_mask_shifted",
            "mask_shifted",
            causal=-1,
        ),
        flaw("causal_missing", "no causal mask", SCORES, "mask_missing", causal=9),
        flaw(
            "gate_and_up_exchanged",
            "activation on up, not on gate",
            ("before layers.0.down",),
            "gate_exchanged",
            gate_swapped=True,
        ),
        flaw(
            "gelu_gate",
            "GeGLU for SwiGLU",
            ("before layers.0.down",),
            "activation_swapped",
            gate_activation=jax.nn.gelu,
        ),
        flaw("gate_on_product", "silu(gate · up)", ("before layers.0.down",), gate_on_product=True),
        flaw(
            "feed_from_first_norm",
            "the feed-forward half reads the first norm",
            ("before layers.0.gate",),
            "input_exchanged",
            feed_from_first_norm=True,
        ),
        flaw("softmax_in_bfloat16", "softmax in bfloat16", (), "lower_precision", bfloat16_softmax=True),
        flaw(
            "head_scale",
            "logits scaled by width^-0.5, as T5 does",
            ("before head", "inside head", "inside"),
            "constant_factor",
            head_scale=WIDTH**-0.5,
        ),
        flaw(
            "norm_and_groups",
            "(1 + weight) in the norms, and tiled groups",
            NORM,
            "one_plus_factor",
            "scale_plus_one",
            behind=frozenset({"repeat_for_tile"}),
            norm_plus_one=True,
            tile=True,
        ),
    ),
)
