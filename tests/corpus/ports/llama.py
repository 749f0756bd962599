"""A Llama-like decoder: RMSNorm and rotary positions in float32, SwiGLU, grouped queries."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

import compare
from tests.corpus.building import build, integers

Array = jax.Array


class TorchRMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype
        x = x.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(dtype)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class TorchLlamaLayer(nn.Module):
    def __init__(self, dim: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim // heads
        self.input_layernorm = TorchRMSNorm(dim)
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.post_attention_layernorm = TorchRMSNorm(dim)
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def attend(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k, v = (a.repeat_interleave(self.heads // self.kv_heads, dim=1) for a in (k, v))
        return self.o_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.input_layernorm(x), cos, sin)
        y = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class TorchLlama(nn.Module):
    inv_freq: torch.Tensor

    def __init__(self, vocabulary: int = 13, dim: int = 16, heads: int = 4, kv_heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList([TorchLlamaLayer(dim, heads, kv_heads, 20) for _ in range(depth)])
        self.norm = TorchRMSNorm(dim)
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        head_dim = dim // heads
        inv_freq = 1.0 / (10000.0 ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(input_ids)
        positions = torch.arange(input_ids.shape[1]).float()
        angles = torch.outer(positions, self.inv_freq.float())
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))


class RMSNorm(nnx.Module):
    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        self.weight = nnx.Param(jnp.ones(dim))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return self.weight[...] * y.astype(x.dtype)


def apply_rope(x: Array, theta: float = 10000.0) -> Array:
    """x: (batch, length, heads, head_dim), rotated in float32."""
    half = x.shape[-1] // 2
    frequencies = 1.0 / (theta ** (jnp.arange(0, half, dtype=jnp.float32) / half))
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequencies[None, :]
    cos, sin = jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class LlamaLayer(nnx.Module):
    def __init__(self, dim: int, heads: int, kv_heads: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim // heads

        def linear(fan_in: int, fan_out: int) -> nnx.Linear:
            return nnx.Linear(fan_in, fan_out, use_bias=False, rngs=rngs)

        self.attention_norm, self.ffn_norm = RMSNorm(dim), RMSNorm(dim)
        self.wq, self.wo = linear(dim, dim), linear(dim, dim)
        self.wk, self.wv = linear(dim, kv_heads * self.head_dim), linear(dim, kv_heads * self.head_dim)
        self.w1, self.w3, self.w2 = linear(dim, hidden), linear(dim, hidden), linear(hidden, dim)

    def attend(self, x: Array) -> Array:
        b, t, _ = x.shape
        q = apply_rope(self.wq(x).reshape(b, t, self.heads, self.head_dim))
        k = apply_rope(self.wk(x).reshape(b, t, self.kv_heads, self.head_dim))
        v = self.wv(x).reshape(b, t, self.kv_heads, self.head_dim)
        return self.wo(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(b, t, -1))

    def __call__(self, x: Array) -> Array:
        x = x + self.attend(self.attention_norm(x))
        y = self.ffn_norm(x)
        return x + self.w2(jax.nn.silu(self.w1(y)) * self.w3(y))


class Llama(nnx.Module):
    def __init__(self, vocabulary: int = 13, dim: int = 16, heads: int = 4, kv_heads: int = 2, depth: int = 2) -> None:
        rngs = nnx.Rngs(0)
        self.tok_embeddings = nnx.Embed(vocabulary, dim, rngs=rngs)
        self.layers = nnx.List([LlamaLayer(dim, heads, kv_heads, 20, rngs=rngs) for _ in range(depth)])
        self.norm = RMSNorm(dim)
        self.output = nnx.Linear(dim, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x))


def llama() -> compare.Port:
    return build("Llama-like decoder, other names", TorchLlama, Llama(), integers(13, 2, 7))


BUILDERS = (llama,)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
