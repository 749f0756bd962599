"""Mistakes in a convolutional net, NCHW in torch, NHWC in Linen, in evaluation and in training mode."""

import dataclasses
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
from tests.corpus.models import rows, seeded

Array = jax.Array


class TorchConvNet(nn.Module):
    """2x10x8 images: at odd sizes SAME would be padding 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4, momentum=0.1)
        self.depth = nn.Conv2d(4, 8, (3, 2), padding=(1, 0), groups=4)
        self.gn, self.conv2 = nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 3, padding=2, dilation=2)
        self.fc = nn.Linear(6 * 3 * 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.bn1(self.conv1(x)), 0.1)
        x = F.max_pool2d(x, 3, stride=1, padding=1)  # (batch, 4, 5, 4)
        x = F.silu(self.gn(self.depth(x)))  # (batch, 8, 5, 3)
        x = F.relu(self.conv2(x))
        x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)  # (batch, 6, 3, 2)
        return self.fc(x.flatten(1))


@dataclasses.dataclass(frozen=True)
class Flaws:
    """What is wrong with the port; nothing by default."""

    same: bool = False
    stride_after: bool = False
    slope: float = 0.1
    pool_padding: str = "minus infinity"
    pool_swapped: bool = False
    count_pad: bool = False
    flatten: str = "channels first"
    groups: int = 2
    group_epsilon: float = 1e-5
    dilation: int = 2
    batch_epsilon: float = 1e-5
    momentum: float = 0.9
    running: bool = False
    bias: bool = True
    order: str = "norm first"
    axes: tuple[int, ...] = ()
    channels: int = 1
    norm_affine: bool = True
    transposed_image: bool = False
    shared_statistics: bool = False


class ConvNet(linen.Module):
    flaws: Flaws = Flaws()

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        flaws = self.flaws
        x = x[..., :: flaws.channels]
        padding = "SAME" if flaws.same else 1
        x = linen.Conv(4, (3, 3), 2, padding, use_bias=flaws.bias, name="conv1")(x)
        bn = linen.BatchNorm(
            flaws.running or not train, momentum=flaws.momentum, epsilon=flaws.batch_epsilon, use_fast_variance=False,
            use_scale=flaws.norm_affine, name="bn1",
        )
        if flaws.order == "activation first":
            x = bn(jax.nn.leaky_relu(x, flaws.slope))
        else:
            x = jax.nn.leaky_relu(bn(x), flaws.slope)
        if flaws.pool_padding == "zeros":
            x = linen.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3))
        else:
            pool = linen.avg_pool if flaws.pool_swapped else linen.max_pool
            x = pool(x, (3, 3), padding=((1, 1), (1, 1)))
        x = linen.Conv(8, (3, 2), padding=((1, 1), (0, 0)), feature_group_count=4, name="depth")(x)
        gn = linen.GroupNorm(flaws.groups, epsilon=flaws.group_epsilon, use_fast_variance=False, name="gn")
        x = jax.nn.silu(gn(x))
        x = jax.nn.relu(linen.Conv(6, (3, 3), padding=flaws.dilation, kernel_dilation=flaws.dilation, name="conv2")(x))
        x = linen.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=flaws.count_pad)
        if flaws.flatten == "channels first":
            x = x.transpose(0, 3, 1, 2)
        elif flaws.flatten == "width first":
            x = x.transpose(0, 3, 2, 1)
        return linen.Dense(3, name="fc")(x.reshape(x.shape[0], -1))


def channels_last(x: Array) -> Array:
    return jnp.transpose(x, (0, 2, 3, 1))


def case(flaws: Flaws | None = None, height: int = 10, width: int = 8, batch: int = 3, **fields: Any) -> Case:
    """A check of the net with these flaws."""
    images = Inputs(torch=rows(batch, 2, height, width), flax=channels_last)
    return Case("check", (Port(seeded(TorchConvNet), ConvNet(flaws or Flaws()), images, **fields),))


def mistake(name: str, words: str, places: tuple[str, ...], causes: tuple[str, ...] | None, flaws: Flaws, **more: Any) -> Any:
    """One flaw of the whole net."""
    fields = {key: more.pop(key) for key in ("mode", "batch") if key in more}
    names = None if causes is None else frozenset(causes)
    return Mistake(name, words, lambda: case(flaws, **fields), places, names, **more)


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
    return lambda x: jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), method, antialias=antialias)


def halved(method: str, antialias: bool) -> Callable[[Array], Array]:
    return lambda x: jax.image.resize(x, (x.shape[0], 3, 2, x.shape[3]), method, antialias=antialias)


def pixel_shuffle(x: Array, channels_outer: bool) -> Array:
    batch, height, width, _ = x.shape
    if channels_outer:  # torch: channel c * 4 + row * 2 + column
        x = x.reshape(batch, height, width, -1, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    else:
        x = x.reshape(batch, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, -1)


def up(mode: str, **more: Any) -> Callable[[], nn.Module]:
    return lambda: Call(lambda x: F.interpolate(x, scale_factor=2, mode=mode, **more))


def down() -> nn.Module:
    return Call(lambda x: F.interpolate(x, size=(3, 2), mode="bilinear", align_corners=False))


LAYER = ("inside layer", "before fc")
# name: words, torch layer, wrong, right, acceptable causes, channels after the layer
LAYERS: dict[str, tuple[str, Callable[[], nn.Module], Any, Any, tuple[str, ...] | None, int]] = {
    "align_corners": (
        "align_corners=True in torch; jax.image.resize has only the other",
        up("bilinear", align_corners=True), lambda: resize("bilinear"), None, ("align_corners",), 4),
    "nearest_for_bilinear": (
        "nearest for bilinear", up("bilinear", align_corners=False), lambda: resize("nearest"), lambda: resize("bilinear"),
        ("interpolation_mode",), 4),
    "antialias": (
        "jax.image.resize antialiases when it shrinks", down, lambda: halved("bilinear", True),
        lambda: halved("bilinear", False), ("antialias",), 4),
    "bicubic": (
        "torch's cubic kernel has a = -0.75, JAX's -0.5", up("bicubic", align_corners=False), lambda: resize("bicubic"), None,
        None, 4),
    "pixel_shuffle_order": (
        "depth-to-space with the block outermost, as TensorFlow", lambda: nn.PixelShuffle(2),
        lambda: lambda x: pixel_shuffle(x, False), lambda: lambda x: pixel_shuffle(x, True), ("pixel_shuffle_order",), 1),
    "reflect_for_zero": (
        "zeros for reflection at the border",
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        lambda: linen.Conv(4, (3, 3), padding=1, name="layer"),
        lambda: Reflected("reflect"), ("padding_mode",), 4),
    "symmetric_for_reflect": (
        "symmetric padding repeats the border, reflection does not",
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        lambda: Reflected("symmetric"), lambda: Reflected("reflect"), ("padding_mode",), 4),
    "transposed_padding": (
        "ConvTranspose with SAME padding",
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        lambda: linen.ConvTranspose(6, (3, 3), (2, 2), padding="SAME", transpose_kernel=True, name="layer"),
        lambda: linen.ConvTranspose(6, (3, 3), (2, 2), padding=((1, 2), (1, 2)), transpose_kernel=True, name="layer"),
        ("padding", "padding_same"), 6),
    "transposed_kernel_flip": (
        "ConvTranspose without transpose_kernel, kernel not flipped",
        lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1),
        lambda: linen.ConvTranspose(4, (3, 3), (2, 2), padding=((1, 2), (1, 2)), name="layer"),
        lambda: linen.ConvTranspose(4, (3, 3), (2, 2), padding=((1, 2), (1, 2)), transpose_kernel=True, name="layer"),
        ("kernel_flipped",), 4),
    "instance_for_batch_axes": (
        "instance norm over the channels: layer norm",
        lambda: nn.InstanceNorm2d(4),
        lambda: linen.LayerNorm(use_bias=False, use_scale=False, epsilon=1e-5, use_fast_variance=False),
        lambda: linen.InstanceNorm(use_bias=False, use_scale=False, epsilon=1e-5, use_fast_variance=False),
        ("norm_axes",), 4),
    "prelu_shared": (
        "one slope for all channels of a PReLU that has one each",
        lambda: nn.PReLU(4), lambda: Slope(True), lambda: Slope(False), None, 4),
    "max_pool_stride": (
        "torch's pooling strides by its window, Linen's by 1",
        lambda: nn.MaxPool2d(2), lambda: lambda x: linen.max_pool(x, (2, 2)),
        lambda: lambda x: linen.max_pool(x, (2, 2), (2, 2)), ("pool_stride",), 4),
    "ceil_mode": (
        "ceil_mode left out", lambda: nn.MaxPool2d(2, ceil_mode=True), lambda: lambda x: linen.max_pool(x, (2, 2), (2, 2)),
        lambda: lambda x: linen.max_pool(x, (2, 2), (2, 2), "SAME"), ("ceil_mode",), 4),
    "channel_shuffle": (
        "channel shuffle by (size, groups) for (groups, size)", lambda: nn.ChannelShuffle(2),
        lambda: lambda x: shuffled(x, 1, first=2), lambda: lambda x: shuffled(x, 2, first=2), None, 4),
    "dense_for_grouped_norm": (
        "GroupNorm with one group for two", lambda: nn.GroupNorm(2, 4),
        lambda: linen.GroupNorm(1, epsilon=1e-5, use_fast_variance=False, name="layer"),
        lambda: linen.GroupNorm(2, epsilon=1e-5, use_fast_variance=False, name="layer"), ("group_count",), 4),
}


def shuffled(x: Array, groups: int, first: int) -> Array:
    """(batch, height, width, channels) with its channels dealt out."""
    shape = x.shape
    x = x.reshape(*shape[:3], first, -1)
    return (x.swapaxes(3, 4) if groups == first else x[..., ::-1]).reshape(shape)


class Reflected(linen.Module):
    mode: str

    @linen.compact
    def __call__(self, x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=self.mode)
        return linen.Conv(4, (3, 3), padding="VALID", name="conv")(x)


class Slope(linen.Module):
    shared: bool

    @linen.compact
    def __call__(self, x: Array) -> Array:
        slope = self.param("slope", linen.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x > 0, x, (slope[0] if self.shared else slope) * x)


STATISTICS = {"checks": ("statistics",), "mode": "train"}
FAMILY = Family(
    "convolutional",
    {
        "eval": case, "train": lambda: case(mode="train"),
        **{name: stem(layer, right, width) for name, (_, layer, _, right, _, width) in LAYERS.items() if right},
    },
    (
        mistake("same_padding", "SAME for padding 1 at stride 2", ("inside conv1",), ("padding", "padding_same"), Flaws(same=True)),
        mistake("leaky_slope", "default slope", ("before depth",), ("leaky_slope",), Flaws(slope=0.01)),
        mistake("pool_zero_padding", "max pooling over zeros at the border", ("before depth",), ("pool_padding", "padding_missing",),
                Flaws(pool_padding="zeros")),
        mistake("average_for_max", "average pooling for max pooling", ("before depth",), ("pool_kind",), Flaws(pool_swapped=True)),
        mistake("count_include_pad", "zeros at the border count", ("before fc",), ("count_include_pad",), Flaws(count_pad=True)),
        mistake("flatten_order", "flattened in NHWC order", ("before fc",), ("flatten_order",), Flaws(flatten="as it is")),
        mistake("flatten_width_first", "flattened with height and width exchanged", ("before fc",), ("flatten_order",),
                Flaws(flatten="width first")),
        mistake("group_count", "GroupNorm with 4 groups for 2", ("inside gn",), ("group_count",), Flaws(groups=4)),
        mistake("group_epsilon", "Flax's default epsilon in GroupNorm", ("inside gn",), ("norm_epsilon",), Flaws(group_epsilon=1e-6)),
        mistake("dilation", "dilation left out", ("inside conv2",), ("dilation",), Flaws(dilation=1)),
        mistake("batch_epsilon", "Keras's BatchNorm epsilon", ("inside bn1",), ("norm_epsilon",), Flaws(batch_epsilon=1e-3)),
        mistake("conv_bias", "use_bias=False before a BatchNorm: torch has a bias", ("inside conv1",), ("bias_missing",),
                Flaws(bias=False)),
        mistake("activation_before_norm", "activation, then norm", ("before bn1", "before depth", "inside bn1"), ("norm_order",),
                Flaws(order="activation first")),
        mistake("channels_reversed", "BGR for RGB", ("before conv1",), ("channels_reversed",), Flaws(channels=-1)),
        mistake("norm_scale_missing", "BatchNorm without its scale", ("inside bn1",), ("scale_missing",), Flaws(norm_affine=False)),
        mistake("momentum", "Flax's default momentum, 0.99", (), ("momentum", "norm_momentum"), Flaws(momentum=0.99), **STATISTICS),
        mistake("momentum_inverted", "torch's momentum, 0.1, as it is", (), ("momentum", "norm_momentum"), Flaws(momentum=0.1), **STATISTICS),
        mistake("running_in_training", "running statistics used in training", ("inside bn1",), ("running_statistics",),
                Flaws(running=True), mode="train"),
        mistake("batch_epsilon_training", "another epsilon, in training", ("inside bn1",), ("norm_epsilon",), Flaws(batch_epsilon=1e-3),
                mode="train"),
        mistake("flatten_behind_epsilon", "GroupNorm's default epsilon, and flattened in NHWC order",
                ("inside gn",), ("norm_epsilon",), Flaws(group_epsilon=1e-6, flatten="as it is"),
                behind=frozenset({"flatten_order"})),
        *(
            Mistake(name, words, stem(layer, wrong, width), LAYER, None if causes is None else frozenset(causes))
            for name, (words, layer, wrong, _, causes, width) in LAYERS.items()
        ),
    ),
)
