"""Encoder-decoders: T5's relative positions, cross attention, a decoder step with a cache."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F

import compare
from tests.corpus.building import build, integers, normal

Array = jax.Array


# --- T5-like: position buckets by float32 logarithm and truncation ---


class TorchT5Norm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + 1e-6)).to(x.dtype)


def torch_buckets(relative: torch.Tensor, buckets: int, largest: int, bidirectional: bool) -> torch.Tensor:
    offset = torch.zeros_like(relative)
    if bidirectional:
        buckets //= 2
        offset = (relative > 0).long() * buckets
        relative = relative.abs()
    else:
        relative = -torch.min(relative, torch.zeros_like(relative))
    exact = buckets // 2
    far = exact + (torch.log(relative.float() / exact) / math.log(largest / exact) * (buckets - exact)).long()
    far = torch.min(far, torch.full_like(far, buckets - 1))
    return offset + torch.where(relative < exact, relative, far)


class TorchT5Attention(nn.Module):
    def __init__(self, dim: int, heads: int, causal: bool, relative: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v = (nn.Linear(dim, heads * 3, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * 3, dim, bias=False)
        if relative:
            self.relative_attention_bias = nn.Embedding(8, heads)

    def position_bias(self, length: int) -> torch.Tensor:
        positions = torch.arange(length)
        buckets = torch_buckets(positions[None, :] - positions[:, None], 8, 20, not self.causal)
        return self.relative_attention_bias(buckets).permute(2, 0, 1).unsqueeze(0)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        def split(y: torch.Tensor) -> torch.Tensor:
            return y.view(y.shape[0], -1, self.heads, 3).transpose(1, 2)

        scores = split(self.q(x)) @ split(self.k(memory)).transpose(3, 2)  # T5 does not scale
        if bias is not None:
            scores = scores + bias
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, torch.finfo(scores.dtype).min)
        weights = F.softmax(scores.float(), dim=-1).type_as(scores)
        return self.o((weights @ split(self.v(memory))).transpose(1, 2).reshape(*x.shape[:2], -1))


class TorchT5Block(nn.Module):
    def __init__(self, dim: int, heads: int, decoder: bool, relative: bool) -> None:
        super().__init__()
        self.norm1, self.attention = TorchT5Norm(dim), TorchT5Attention(dim, heads, decoder, relative)
        self.decoder = decoder
        if decoder:
            self.norm2, self.cross = TorchT5Norm(dim), TorchT5Attention(dim, heads, False, False)
        self.norm3 = TorchT5Norm(dim)
        self.wi_0, self.wi_1 = nn.Linear(dim, 9, bias=False), nn.Linear(dim, 9, bias=False)
        self.wo = nn.Linear(9, dim, bias=False)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, bias)
        if memory is not None:
            x = x + self.cross(self.norm2(x), memory, None)
        y = self.norm3(x)
        return x + self.wo(F.gelu(self.wi_0(y), approximate="tanh") * self.wi_1(y))


class TorchT5(nn.Module):
    def __init__(self, vocabulary: int = 11, dim: int = 8, heads: int = 2, depth: int = 1) -> None:
        super().__init__()
        self.shared = nn.Embedding(vocabulary, dim)
        self.encoder = nn.ModuleList([TorchT5Block(dim, heads, False, i == 0) for i in range(depth)])
        self.decoder = nn.ModuleList([TorchT5Block(dim, heads, True, i == 0) for i in range(depth)])
        self.encoder_norm, self.decoder_norm = TorchT5Norm(dim), TorchT5Norm(dim)
        self.dim = dim

    def forward(self, input_ids: torch.Tensor, decoder_input_ids: torch.Tensor) -> torch.Tensor:
        memory = self.shared(input_ids)
        first: Any = self.encoder[0]
        bias = first.attention.position_bias(memory.shape[1])
        for block in self.encoder:
            memory = block(memory, bias)
        memory = self.encoder_norm(memory)
        x = self.shared(decoder_input_ids)
        first = self.decoder[0]
        bias = first.attention.position_bias(x.shape[1])
        for block in self.decoder:
            x = block(x, bias, memory)
        return F.linear(self.decoder_norm(x) * self.dim**-0.5, self.shared.weight)


def buckets_of(relative: Array, buckets: int, largest: int, bidirectional: bool) -> Array:
    offset: Any = 0
    if bidirectional:
        buckets //= 2
        offset = (relative > 0).astype(jnp.int32) * buckets
        relative = jnp.abs(relative)
    else:
        relative = -jnp.minimum(relative, 0)
    exact = buckets // 2
    logarithm = jnp.log(relative.astype(jnp.float32) / exact + jnp.finfo(jnp.float32).eps)
    far = exact + (logarithm / math.log(largest / exact) * (buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(relative < exact, relative, jnp.minimum(far, buckets - 1))


class T5Norm(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y = x * jax.lax.rsqrt(jnp.mean(jax.lax.square(y), axis=-1, keepdims=True) + 1e-6)
        return self.param("scale", linen.initializers.ones, (x.shape[-1],)) * y.astype(x.dtype)


class T5Attention(linen.Module):
    heads: int
    causal: bool = False

    @linen.compact
    def __call__(self, x: Array, memory: Array, bias: Array | None = None) -> Array:
        def project(name: str, y: Array) -> Array:
            dense = linen.DenseGeneral((self.heads, 3), use_bias=False, name=name)
            return dense(y)

        scores = jnp.einsum("bqhd,bkhd->bhqk", project("query", x), project("key", memory))
        if bias is not None:
            scores = scores + bias
        if self.causal:
            scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(scores.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, project("value", memory))
        return linen.DenseGeneral(x.shape[-1], axis=(-2, -1), use_bias=False, name="out")(y)


class T5Block(linen.Module):
    heads: int
    decoder: bool = False

    @linen.compact
    def __call__(self, x: Array, bias: Array, memory: Array | None = None) -> Array:
        y = T5Norm(name="pre_self_attention_layer_norm")(x)
        x = x + T5Attention(self.heads, self.decoder, name="self_attention")(y, y, bias)
        if memory is not None:
            y = T5Norm(name="pre_cross_attention_layer_norm")(x)
            x = x + T5Attention(self.heads, name="encoder_decoder_attention")(y, memory)
        y = T5Norm(name="pre_mlp_layer_norm")(x)
        gate = linen.gelu(linen.Dense(9, use_bias=False, name="wi_0")(y))
        y = gate * linen.Dense(9, use_bias=False, name="wi_1")(y)
        return x + linen.Dense(x.shape[-1], use_bias=False, name="wo")(y)


class T5(linen.Module):
    vocabulary: int = 11
    dim: int = 8
    heads: int = 2
    depth: int = 1

    def bias(self, length: int, bidirectional: bool, name: str) -> Array:
        positions = jnp.arange(length)
        buckets = buckets_of(positions[None, :] - positions[:, None], 8, 20, bidirectional)
        return jnp.transpose(linen.Embed(8, self.heads, name=name)(buckets), (2, 0, 1))[None]

    @linen.compact
    def __call__(self, input_ids: Array, decoder_input_ids: Array) -> Array:
        embed = linen.Embed(self.vocabulary, self.dim, name="token_embedder")
        memory, x = embed(input_ids), embed(decoder_input_ids)
        bias = self.bias(memory.shape[1], True, "encoder_relpos_bias")
        for i in range(self.depth):
            memory = T5Block(self.heads, name=f"encoder_layers_{i}")(memory, bias)
        memory = T5Norm(name="encoder_norm")(memory)
        bias = self.bias(x.shape[1], False, "decoder_relpos_bias")
        for i in range(self.depth):
            x = T5Block(self.heads, True, name=f"decoder_layers_{i}")(x, bias, memory)
        return embed.attend(T5Norm(name="decoder_norm")(x) * self.dim**-0.5)


def t5() -> compare.Port:
    inputs = {"input_ids": integers(11, 2, 14), "decoder_input_ids": integers(11, 2, 12, seed=1)}
    return build("T5-like encoder-decoder, relative buckets", TorchT5, T5(), inputs)


# --- One decoding step with a cache: explicit in torch, mutated in NNX ---


class TorchDecoderStep(nn.Module):
    """The next token attends to those in the cache and to itself."""

    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        outputs = []
        for token in x.split(1, dim=1):
            keys.append(self.split(self.k_proj(token)))
            values.append(self.split(self.v_proj(token)))
            y = F.scaled_dot_product_attention(
                self.split(self.q_proj(token)), torch.cat(keys, dim=2), torch.cat(values, dim=2)
            )
            outputs.append(self.out_proj(y.transpose(1, 2).flatten(2)))
        return torch.cat(outputs, dim=1)


class CachedDecoder(nnx.Module):
    """Keys and values written into a cache of fixed length that the module owns and resets."""

    def __init__(self, dim: int = 8, heads: int = 2, length: int = 6) -> None:
        rngs = nnx.Rngs(0)
        self.heads = heads
        self.q_proj, self.k_proj = nnx.Linear(dim, dim, rngs=rngs), nnx.Linear(dim, dim, rngs=rngs)
        self.v_proj, self.out_proj = nnx.Linear(dim, dim, rngs=rngs), nnx.Linear(dim, dim, rngs=rngs)
        self.cached_key = nnx.Cache(jnp.zeros((2, length, heads, dim // heads)))
        self.cached_value = nnx.Cache(jnp.zeros((2, length, heads, dim // heads)))
        self.index = nnx.Cache(jnp.zeros((), jnp.int32))

    def step(self, token: Array) -> Array:
        shape = (token.shape[0], 1, self.heads, token.shape[-1] // self.heads)
        q, k, v = (layer(token).reshape(shape) for layer in (self.q_proj, self.k_proj, self.v_proj))
        i = self.index[...]
        self.cached_key[...] = jax.lax.dynamic_update_slice(self.cached_key[...], k, (0, i, 0, 0))
        self.cached_value[...] = jax.lax.dynamic_update_slice(self.cached_value[...], v, (0, i, 0, 0))
        self.index[...] = i + 1
        visible = (jnp.arange(self.cached_key.shape[1]) <= i)[None, None, None, :]
        y = nnx.dot_product_attention(q, self.cached_key[...], self.cached_value[...], mask=visible)
        return self.out_proj(y.reshape(token.shape))

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([self.step(x[:, t : t + 1]) for t in range(x.shape[1])], axis=1)


def cached_decoder() -> compare.Port:
    return build("decoder with a cache, step by step", TorchDecoderStep, CachedDecoder(), normal(2, 6, 8))


BUILDERS = (t5, cached_decoder)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
