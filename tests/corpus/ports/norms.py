"""Normalisations of every kind, PReLU, reparametrised weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import compare
from tests.corpus.building import build, normal

Array = jax.Array


class TorchNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.group = nn.GroupNorm(3, 6)
        self.prelu = nn.PReLU()
        self.instance = nn.InstanceNorm2d(6)
        self.layer = nn.LayerNorm([5, 4])  # the last two dimensions of NCHW
        self.out = nn.Linear(4, 3)
        self.rms = nn.RMSNorm(3, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.group(self.conv(x)))
        x = self.layer(x + self.instance(x))
        return self.rms(self.out(x))


class Norms(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 6, (3, 3), padding="VALID", rngs=rngs)
        self.group = nnx.GroupNorm(6, num_groups=3, epsilon=1e-5, rngs=rngs)
        self.prelu = nnx.PReLU(0.25)
        self.weight = nnx.Param(jnp.ones((5, 4)))
        self.bias = nnx.Param(jnp.zeros((5, 4)))
        self.out = nnx.Linear(4, 3, rngs=rngs)
        self.rms = nnx.RMSNorm(3, epsilon=1e-6, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.prelu(self.group(self.conv(x)))  # (batch, height, width, channels)
        mean, var = x.mean(axis=(1, 2), keepdims=True), x.var(axis=(1, 2), keepdims=True)
        x = jnp.transpose(x + (x - mean) / jnp.sqrt(var + 1e-5), (0, 3, 1, 2))
        mean, var = x.mean(axis=(2, 3), keepdims=True), x.var(axis=(2, 3), keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(var + 1e-5) * self.weight[...] + self.bias[...]
        return self.rms(self.out(x))


def norms() -> compare.Port:
    inputs = compare.Inputs(normal(2, 3, 7, 6), lambda x: jnp.transpose(x, (0, 2, 3, 1)))
    return build("GroupNorm, InstanceNorm, LayerNorm over two axes, PReLU, RMSNorm", TorchNorms, Norms(), inputs)


class TorchWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v = weight_norm(nn.Linear(5, 7), dim=0)
        self.out = nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.v(x)))


class WeightNorm(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.v = nnx.Param(jnp.ones((5, 7)))
        self.g = nnx.Param(jnp.ones((7,)))
        self.b = nnx.Param(jnp.zeros((7,)))
        self.out = nnx.Linear(7, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        kernel = self.g[...] * self.v[...] / jnp.linalg.norm(self.v[...], axis=0)
        return self.out(nnx.relu(x @ kernel + self.b[...]))


def weight_normalised() -> compare.Port:
    mapping = {
        "v.parametrizations.weight.original0": ("g", lambda g: g[:, 0]),
        "v.parametrizations.weight.original1": ("v", lambda v: v.T),
        "v.bias": "b",
    }
    return build("weight norm", TorchWeightNorm, WeightNorm(), normal(4, 5), mapping=mapping)


class TorchRevIN(nn.Module):
    """Series normalised by their own mean and deviation, and put back after the net."""

    def __init__(self, length: int = 12, horizon: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.affine_weight = nn.Parameter(torch.ones(channels))
        self.affine_bias = nn.Parameter(torch.zeros(channels))
        self.linear = nn.Linear(length, horizon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=1, keepdim=True).detach()
        std = torch.sqrt(torch.var(x, dim=1, keepdim=True, unbiased=False) + 1e-5).detach()
        y = (x - mean) / std * self.affine_weight + self.affine_bias
        y = self.linear(y.transpose(1, 2)).transpose(1, 2)
        return (y - self.affine_bias) / (self.affine_weight + 1e-10) * std + mean


class RevIN(nnx.Module):
    def __init__(self, length: int = 12, horizon: int = 4, channels: int = 3) -> None:
        self.affine_weight = nnx.Param(jnp.ones(channels))
        self.affine_bias = nnx.Param(jnp.zeros(channels))
        self.linear = nnx.Linear(length, horizon, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        mean = jax.lax.stop_gradient(jnp.mean(x, axis=1, keepdims=True))
        std = jax.lax.stop_gradient(jnp.sqrt(jnp.var(x, axis=1, keepdims=True) + 1e-5))
        y = (x - mean) / std * self.affine_weight[...] + self.affine_bias[...]
        y = jnp.swapaxes(self.linear(jnp.swapaxes(y, 1, 2)), 1, 2)
        return (y - self.affine_bias[...]) / (self.affine_weight[...] + 1e-10) * std + mean


def revin() -> compare.Port:
    return build("reversible instance norm, detached statistics", TorchRevIN, RevIN(), 50 + 8 * normal(3, 12, 3))


def torch_batch_norm_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False)
    )


class BatchNormMLP(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.Sequential(
            nnx.Linear(5, 8, rngs=rngs),
            nnx.BatchNorm(8, momentum=0.9, epsilon=1e-5, rngs=rngs),
            jax.nn.relu,
            nnx.Dropout(0.3, rngs=rngs),
            nnx.Linear(8, 6, rngs=rngs),
            nnx.BatchNorm(6, momentum=0.9, epsilon=1e-5, use_bias=False, use_scale=False, rngs=rngs),
        )

    def __call__(self, x: Array) -> Array:
        return self.layers(x)


def batch_norm_train() -> compare.Port:
    return build("batch norm and dropout, train mode", torch_batch_norm_mlp, BatchNormMLP(), normal(8, 5), mode="train")


class TorchClassifier(nn.Module):
    """The batch's loss is the output, labels among the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.Mish(), nn.Linear(7, 4))
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        logits = self.body(x)
        return {"loss": self.loss(logits, labels), "logits": logits}


class Classifier(linen.Module):
    @linen.compact
    def __call__(self, x: Array, labels: Array) -> dict[str, Any]:
        logits = linen.Dense(4)(jax.nn.mish(linen.Dense(7)(x)))
        targets = optax_smooth(jax.nn.one_hot(labels, 4), 0.1)
        return {"loss": -(targets * jax.nn.log_softmax(logits)).sum(axis=-1).mean(), "logits": logits}


def optax_smooth(targets: Array, alpha: float) -> Array:
    import optax

    return optax.smooth_labels(targets, alpha)


def classifier() -> compare.Port:
    inputs = {"x": normal(6, 5), "labels": np.array([0, 1, 2, 3, 1, 0], dtype=np.int64)}
    return build("classifier with its loss, labels as input", TorchClassifier, Classifier(), inputs)


BUILDERS = (norms, weight_normalised, revin, batch_norm_train, classifier)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
