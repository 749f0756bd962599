"""A list of torch layers as one stack of arrays under scan."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F

import compare
from tests.corpus.building import build, normal

Array = jax.Array


class TorchLayer(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class TorchStack(nn.Module):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.layers = nn.ModuleList([TorchLayer(6, 9) for _ in range(depth)])
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class LinenLayer(linen.Module):
    @linen.compact
    def __call__(self, x: Array, _: Any) -> tuple[Array, None]:
        y = linen.LayerNorm(epsilon=1e-5, name="norm")(x)
        y = linen.gelu(linen.Dense(9, name="fc1")(y), approximate=False)
        return x + linen.Dense(x.shape[-1], name="fc2")(y), None


class LinenStack(linen.Module):
    depth: int = 3

    @linen.compact
    def __call__(self, x: Array) -> Array:
        x = linen.Dense(6, name="embed")(x)
        layers = linen.scan(LinenLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
        x, _ = layers(name="layers")(x, None)
        return linen.Dense(2, name="head")(x)


def linen_scan() -> compare.Port:
    return build("layers under linen.scan", TorchStack, LinenStack(), normal(5, 4))


class Layer(nnx.Module):
    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(dim, hidden, rngs=rngs), nnx.Linear(hidden, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.fc2(jax.nn.gelu(self.fc1(self.norm(x)), approximate=False))


class Stack(nnx.Module):
    def __init__(self, depth: int = 3) -> None:
        rngs = nnx.Rngs(0)

        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def create(rngs: nnx.Rngs) -> Layer:
            return Layer(6, 9, rngs=rngs)

        self.embed = nnx.Linear(4, 6, rngs=rngs)
        self.layers = create(rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x: Array, layer: Layer) -> Array:
            return layer(x)

        return self.head(forward(self.embed(x), self.layers))


def nnx_scan() -> compare.Port:
    return build("layers under nnx.scan", TorchStack, Stack(), normal(5, 4))


class TorchEnsemble(nn.Module):
    """Four small nets apart, their answers stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        votes = torch.stack([member(x) for member in self.members])
        return {"mean": votes.mean(dim=0), "std": votes.std(dim=0)}


class LinenMember(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        return linen.Dense(2)(jnp.tanh(linen.Dense(5)(x)))


class LinenEnsemble(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        members = linen.vmap(
            LinenMember, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=4
        )
        votes = members(name="members")(x)
        return {"mean": votes.mean(axis=0), "std": votes.std(axis=0, ddof=1)}


def ensemble() -> compare.Port:
    return build("ensemble under linen.vmap", TorchEnsemble, LinenEnsemble(), normal(4, 3))


BUILDERS = (linen_scan, nnx_scan, ensemble)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
