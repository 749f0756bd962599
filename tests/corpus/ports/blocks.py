"""Blocks of convolutional nets: MobileNet, squeeze and excitation, ConvNeXt."""

from functools import partial

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F

import compare
from tests.corpus.building import build
from tests.corpus.ports.resnets import images, nchw

Array = jax.Array


class TorchInvertedResidual(nn.Module):
    def __init__(self, channels: int = 6, hidden: int = 12) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, channels, 1, groups=2),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x)


class InvertedResidual(nnx.Module):
    def __init__(self, channels: int = 6, hidden: int = 12) -> None:
        rngs = nnx.Rngs(0)
        norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.expand = nnx.Conv(channels, hidden, (1, 1), use_bias=False, rngs=rngs)
        self.expand_norm = norm(hidden)
        self.depthwise = nnx.Conv(
            hidden, hidden, (3, 3), padding=1, feature_group_count=hidden, use_bias=False, rngs=rngs
        )
        self.depthwise_norm = norm(hidden)
        self.project = nnx.Conv(hidden, channels, (1, 1), feature_group_count=2, rngs=rngs)
        self.project_norm = norm(channels)

    def __call__(self, x: Array) -> Array:
        y = jax.nn.relu6(self.expand_norm(self.expand(x)))
        y = jax.nn.relu6(self.depthwise_norm(self.depthwise(y)))
        return x + self.project_norm(self.project(y))


def mobilenet() -> compare.Port:
    inputs = images(2, 6, 7, 5)
    return build("MobileNet block", TorchInvertedResidual, InvertedResidual(), inputs, outputs=(None, nchw))


class TorchSqueezeExcite(nn.Module):
    def __init__(self, channels: int = 8, reduction: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, (3, 5), stride=(2, 1), padding=(1, 2), dilation=1)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.Hardswish()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn(self.conv(x)))
        scale = F.adaptive_avg_pool2d(x, 1)
        scale = F.hardsigmoid(self.fc2(F.relu(self.fc1(scale))))
        return (scale * x).amax(dim=(2, 3))


class SqueezeExcite(nnx.Module):
    def __init__(self, channels: int = 8, reduction: int = 2) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, channels, (3, 5), strides=(2, 1), padding=((1, 1), (2, 2)), rngs=rngs)
        self.bn = nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.fc1 = nnx.Linear(channels, channels // reduction, rngs=rngs)
        self.fc2 = nnx.Linear(channels // reduction, channels, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = jax.nn.hard_swish(self.bn(self.conv(x)))
        scale = jnp.mean(x, axis=(1, 2))
        scale = jax.nn.hard_sigmoid(self.fc2(nnx.relu(self.fc1(scale))))
        return jnp.max(scale[:, None, None, :] * x, axis=(1, 2))


def squeeze_excite() -> compare.Port:
    return build(
        "squeeze and excitation, 1x1 convolutions as Linear", TorchSqueezeExcite, SqueezeExcite(), images(2, 3, 9, 8)
    )


class TorchConvNeXtBlock(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        return shortcut + x.permute(0, 3, 1, 2)


class ConvNeXtBlock(linen.Module):
    dim: int = 6

    @linen.compact
    def __call__(self, x: Array) -> Array:
        shortcut = x
        x = linen.Conv(self.dim, (7, 7), feature_group_count=self.dim, name="dwconv")(x)
        x = linen.LayerNorm(epsilon=1e-6, name="norm")(x)
        x = linen.gelu(linen.Dense(4 * self.dim, name="pwconv1")(x), approximate=False)
        x = linen.Dense(self.dim, name="pwconv2")(x)
        gamma = self.param("gamma", linen.initializers.constant(1e-6), (self.dim,))
        return shortcut + gamma * x


def convnext() -> compare.Port:
    inputs = images(2, 6, 8, 7)
    return build("ConvNeXt block, layer scale 1e-6", TorchConvNeXtBlock, ConvNeXtBlock(), inputs, outputs=(None, nchw))


BUILDERS = (mobilenet, squeeze_excite, convnext)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
