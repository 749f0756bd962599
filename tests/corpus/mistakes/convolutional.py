"""Mistakes in a convolutional net, NCHW in torch, NHWC in Linen, in evaluation and in training mode."""

import dataclasses
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
            flaws.running or not train,
            momentum=flaws.momentum,
            epsilon=flaws.batch_epsilon,
            use_fast_variance=False,
            use_scale=flaws.norm_affine,
            name="bn1",
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


def case(flaws: Flaws | None = None, height: int = 10, width: int = 8, batch: int = 3, **fields: Any) -> Case:
    """A check of the net with these flaws."""
    images = Inputs(torch=rows(batch, 2, height, width), flax=channels_last)
    return Case("check", (Port(seeded(TorchConvNet), ConvNet(flaws or Flaws()), images, **fields),))


def mistake(
    name: str, words: str, places: tuple[str, ...], causes: tuple[str, ...] | None, flaws: Flaws, **more: Any
) -> Any:
    """One flaw of the whole net."""
    fields = {key: more.pop(key) for key in ("mode", "batch") if key in more}
    names = None if causes is None else frozenset(causes)
    return Mistake(name, words, lambda: case(flaws, **fields), places, names, **more)


STATISTICS = {"checks": ("statistics",), "mode": "train"}
FAMILY = Family(
    "convolutional",
    {
        "eval": case,
        "train": lambda: case(mode="train"),
    },
    (
        mistake(
            "same_padding",
            "SAME for padding 1 at stride 2",
            ("inside conv1",),
            ("padding", "padding_same"),
            Flaws(same=True),
        ),
        mistake("leaky_slope", "default slope", ("before depth",), ("leaky_slope",), Flaws(slope=0.01)),
        mistake(
            "pool_zero_padding",
            "max pooling over zeros at the border",
            ("before depth",),
            ("pool_padding", "padding_missing"),
            Flaws(pool_padding="zeros"),
        ),
        mistake(
            "average_for_max",
            "average pooling for max pooling",
            ("before depth",),
            ("pool_kind",),
            Flaws(pool_swapped=True),
        ),
        mistake(
            "count_include_pad",
            "zeros at the border count",
            ("before fc",),
            ("count_include_pad",),
            Flaws(count_pad=True),
        ),
        mistake(
            "flatten_order", "flattened in NHWC order", ("before fc",), ("flatten_order",), Flaws(flatten="as it is")
        ),
        mistake(
            "flatten_width_first",
            "flattened with height and width exchanged",
            ("before fc",),
            ("flatten_order",),
            Flaws(flatten="width first"),
        ),
        mistake("group_count", "GroupNorm with 4 groups for 2", ("inside gn",), ("group_count",), Flaws(groups=4)),
        mistake(
            "group_epsilon",
            "Flax's default epsilon in GroupNorm",
            ("inside gn",),
            ("norm_epsilon",),
            Flaws(group_epsilon=1e-6),
        ),
        mistake("dilation", "dilation left out", ("inside conv2",), ("dilation",), Flaws(dilation=1)),
        mistake(
            "batch_epsilon", "Keras's BatchNorm epsilon", ("inside bn1",), ("norm_epsilon",), Flaws(batch_epsilon=1e-3)
        ),
        mistake(
            "conv_bias",
            "use_bias=False before a BatchNorm: torch has a bias",
            ("inside conv1",),
            ("bias_missing",),
            Flaws(bias=False),
        ),
        mistake(
            "activation_before_norm",
            "activation, then norm",
            ("before bn1", "before depth", "inside bn1"),
            ("norm_order",),
            Flaws(order="activation first"),
        ),
        mistake("channels_reversed", "BGR for RGB", ("before conv1",), ("channels_reversed",), Flaws(channels=-1)),
        mistake(
            "norm_scale_missing",
            "BatchNorm without its scale",
            ("inside bn1",),
            ("scale_missing",),
            Flaws(norm_affine=False),
        ),
        mistake(
            "momentum",
            "Flax's default momentum, 0.99",
            (),
            ("momentum", "norm_momentum"),
            Flaws(momentum=0.99),
            **STATISTICS,
        ),
        mistake(
            "momentum_inverted",
            "torch's momentum, 0.1, as it is",
            (),
            ("momentum", "norm_momentum"),
            Flaws(momentum=0.1),
            **STATISTICS,
        ),
        mistake(
            "running_in_training",
            "running statistics used in training",
            ("inside bn1",),
            ("running_statistics",),
            Flaws(running=True),
            mode="train",
        ),
        mistake(
            "batch_epsilon_training",
            "another epsilon, in training",
            ("inside bn1",),
            ("norm_epsilon",),
            Flaws(batch_epsilon=1e-3),
            mode="train",
        ),
        mistake(
            "flatten_behind_epsilon",
            "GroupNorm's default epsilon, and flattened in NHWC order",
            ("inside gn",),
            ("norm_epsilon",),
            Flaws(group_epsilon=1e-6, flatten="as it is"),
            behind=frozenset({"flatten_order"}),
        ),
    ),
)
