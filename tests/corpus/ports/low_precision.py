"""bfloat16 on both sides: in the weights, in the arithmetic, by autocast."""

from functools import partial

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F

import compare
from tests.corpus.building import build, normal

Array = jax.Array


class TorchBlock(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, 10), nn.Linear(10, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.fc1.weight.dtype)
        return (x + self.fc2(F.relu(self.fc1(self.norm(x))))).float()


class Block(nnx.Module):
    def __init__(self, dim: int = 6) -> None:
        kinds = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16, "rngs": nnx.Rngs(0)}
        self.norm = nnx.LayerNorm(dim, epsilon=1e-5, **kinds)
        self.fc1, self.fc2 = nnx.Linear(dim, 10, **kinds), nnx.Linear(10, dim, **kinds)

    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.bfloat16)
        return (x + self.fc2(jax.nn.relu(self.fc1(self.norm(x))))).astype(jnp.float32)


def bfloat16_weights() -> compare.Port:
    return build("bfloat16 weights and arithmetic", lambda: TorchBlock().bfloat16(), Block(), normal(5, 6))


class TorchAutocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.fc2(torch.relu(self.fc1(x))).float()


class Mixed(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        dense = partial(linen.Dense, dtype=jnp.bfloat16)
        return dense(3, name="fc2")(linen.relu(dense(10, name="fc1")(x))).astype(jnp.float32)


def autocast() -> compare.Port:
    return build("autocast against dtype=bfloat16", TorchAutocast, Mixed(), normal(5, 6))


class TorchHalfAttention(nn.Module):
    """Matrix products in bfloat16, softmax in float32."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).to(torch.bfloat16).chunk(3, dim=-1)
        weights = torch.softmax((q @ k.transpose(-1, -2)).float() / q.shape[-1] ** 0.5, dim=-1)
        return self.out((weights.to(v.dtype) @ v).to(x.dtype))


class HalfAttention(nnx.Module):
    def __init__(self, dim: int = 8) -> None:
        rngs = nnx.Rngs(0)
        self.qkv = nnx.Linear(dim, 3 * dim, rngs=rngs)
        self.out = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        q, k, v = jnp.split(self.qkv(x).astype(jnp.bfloat16), 3, axis=-1)
        scores = jnp.einsum("bqd,bkd->bqk", q, k).astype(jnp.float32)
        weights = jax.nn.softmax(scores / q.shape[-1] ** 0.5)
        return self.out(jnp.einsum("bqk,bkd->bqd", weights.astype(v.dtype), v).astype(x.dtype))


def bfloat16_island() -> compare.Port:
    return build("attention with a bfloat16 island", TorchHalfAttention, HalfAttention(), normal(2, 5, 8))


BUILDERS = (bfloat16_weights, autocast, bfloat16_island)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
