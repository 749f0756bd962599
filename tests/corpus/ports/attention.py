"""torch's attention layers against Flax's."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn

import compare
from tests.corpus.building import build, normal

Array = jax.Array


class TorchSelfAttention(nn.Module):
    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        y, _ = self.attention(x, x, x, key_padding_mask=padding, need_weights=False)
        return self.norm(x + y)


class SelfAttention(nnx.Module):
    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        rngs = nnx.Rngs(0)
        self.attention = nnx.MultiHeadAttention(heads, dim, dropout_rate=0.1, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Array, padding: Array) -> Array:
        return self.norm(x + self.attention(x, mask=~padding[:, None, None, :]))


def padding(batch: int, length: int) -> Any:
    mask = normal(batch, length, seed=5) > 9  # nothing
    mask[1, -2:] = True
    return mask


def self_attention() -> compare.Port:
    inputs = (normal(3, 6, 8), padding(3, 6))
    return build("nn.MultiheadAttention against nnx", TorchSelfAttention, SelfAttention(), inputs, frozen=("1",))


class TorchCrossAttention(nn.Module):
    """Keys and values of other widths: torch keeps three projections apart then."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, kdim=5, vdim=5, batch_first=True)

    def forward(self, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.attn(query, memory, memory)[0]


class CrossAttention(linen.Module):
    @linen.compact
    def __call__(self, query: Array, memory: Array) -> Array:
        return linen.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, out_features=8)(query, memory)


def cross_attention() -> compare.Port:
    inputs = {"query": normal(2, 4, 8), "memory": normal(2, 6, 5, seed=1)}
    return build("cross attention, kdim and vdim, Linen", TorchCrossAttention, CrossAttention(), inputs)


def torch_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, num_layers=2, norm=nn.LayerNorm(8), enable_nested_tensor=False)


class EncoderLayer(nnx.Module):
    def __init__(self, dim: int, heads: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.self_attn = nnx.MultiHeadAttention(heads, dim, decode=False, rngs=rngs)
        self.linear1 = nnx.Linear(dim, hidden, rngs=rngs)
        self.linear2 = nnx.Linear(hidden, dim, rngs=rngs)
        self.norm1 = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.norm2 = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.self_attn(self.norm1(x))
        return x + self.linear2(jax.nn.gelu(self.linear1(self.norm2(x)), approximate=False))


class Encoder(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([EncoderLayer(8, 2, 12, rngs=rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)

    def __call__(self, src: Array) -> Array:
        for layer in self.layers:
            src = layer(src)
        return self.norm(src)


def encoder() -> compare.Port:
    return build("nn.TransformerEncoder, pre-norm", torch_encoder, Encoder(), normal(2, 5, 8))


def torch_transformer() -> nn.Module:
    return nn.Transformer(8, 2, 1, 1, dim_feedforward=12, dropout=0.1, batch_first=True)


class PostNormLayer(linen.Module):
    decoder: bool = False

    @linen.compact
    def __call__(self, x: Array, memory: Array | None = None, mask: Array | None = None) -> Array:
        y = linen.MultiHeadDotProductAttention(2, name="self_attention")(x, mask=mask)
        x = linen.LayerNorm(epsilon=1e-5)(x + y)
        if self.decoder:
            y = linen.MultiHeadDotProductAttention(2, name="cross_attention")(x, memory)
            x = linen.LayerNorm(epsilon=1e-5)(x + y)
        y = linen.relu(linen.Dense(12, name="wi")(x))
        return linen.LayerNorm(epsilon=1e-5)(x + linen.Dense(x.shape[-1], name="wo")(y))


class Transformer(linen.Module):
    @linen.compact
    def __call__(self, src: Array, tgt: Array, tgt_mask: Array) -> Array:
        memory = PostNormLayer(name="encoder_0")(src)
        memory = linen.LayerNorm(epsilon=1e-5, name="encoder_norm")(memory)
        x = PostNormLayer(decoder=True, name="decoder_0")(tgt, memory, ~tgt_mask)
        return linen.LayerNorm(epsilon=1e-5, name="decoder_norm")(x)


def transformer() -> compare.Port:
    mask = torch.triu(torch.ones(4, 4), diagonal=1).bool().numpy()
    inputs = {"src": normal(2, 5, 8), "tgt": normal(2, 4, 8, seed=1), "tgt_mask": mask}
    port: compare.Port = build(
        "nn.Transformer, encoder and decoder, Linen", torch_transformer, Transformer(), inputs, frozen=("tgt_mask",)
    )
    return port


class TorchPooling(nn.Module):
    """One learned query attends to a sequence: attention written with einsum and bare parameters."""

    def __init__(self, dim: int = 6, heads: int = 3, head_dim: int = 4) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(heads, head_dim))
        self.w_k = nn.Parameter(0.4 * torch.randn(heads, dim, head_dim))
        self.w_v = nn.Parameter(0.4 * torch.randn(heads, dim, head_dim))
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys = torch.einsum("btd,hdk->bhtk", x, self.w_k)
        values = torch.einsum("btd,hdk->bhtk", x, self.w_v)
        weights = torch.softmax((keys * self.query[:, None]).sum(-1) / self.temperature, dim=-1)
        return torch.einsum("bht,bhtk->bhk", weights, values).flatten(1)


class Pooling(nnx.Module):
    def __init__(self, dim: int = 6, heads: int = 3, head_dim: int = 4) -> None:
        self.query = nnx.Param(jnp.zeros((heads, head_dim)))
        self.w_k = nnx.Param(jnp.zeros((heads, dim, head_dim)))
        self.w_v = nnx.Param(jnp.zeros((heads, dim, head_dim)))
        self.temperature = nnx.Param(jnp.array(1.0))

    def __call__(self, x: Array) -> Array:
        keys = jnp.einsum("btd,hdk->bhtk", x, self.w_k[...])
        values = jnp.einsum("btd,hdk->bhtk", x, self.w_v[...])
        logits = jnp.einsum("bhtk,hk->bht", keys, self.query[...]) / self.temperature[...]
        pooled = jnp.einsum("bht,bhtk->bhk", jax.nn.softmax(logits), values)
        return pooled.reshape(x.shape[0], -1)


def pooling() -> compare.Port:
    return build("attention pooling, bare parameters", TorchPooling, Pooling(), normal(3, 5, 6))


BUILDERS = (self_attention, cross_attention, encoder, transformer, pooling)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
