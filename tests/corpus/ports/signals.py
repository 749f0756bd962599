"""One- and three-dimensional convolutions, periodic features."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F

import compare
from tests.corpus.building import build, normal

Array = jax.Array


def channels_last(x: Any) -> Any:
    return jnp.moveaxis(x, 1, -1)


class TorchWaveNetLayer(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.pad = dilation
        self.filter = nn.Conv1d(channels, channels, 2, dilation=dilation)
        self.gate = nn.Conv1d(channels, channels, 2, dilation=dilation)
        self.residual = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, channels + 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        padded = F.pad(x, (self.pad, 0))
        y = torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded))
        return x + self.residual(y), self.skip(y)


class TorchWaveNet(nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.start = nn.Conv1d(2, channels, 1)
        self.layers = nn.ModuleList([TorchWaveNetLayer(channels, 2**i) for i in range(3)])
        self.end = nn.Conv1d(channels + 1, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self.end(F.relu(torch.stack(skips).sum(dim=0)))


class WaveNetLayer(nnx.Module):
    def __init__(self, channels: int, dilation: int, *, rngs: nnx.Rngs) -> None:
        def causal() -> nnx.Conv:
            return nnx.Conv(channels, channels, (2,), kernel_dilation=dilation, padding="CAUSAL", rngs=rngs)

        self.filter, self.gate = causal(), causal()
        self.residual = nnx.Conv(channels, channels, (1,), rngs=rngs)
        self.skip = nnx.Conv(channels, channels + 1, (1,), rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        y = jnp.tanh(self.filter(x)) * nnx.sigmoid(self.gate(x))
        return x + self.residual(y), self.skip(y)


class WaveNet(nnx.Module):
    def __init__(self, channels: int = 4) -> None:
        rngs = nnx.Rngs(0)
        self.start = nnx.Conv(2, channels, (1,), rngs=rngs)
        self.layers = nnx.List([WaveNetLayer(channels, 2**i, rngs=rngs) for i in range(3)])
        self.end = nnx.Conv(channels + 1, 3, (1,), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.start(x)
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self.end(nnx.relu(sum(skips)))


def wavenet() -> compare.Port:
    inputs = compare.Inputs(normal(2, 2, 11), channels_last)
    outputs = (None, lambda y: jnp.moveaxis(y, -1, 1))
    return build("WaveNet, dilated causal convolutions", TorchWaveNet, WaveNet(), inputs, outputs=outputs)


class TorchConv3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, (3, 1, 3), stride=(1, 2, 1), padding=(1, 0, 1))
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.act = nn.PReLU(4)
        self.pool = nn.AvgPool3d(2)
        self.head = nn.Conv1d(4, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.act(self.norm(self.conv(x))))
        return self.head(x.mean(dim=(3, 4)))


class Conv3d(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        padding = ((1, 1), (0, 0), (1, 1))
        x = linen.Conv(4, (3, 1, 3), strides=(1, 2, 1), padding=padding, name="conv")(x)
        x = linen.InstanceNorm(epsilon=1e-5, name="norm")(x)
        slope = self.param("slope", linen.initializers.constant(0.25), (4,))
        x = linen.avg_pool(jnp.where(x >= 0, x, slope * x), (2, 2, 2), strides=(2, 2, 2))
        return linen.Conv(3, (2,), padding="VALID", name="head")(x.mean(axis=(2, 3)))


def conv3d() -> compare.Port:
    inputs = compare.Inputs(normal(2, 2, 6, 9, 5), channels_last)
    outputs = (None, lambda y: jnp.moveaxis(y, -1, 1))
    return build("Conv3d, InstanceNorm, PReLU, Conv1d", TorchConv3d, Conv3d(), inputs, outputs=outputs)


class TorchSiren(nn.Module):
    """Fixed Fourier features as a buffer, then sines of large argument."""

    frequencies: torch.Tensor

    def __init__(self, features: int = 2, width: int = 9) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(features, 5) * 3.0)
        self.layers = nn.ModuleList([nn.Linear(10, width), nn.Linear(width, width)])
        self.last = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phase = 2 * torch.pi * x @ self.frequencies
        x = torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)
        for layer in self.layers:
            x = torch.sin(30.0 * layer(x))
        return self.last(x)


class Siren(nnx.Module):
    def __init__(self, features: int = 2, width: int = 9) -> None:
        rngs = nnx.Rngs(0)
        self.frequencies = nnx.Variable(jnp.zeros((features, 5)))
        self.layers = nnx.List([nnx.Linear(10, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)])
        self.last = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        phase = 2 * jnp.pi * x @ self.frequencies[...]
        x = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)
        for layer in self.layers:
            x = jnp.sin(30.0 * layer(x))
        return self.last(x)


def siren() -> compare.Port:
    return build("Fourier features and SIREN", TorchSiren, Siren(), normal(6, 2))


class TorchPositions(nn.Module):
    """The sinusoidal table of the first transformer, a float32 buffer."""

    pe: torch.Tensor

    def __init__(self, dim: int = 8, length: int = 50) -> None:
        super().__init__()
        position = torch.arange(length).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, dim, 2) * (-np.log(10000.0) / dim))
        pe = torch.zeros(1, length, dim)
        pe[0, :, 0::2] = torch.sin(position * div_term)
        pe[0, :, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)
        self.proj = nn.Linear(dim, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x * 8**0.5 + self.pe[:, : x.shape[1]])


class Positions(linen.Module):
    """The same table, computed in the call."""

    @linen.compact
    def __call__(self, x: Array) -> Array:
        dim = x.shape[-1]
        position = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None]
        div_term = jnp.exp(jnp.arange(0, dim, 2) * (-jnp.log(10000.0) / dim))
        table = jnp.stack([jnp.sin(position * div_term), jnp.cos(position * div_term)], axis=-1)
        return linen.Dense(5, name="proj")(x * jnp.sqrt(dim) + table.reshape(1, -1, dim))


def sinusoidal() -> compare.Port:
    return build("sinusoidal table: buffer against code", TorchPositions, Positions(), normal(2, 40, 8))


class TorchTimestep(nn.Module):
    """A diffusion model's time embedding: integers in, float32 sines, FiLM."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = nn.Sequential(nn.Linear(dim, 12), nn.SiLU(), nn.Linear(12, 2 * 5))
        self.inp, self.out = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        half = self.dim // 2
        frequencies = torch.exp(-np.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angles = t[:, None].float() * frequencies[None]
        scale, shift = self.mlp(torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)).chunk(2, dim=1)
        return self.out(F.silu(self.inp(x) * (1 + scale) + shift))


class Timestep(nnx.Module):
    def __init__(self, dim: int = 8) -> None:
        rngs = nnx.Rngs(0)
        self.dim = dim
        self.time_fc1, self.time_fc2 = nnx.Linear(dim, 12, rngs=rngs), nnx.Linear(12, 10, rngs=rngs)
        self.inp, self.out = nnx.Linear(5, 5, rngs=rngs), nnx.Linear(5, 5, rngs=rngs)

    def __call__(self, x: Array, t: Array) -> Array:
        half = self.dim // 2
        frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
        angles = t[:, None].astype(jnp.float32) * frequencies
        embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        scale, shift = jnp.split(self.time_fc2(jax.nn.silu(self.time_fc1(embedding))), 2, axis=1)
        return self.out(jax.nn.silu(self.inp(x) * (1 + scale) + shift))


def timestep() -> compare.Port:
    inputs = (normal(4, 5), np.array([0, 3, 250, 999], dtype=np.int32))
    return build("diffusion time embedding, FiLM", TorchTimestep, Timestep(), inputs)


BUILDERS = (wavenet, conv3d, siren, sinusoidal, timestep)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
