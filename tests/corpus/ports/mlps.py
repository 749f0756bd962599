"""Fully connected nets: deep ones, sequences, tied layers, structured inputs and outputs."""

import dataclasses
import itertools
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


class TorchResidualBlock(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.fc2(F.silu(self.fc1(self.norm(x)))))


class TorchResidualMLP(nn.Module):
    def __init__(self, features: int = 7, width: int = 8, depth: int = 32, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.blocks = nn.ModuleList([TorchResidualBlock(width, width + 2) for _ in range(depth)])
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class ResidualBlock(nnx.Module):
    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.fc1 = nnx.Linear(width, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, width, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.drop(self.fc2(nnx.silu(self.fc1(self.norm(x)))))


class ResidualMLP(nnx.Module):
    def __init__(self, features: int = 7, width: int = 8, depth: int = 32, classes: int = 3) -> None:
        rngs = nnx.Rngs(0)
        self.stem = nnx.Linear(features, width, rngs=rngs)
        self.blocks = nnx.List([ResidualBlock(width, width + 2, rngs=rngs) for _ in range(depth)])
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def residual_mlp() -> compare.Port:
    return build("residual MLP, 32 blocks", TorchResidualMLP, ResidualMLP(), normal(5, 7))


def torch_tanh_net() -> nn.Module:
    sizes = [6, *[9] * 29, 4]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class LinenTanhNet(linen.Module):
    sizes: tuple[int, ...] = (*[9] * 29, 4)

    @linen.compact
    def __call__(self, x: Array) -> Array:
        for i, size in enumerate(self.sizes):
            x = linen.Dense(size)(x)
            if i < len(self.sizes) - 1:
                x = jnp.tanh(x)
        return x


def tanh_net() -> compare.Port:
    return build("tanh net, 30 layers, Linen's own names", torch_tanh_net, LinenTanhNet(), normal(5, 6))


def sequential() -> compare.Port:
    def make_torch() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Dropout(0.2), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))

    rngs = nnx.Rngs(0)
    flax = nnx.Sequential(
        nnx.Linear(6, 10, rngs=rngs),
        lambda x: nnx.gelu(x, approximate=False),
        nnx.Dropout(0.2, rngs=rngs),
        nnx.Linear(10, 8, rngs=rngs),
        nnx.relu,
        nnx.Linear(8, 3, rngs=rngs),
    )
    return build("Sequential against nnx.Sequential", make_torch, flax, normal(4, 6))


def large_inputs() -> compare.Port:
    def make_torch() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3))

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Array, train: bool = False) -> Array:
            x = linen.Dense(10)(x)
            x = linen.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x)
            return linen.Dense(3)(nnx.relu(x))

    return build("inputs of 1e4", make_torch, Net(), 1e4 * normal(6, 6))


class TorchTiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(9, 4)
        self.decoder_bias = nn.Parameter(torch.zeros(9))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = torch.sigmoid(self.encoder(x))
        return F.linear(code, self.encoder.weight.t(), self.decoder_bias), code


class TiedAutoencoder(nnx.Module):
    def __init__(self) -> None:
        self.encoder = nnx.Linear(9, 4, rngs=nnx.Rngs(0))
        self.decoder_bias = nnx.Param(jnp.zeros(9))

    def __call__(self, x: Array) -> tuple[Array, Array]:
        code = jax.nn.sigmoid(self.encoder(x))
        return code @ self.encoder.kernel[...].T + self.decoder_bias[...], code


def tied_autoencoder() -> compare.Port:
    return build("tied autoencoder", TorchTiedAutoencoder, TiedAutoencoder(), normal(5, 9))


@dataclasses.dataclass
class TwoHeads:
    logits: Any
    value: Any
    extras: dict[str, Any]


class TorchTwoTowers(nn.Module):
    """Two inputs by keyword, a mask, and a dataclass of results."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Sequential(nn.Linear(5, 8), nn.ELU())
        self.item = nn.Sequential(nn.Linear(7, 8), nn.ELU())
        self.policy = nn.Linear(8, 3)
        self.value = nn.Linear(8, 1)

    def forward(self, user: torch.Tensor, item: torch.Tensor, mask: torch.Tensor | None = None) -> TwoHeads:
        joint = self.user(user) * self.item(item)
        logits = self.policy(joint)
        if mask is not None:
            logits = logits.masked_fill(~mask, -1e9)
        probabilities = F.log_softmax(logits, dim=-1)
        return TwoHeads(probabilities, self.value(joint).squeeze(-1), {"norm": joint.norm(dim=-1)})


class Tower(nnx.Module):
    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(features, 8, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return jax.nn.elu(self.dense(x))


class TwoTowers(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.user_tower = Tower(5, rngs=rngs)
        self.item_tower = Tower(7, rngs=rngs)
        self.policy_head = nnx.Linear(8, 3, rngs=rngs)
        self.value_head = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, user: Array, item: Array, mask: Array | None = None) -> TwoHeads:
        joint = self.user_tower(user) * self.item_tower(item)
        logits = self.policy_head(joint)
        if mask is not None:
            logits = jnp.where(mask, logits, -1e9)
        norm = jnp.linalg.norm(joint, axis=-1)
        return TwoHeads(jax.nn.log_softmax(logits), self.value_head(joint)[..., 0], {"norm": norm})


def two_towers() -> compare.Port:
    mask = normal(6, 3, seed=3) > -0.5
    mask[:, 0] = True
    inputs = {"user": normal(6, 5), "item": normal(6, 7, seed=1), "mask": mask}
    return build("two towers, keywords, mask, dataclass", TorchTwoTowers, TwoTowers(), inputs)


BUILDERS = (residual_mlp, tanh_net, sequential, large_inputs, tied_autoencoder, two_towers)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
