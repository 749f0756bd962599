"""Mistakes in one layer of images: padding, pooling, resizing, norms, the order of channels."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen
from torch import nn
from torch.nn import functional as F

from compare import Inputs, Port
from tests.corpus.mistake import Case, Family, Mistake
from tests.corpus.models import channels_last, rows, seeded

Array = jax.Array


class TorchStem(nn.Module):
    """One layer of images between a 1x1 convolution and a linear layer over the mean."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.stem, self.layer, self.fc = nn.Conv2d(2, 4, 1), layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.layer(self.stem(x)))
        return self.fc((x * torch.linspace(0.5, 1.5, x.shape[-1], dtype=x.dtype)).mean((2, 3)))


class Stem(linen.Module):
    layer: Callable[[Array], Array]
    tilt: bool = True

    @linen.compact
    def __call__(self, x: Array) -> Array:
        x = jnp.tanh(self.layer(linen.Conv(4, (1, 1), name="stem")(x)))
        return linen.Dense(3, name="fc")((x * jnp.linspace(0.5, 1.5, x.shape[2])[:, None]).mean((1, 2)))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def stem(layer: Callable[[], nn.Module], flax: Callable[[], Any], width: int = 4) -> Callable[[], Case]:
    """A case for a single image layer."""
    images = Inputs(torch=rows(2, 2, 5, 4), flax=channels_last)
    return lambda: Case("check", (Port(seeded(lambda: TorchStem(layer(), width)), Stem(flax()), images),))


def resize(method: str, antialias: bool = True) -> Callable[[Array], Array]:
    return lambda x: jax.image.resize(
        x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), method, antialias=antialias
    )


def halved(method: str, antialias: bool) -> Callable[[Array], Array]:
    return lambda x: jax.image.resize(x, (x.shape[0], 3, 2, x.shape[3]), method, antialias=antialias)


def pixel_shuffle(x: Array, columns_first: bool) -> Array:
    """torch's channel is row * 2 + column of the block."""
    batch, height, width, _ = x.shape
    blocks = x.reshape(batch, height, width, 2, 2)
    blocks = blocks.transpose(0, 1, 4, 2, 3) if columns_first else blocks.transpose(0, 1, 3, 2, 4)
    return blocks.reshape(batch, 2 * height, 2 * width, 1)


def up(mode: str, **more: Any) -> Callable[[], nn.Module]:
    return lambda: Call(lambda x: F.interpolate(x, scale_factor=2, mode=mode, **more))


def down() -> nn.Module:
    return Call(lambda x: F.interpolate(x, size=(3, 2), mode="bilinear", align_corners=False))


LAYER = ("inside layer", "before fc")
# name: words, torch layer, wrong, right, acceptable causes, channels after the layer
LAYERS: dict[str, tuple[str, Callable[[], nn.Module], Any, Any, tuple[str, ...] | None, int]] = {
    "align_corners": (
        "align_corners=True in torch; jax.image.resize has only the other",
        up("bilinear", align_corners=True),
        lambda: resize("bilinear"),
        None,
        ("align_corners",),
        4,
    ),
    "nearest_for_bilinear": (
        "nearest for bilinear",
        up("bilinear", align_corners=False),
        lambda: resize("nearest"),
        lambda: resize("bilinear"),
        ("interpolation_mode",),
        4,
    ),
    "antialias": (
        "jax.image.resize antialiases when it shrinks",
        down,
        lambda: halved("bilinear", True),
        lambda: halved("bilinear", False),
        ("antialias",),
        4,
    ),
    "bicubic": (
        "torch's cubic kernel has a = -0.75, JAX's -0.5",
        up("bicubic", align_corners=False),
        lambda: resize("bicubic"),
        None,
        None,
        4,
    ),
    "pixel_shuffle_order": (
        "rows and columns of the block exchanged",
        lambda: nn.PixelShuffle(2),
        lambda: lambda x: pixel_shuffle(x, True),
        lambda: lambda x: pixel_shuffle(x, False),
        ("pixel_shuffle_order",),
        1,
    ),
    "reflect_for_zero": (
        "zeros for reflection at the border",
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        lambda: linen.Conv(4, (3, 3), padding=1, name="layer"),
        lambda: functools.partial(padded, mode="reflect"),
        ("padding_mode",),
        4,
    ),
    "symmetric_for_reflect": (
        "symmetric padding repeats the border, reflection does not",
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        lambda: functools.partial(padded, mode="symmetric"),
        lambda: functools.partial(padded, mode="reflect"),
        ("padding_mode",),
        4,
    ),
    "transposed_padding": (
        "ConvTranspose with SAME padding",
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        lambda: linen.ConvTranspose(6, (3, 3), (2, 2), padding="SAME", transpose_kernel=True, name="layer"),
        lambda: linen.ConvTranspose(6, (3, 3), (2, 2), padding=((1, 2), (1, 2)), transpose_kernel=True, name="layer"),
        ("padding", "padding_same"),
        6,
    ),
    "transposed_kernel_flip": (
        "ConvTranspose without transpose_kernel, kernel not flipped",
        lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1),
        lambda: linen.ConvTranspose(4, (3, 3), (2, 2), padding=((1, 2), (1, 2)), name="layer"),
        lambda: linen.ConvTranspose(4, (3, 3), (2, 2), padding=((1, 2), (1, 2)), transpose_kernel=True, name="layer"),
        ("kernel_flipped",),
        4,
    ),
    "instance_for_batch_axes": (
        "instance norm over the channels: layer norm",
        lambda: nn.InstanceNorm2d(4),
        lambda: linen.LayerNorm(use_bias=False, use_scale=False, epsilon=1e-5, use_fast_variance=False),
        lambda: linen.InstanceNorm(use_bias=False, use_scale=False, epsilon=1e-5, use_fast_variance=False),
        ("norm_axes",),
        4,
    ),
    "prelu_shared": (
        "one slope for all channels of a PReLU that has one each",
        lambda: nn.PReLU(4),
        lambda: Slope(True),
        lambda: Slope(False),
        None,
        4,
    ),
    "max_pool_stride": (
        "torch's pooling strides by its window, Linen's by 1",
        lambda: nn.MaxPool2d(2),
        lambda: lambda x: linen.max_pool(x, (2, 2)),
        lambda: lambda x: linen.max_pool(x, (2, 2), (2, 2)),
        ("pool_stride",),
        4,
    ),
    "ceil_mode": (
        "ceil_mode left out",
        lambda: nn.MaxPool2d(2, ceil_mode=True),
        lambda: lambda x: linen.max_pool(x, (2, 2), (2, 2)),
        lambda: lambda x: linen.max_pool(x, (2, 2), (2, 2), "SAME"),
        ("ceil_mode",),
        4,
    ),
    "channel_shuffle": (
        "channel shuffle by (size, groups) for (groups, size)",
        lambda: nn.ChannelShuffle(2),
        lambda: lambda x: shuffled(x, 1, first=2),
        lambda: lambda x: shuffled(x, 2, first=2),
        None,
        4,
    ),
    "dense_for_grouped_norm": (
        "GroupNorm with one group for two",
        lambda: nn.GroupNorm(2, 4),
        lambda: linen.GroupNorm(1, epsilon=1e-5, use_fast_variance=False, name="layer"),
        lambda: linen.GroupNorm(2, epsilon=1e-5, use_fast_variance=False, name="layer"),
        ("group_count",),
        4,
    ),
}


def shuffled(x: Array, groups: int, first: int) -> Array:
    """(batch, height, width, channels) with its channels dealt out."""
    shape = x.shape
    x = x.reshape(*shape[:3], first, -1)
    return (x.swapaxes(3, 4) if groups == first else x[..., ::-1]).reshape(shape)


def padded(x: Array, mode: str) -> Array:
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
    return linen.Conv(4, (3, 3), padding="VALID", name="layer")(x)


class Slope(linen.Module):
    shared: bool

    @linen.compact
    def __call__(self, x: Array) -> Array:
        slope = self.param("weight", linen.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x > 0, x, (slope[0] if self.shared else slope) * x)


FAMILY = Family(
    "images",
    {name: stem(layer, right, width) for name, (_, layer, _, right, _, width) in LAYERS.items() if right},
    tuple(
        Mistake(name, words, stem(layer, wrong, width), LAYER, None if causes is None else frozenset(causes))
        for name, (words, layer, wrong, _, causes, width) in LAYERS.items()
    ),
)
