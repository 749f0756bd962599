"""The same computation in each framework's own idiom: other names, other packing, other structures, other forms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import compare
from tests.corpus.building import build, normal

Array = jax.Array


class TorchLatents(nn.Module):
    """Latents that attend to masked data; key and value lie in one layer, named as torch's authors like."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, 10))
        self.to_q, self.to_kv = nn.Linear(10, 10, bias=False), nn.Linear(6, 20, bias=False)
        self.to_out, self.norm = nn.Linear(10, 10), nn.LayerNorm(6)

    def forward(self, data: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.latents.expand(len(data), -1, -1)
        key, value = self.to_kv(self.norm(data)).chunk(2, -1)
        q, k, v = (y.unflatten(-1, (2, 5)).transpose(1, 2) for y in (self.to_q(x), key, value))
        scores = (q @ k.mT * 5**-0.5).masked_fill(~mask[:, None, None], -torch.finfo(x.dtype).max)
        return x + self.to_out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Latents(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.latents = nnx.Param(jnp.zeros((4, 10)))
        self.to_q = nnx.Linear(10, 10, use_bias=False, rngs=rngs)
        self.to_k = nnx.Linear(6, 10, use_bias=False, rngs=rngs)
        self.to_v = nnx.Linear(6, 10, use_bias=False, rngs=rngs)
        self.to_out, self.norm = nnx.Linear(10, 10, rngs=rngs), nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs)

    def __call__(self, data: Array, mask: Array) -> Array:
        x = jnp.repeat(self.latents[None], len(data), 0)
        data = self.norm(data)
        q, k, v = (y.reshape(*y.shape[:-1], 2, 5) for y in (self.to_q(x), self.to_k(data), self.to_v(data)))
        return x + self.to_out(jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None]).reshape(x.shape))


def latents() -> compare.Port:
    mask = np.arange(7) < np.array([[5], [7], [2]])
    inputs = {"data": normal(3, 7, 6), "mask": mask}
    return build("latents that attend to data", TorchLatents, Latents(nnx.Rngs(0)), inputs, frozen=("mask",))


class TorchWindow(nn.Module):
    """Attention with linear biases over a window; one head for keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.o = (nn.Linear(12, size, bias=False) for size in (12, 8, 12))
        self.register_buffer("slopes", 2.0 ** torch.tensor([-2.0, -4.0, -8.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, (k, v) = self.q(x).unflatten(-1, (3, 4)).transpose(1, 2), self.kv(x)[:, None].split(4, -1)
        back = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        scores = q @ k.mT / 2 - self.get_buffer("slopes")[:, None, None] * back
        scores = scores.masked_fill((back < 0) | (back >= 4), -torch.inf)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Window(nnx.Module):
    """Bare arrays, recomputed in the backward pass."""

    def __init__(self) -> None:
        self.wq, self.wk, self.wv, self.wo = (nnx.Param(jnp.ones((12, size))) for size in (12, 4, 4, 12))

    def __call__(self, x: Array) -> Array:
        @jax.checkpoint
        def attend(x: Array, wq: Array, wk: Array, wv: Array) -> Array:
            back = jnp.arange(x.shape[1])[:, None] - jnp.arange(x.shape[1])
            slopes = jnp.array([0.25, 0.0625, 0.00390625])
            scores = jnp.einsum("bqhd,bkd->bhqk", (x @ wq).reshape(*x.shape[:2], 3, 4), x @ wk) / 2
            scores = jnp.where((back >= 0) & (back < 4), scores - slopes[:, None, None] * back, -1e30)
            return jnp.einsum("bhqk,bkd->bqhd", jax.nn.softmax(scores), x @ wv).reshape(x.shape)

        return attend(x, self.wq[...], self.wk[...], self.wv[...]) @ self.wo[...]


def window() -> compare.Port:
    return build("linear biases over a window", TorchWindow, Window(), normal(2, 7, 12))


class TorchExperts(nn.Module):
    """The best two of four experts, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 9), nn.SiLU(), nn.Linear(9, 6)) for _ in range(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shares, chosen = self.gate(x).softmax(-1).topk(2, -1)
        shares, out = shares / shares.sum(-1, keepdim=True), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            out = out.index_add(0, rows, shares[rows, place, None] * expert(x[rows]))
        return out, chosen


class Expert(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc1, self.fc2 = nnx.Linear(6, 9, rngs=rngs), nnx.Linear(9, 6, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc2(nnx.silu(self.fc1(x)))


class Experts(nnx.Module):
    """All experts at once, and most of it weighed with zero."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.gate = nnx.Linear(6, 4, use_bias=False, rngs=rngs)
        self.experts = nnx.split_rngs(splits=4)(nnx.vmap(Expert))(rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        shares, chosen = jax.lax.top_k(jax.nn.softmax(self.gate(x)), 2)
        shares = shares / shares.sum(-1, keepdims=True)
        weights = jnp.sum(jax.nn.one_hot(chosen, 4) * shares[..., None], -2)
        outputs = nnx.vmap(lambda expert, x: expert(x), in_axes=(0, None))(self.experts, x)
        return jnp.einsum("enf,ne->nf", outputs, weights), chosen


def two_of_four_experts() -> compare.Port:
    return build("the best two of four experts", TorchExperts, Experts(nnx.Rngs(0)), normal(7, 6))


class Policy(NamedTuple):
    value: torch.Tensor
    logits: torch.Tensor


class TorchPolicy(nn.Module):
    """Weights as length and direction; Mish written out, which overflows far out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = parametrizations.weight_norm(nn.Linear(4, 6))
        self.v, self.pi = nn.Linear(6, 1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Policy:
        y = self.fc(x)
        y = y * torch.tanh(torch.log(1 + torch.exp(y)))
        return Policy(self.v(y).squeeze(-1), self.pi(y))


class NormedDense(linen.Module):
    features: int

    @linen.compact
    def __call__(self, x: Array) -> Array:
        v = self.param("weight_v", linen.initializers.lecun_normal(), (x.shape[-1], self.features))
        g = self.param("weight_g", linen.initializers.ones, (self.features,))
        bias = self.param("bias", linen.initializers.zeros, (self.features,))
        return x @ (g * v / jnp.linalg.norm(v, axis=0)) + bias


class FlaxPolicy(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        y = jax.nn.mish(NormedDense(6, name="fc")(x))
        return linen.Dense(1, name="critic")(y)[..., 0], linen.Dense(3, name="actor")(y)


def policy() -> compare.Port:
    return build("a policy and its value", TorchPolicy, FlaxPolicy(), normal(5, 4))


class TorchSets(nn.Module):
    """Sums, maxima and means of sets of unlike size."""

    def __init__(self) -> None:
        super().__init__()
        self.phi, self.rho = nn.Sequential(nn.Linear(3, 6), nn.ELU(), nn.Linear(6, 6)), nn.Linear(18, 2)

    def forward(self, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        there = (torch.arange(x.shape[1]) < sizes[:, None])[..., None]
        y = self.phi(x)
        total = y.masked_fill(~there, 0).sum(1)
        largest = y.masked_fill(~there, -torch.inf).amax(1)
        return F.elu(self.rho(torch.cat([total, largest, total / sizes[:, None]], -1)))


class Sets(linen.Module):
    @linen.compact
    def __call__(self, x: Array, sizes: Array) -> Array:
        there = (jnp.arange(x.shape[1]) < sizes[:, None])[..., None]
        y = linen.Dense(6)(linen.elu(linen.Dense(6)(x)))
        total, largest = jnp.sum(y, 1, where=there), jnp.max(y, 1, initial=-jnp.inf, where=there)
        return linen.elu(linen.Dense(2)(jnp.concatenate([total, largest, total / sizes[:, None]], -1)))


def sets() -> compare.Port:
    return build("sets of unlike size", TorchSets, Sets(), (normal(3, 5, 3), np.array([5, 2, 4])))


BUILDERS = (latents, window, two_of_four_experts, policy, sets)


def ports() -> list[compare.Port]:
    return [make() for make in BUILDERS]
