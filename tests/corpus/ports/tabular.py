"""Embeddings beside numbers, experts, flows, graphs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F

import compare
from tests.corpus.building import build, integers, normal

Array = jax.Array


class TorchDLRM(nn.Module):
    """Several embeddings, a bottom net, pairwise products, a top net."""

    def __init__(self, sizes: tuple[int, ...] = (5, 9, 4), dim: int = 4) -> None:
        super().__init__()
        self.emb_l = nn.ModuleList([nn.Embedding(size, dim) for size in sizes])
        self.bot_l = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, dim), nn.ReLU())
        self.top_l = nn.Sequential(nn.Linear(dim + 6, 7), nn.ReLU(), nn.Linear(7, 1), nn.Sigmoid())

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        x = self.bot_l(dense)
        features = torch.stack([x, *(table(sparse[:, i]) for i, table in enumerate(self.emb_l))], dim=1)
        products = torch.bmm(features, features.transpose(1, 2))
        rows, columns = torch.tril_indices(4, 4, offset=-1)
        return self.top_l(torch.cat([x, products[:, rows, columns]], dim=1))


class DLRM(linen.Module):
    sizes: tuple[int, ...] = (5, 9, 4)
    dim: int = 4

    @linen.compact
    def __call__(self, dense: Array, sparse: Array) -> Array:
        x = linen.relu(linen.Dense(self.dim, name="bottom_1")(linen.relu(linen.Dense(8, name="bottom_0")(dense))))
        tables = [linen.Embed(n, self.dim, name=f"embed_{i}")(sparse[:, i]) for i, n in enumerate(self.sizes)]
        features = jnp.stack([x, *tables], axis=1)
        products = jnp.einsum("bid,bjd->bij", features, features)
        rows, columns = np.tril_indices(4, k=-1)
        y = jnp.concatenate([x, products[:, rows, columns]], axis=1)
        y = linen.relu(linen.Dense(7, name="top_0")(y))
        return jax.nn.sigmoid(linen.Dense(1, name="top_1")(y))


def dlrm() -> compare.Port:
    sparse = np.stack([integers(size, 6, seed=i) for i, size in enumerate((5, 9, 4))], axis=1) % 4
    return build("DLRM, three embeddings", TorchDLRM, DLRM(), (normal(6, 6), sparse))


class TorchExperts(nn.Module):
    """Two of four experts per token, chosen by a router."""

    def __init__(self, dim: int = 6, hidden: int = 7, experts: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, dim)) for _ in range(experts)]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        routing = F.softmax(self.gate(x), dim=-1, dtype=torch.float)
        weights, chosen = torch.topk(routing, 2, dim=-1)
        weights = (weights / weights.sum(dim=-1, keepdim=True)).to(x.dtype)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows, slot = torch.where(chosen == i)
            out.index_add_(0, rows, expert(x[rows]) * weights[rows, slot, None])
        return out


class Expert(nnx.Module):
    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.wi, self.wo = nnx.Linear(dim, hidden, rngs=rngs), nnx.Linear(hidden, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.wo(jax.nn.silu(self.wi(x)))


class Experts(nnx.Module):
    """Every expert on every token, weighted: the same sum without gathering."""

    def __init__(self, dim: int = 6, hidden: int = 7, experts: int = 4) -> None:
        rngs = nnx.Rngs(0)
        self.gate = nnx.Linear(dim, experts, use_bias=False, rngs=rngs)
        self.experts = nnx.List([Expert(dim, hidden, rngs=rngs) for _ in range(experts)])

    def __call__(self, x: Array) -> Array:
        routing = jax.nn.softmax(self.gate(x).astype(jnp.float32), axis=-1)
        weights, chosen = jax.lax.top_k(routing, 2)
        weights = (weights / weights.sum(axis=-1, keepdims=True)).astype(x.dtype)
        combine = jnp.einsum("bk,bke->be", weights, jax.nn.one_hot(chosen, len(self.experts), dtype=x.dtype))
        outputs = jnp.stack([expert(x) for expert in self.experts], axis=1)  # (batch, experts, dim)
        return jnp.einsum("be,bed->bd", combine, outputs)


def experts() -> compare.Port:
    return build("mixture of experts, top 2", TorchExperts, Experts(), normal(7, 6))


class Flow(NamedTuple):
    z: Any
    log_det: Any


class TorchCoupling(nn.Module):
    """RealNVP: two affine couplings, alternating masks, a log determinant."""

    mask: torch.Tensor

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.s = nn.ModuleList([nn.Sequential(nn.Linear(dim, 8), nn.Tanh(), nn.Linear(8, dim)) for _ in range(2)])
        self.t = nn.ModuleList([nn.Sequential(nn.Linear(dim, 8), nn.Tanh(), nn.Linear(8, dim)) for _ in range(2)])
        self.register_buffer("mask", (torch.arange(dim) % 2).float())

    def forward(self, x: torch.Tensor) -> Flow:
        log_det = torch.zeros(x.shape[0], dtype=x.dtype)
        for i, (s_net, t_net) in enumerate(zip(self.s, self.t, strict=True)):
            mask = self.mask if i % 2 == 0 else 1 - self.mask
            s = torch.tanh(s_net(x * mask)) * (1 - mask)
            x = x * mask + (1 - mask) * (x * torch.exp(s) + t_net(x * mask))
            log_det = log_det + s.sum(dim=1)
        return Flow(x, log_det)


class CouplingNet(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        return linen.Dense(x.shape[-1])(jnp.tanh(linen.Dense(8)(x)))


class Coupling(linen.Module):
    def setup(self) -> None:
        self.s = [CouplingNet() for _ in range(2)]
        self.t = [CouplingNet() for _ in range(2)]

    def __call__(self, x: Array) -> Flow:
        log_det = jnp.zeros(x.shape[0])
        for i in range(2):
            mask = (jnp.arange(x.shape[-1]) % 2 == (1 if i == 0 else 0)).astype(x.dtype)
            s = jnp.tanh(self.s[i](x * mask)) * (1 - mask)
            x = mask * x + (1 - mask) * (x * jnp.exp(s) + self.t[i](x * mask))
            log_det = log_det + jnp.sum(s, axis=1)
        return Flow(x, log_det)


def coupling() -> compare.Port:
    return build("RealNVP coupling, Linen setup", TorchCoupling, Coupling(), normal(5, 6))


class TorchGraphConv(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(fan_in, fan_out))
        self.bias = nn.Parameter(torch.zeros(fan_out))

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        return adjacency @ (x @ self.weight) + self.bias


class TorchGCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gc1, self.gc2 = TorchGraphConv(5, 7), TorchGraphConv(7, 3)

    def forward(self, x: torch.Tensor, adj: torch.Tensor) -> torch.Tensor:
        adj = adj + torch.eye(adj.shape[0], dtype=adj.dtype)
        degree = adj.sum(dim=1).rsqrt()
        adj = degree[:, None] * adj * degree[None, :]
        return F.log_softmax(self.gc2(F.relu(self.gc1(x, adj)), adj), dim=1)


class GraphConv(nnx.Module):
    def __init__(self, fan_in: int, fan_out: int, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(fan_in, fan_out, use_bias=False, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(fan_out))

    def __call__(self, x: Array, adjacency: Array) -> Array:
        return adjacency @ self.linear(x) + self.bias


class GCN(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.gc1, self.gc2 = GraphConv(5, 7, rngs=rngs), GraphConv(7, 3, rngs=rngs)

    def __call__(self, x: Array, adj: Array) -> Array:
        adj = adj + jnp.eye(adj.shape[0], dtype=adj.dtype)
        inverse_root = 1.0 / jnp.sqrt(adj.sum(axis=1))
        adj = inverse_root[:, None] * adj * inverse_root[None, :]
        return jax.nn.log_softmax(self.gc2(nnx.relu(self.gc1(x, adj)), adj), axis=1)


def gcn() -> compare.Port:
    adjacency = np.triu(normal(6, 6, seed=4) > 0.3, k=1).astype(np.float32)
    inputs = {"x": normal(6, 5), "adj": adjacency + adjacency.T}
    return build("graph convolution, adjacency given", TorchGCN, GCN(), inputs, frozen=("adj",))


BUILDERS = (dlrm, experts, coupling, gcn)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
