"""Convolutional nets: NCHW in torch, NHWC in Flax."""

from functools import partial
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


def nhwc(x: Any) -> Any:
    return jnp.transpose(x, (0, 2, 3, 1))


def nchw(x: Any) -> Any:
    return jnp.transpose(x, (0, 3, 1, 2))


# --- ResNet ---


class TorchBasicBlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_planes != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class TorchResNet(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(TorchBasicBlock(6, 6))
        self.layer2 = nn.Sequential(TorchBasicBlock(6, 8, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class BasicBlock(nnx.Module):
    def __init__(self, in_planes: int, planes: int, stride: int = 1, *, rngs: nnx.Rngs) -> None:
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.conv1 = conv(in_planes, planes, kernel_size=(3, 3), strides=stride, padding=1)
        self.bn1 = norm(planes)
        self.conv2 = conv(planes, planes, kernel_size=(3, 3), padding=1)
        self.bn2 = norm(planes)
        self.project = stride != 1 or in_planes != planes
        if self.project:
            self.downsample_conv = conv(in_planes, planes, kernel_size=(1, 1), strides=stride)
            self.downsample_bn = norm(planes)

    def __call__(self, x: Array) -> Array:
        out = nnx.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x))
        return nnx.relu(out + x)


class ResNet(nnx.Module):
    def __init__(self, classes: int = 5) -> None:
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(3, 6, (7, 7), strides=2, padding=3, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(6, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.layer1 = nnx.List([BasicBlock(6, 6, rngs=rngs)])
        self.layer2 = nnx.List([BasicBlock(6, 8, 2, rngs=rngs)])
        self.fc = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in (*self.layer1, *self.layer2):
            x = block(x)
        return self.fc(x.mean(axis=(1, 2)))


class LinenBlock(linen.Module):
    filters: int
    stride: int = 1

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = partial(linen.Conv, use_bias=False)
        norm = partial(linen.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        residual = x
        y = conv(self.filters, (3, 3), (self.stride, self.stride), padding=((1, 1), (1, 1)))(x)
        y = linen.relu(norm()(y))
        y = norm()(conv(self.filters, (3, 3), padding=((1, 1), (1, 1)))(y))
        if residual.shape != y.shape:
            residual = conv(self.filters, (1, 1), (self.stride, self.stride), name="conv_proj")(residual)
            residual = norm(name="norm_proj")(residual)
        return linen.relu(residual + y)


class LinenResNet(linen.Module):
    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = linen.Conv(6, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], use_bias=False, name="conv_init")(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="bn_init")(x)
        x = linen.max_pool(linen.relu(x), (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        x = LinenBlock(6)(x, train)
        x = LinenBlock(8, stride=2)(x, train)
        return linen.Dense(5)(jnp.mean(x, axis=(1, 2)))


def images(*shape: int) -> compare.Inputs:
    return compare.Inputs(normal(*shape), lambda x: nhwc(x))


def resnet() -> compare.Port:
    return build("ResNet, NNX", TorchResNet, ResNet(), images(3, 3, 18, 18))


def resnet_train() -> compare.Port:
    return build("ResNet, NNX, train mode", TorchResNet, ResNet(), images(3, 3, 18, 18), mode="train")


def linen_resnet() -> compare.Port:
    return build("ResNet, Linen's own names", TorchResNet, LinenResNet(), images(3, 3, 18, 18))


def linen_resnet_train() -> compare.Port:
    return build("ResNet, Linen, train mode", TorchResNet, LinenResNet(), images(3, 3, 18, 18), mode="train")


# --- VGG: adaptive pooling, and a flatten in NCHW order ---


class TorchVGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(5, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(nn.Linear(24, 10), nn.ReLU(True), nn.Dropout(), nn.Linear(10, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class VGG(linen.Module):
    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for width in (5, 6):
            x = linen.relu(linen.Conv(width, (3, 3))(x))
            x = linen.max_pool(x, (2, 2), strides=(2, 2))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, 2, height // 2, 2, width // 2, channels).mean(axis=(2, 4))  # adaptive pooling to 2x2
        x = jnp.transpose(x, (0, 3, 1, 2)).reshape(batch, -1)  # torch flattens (C, H, W)
        x = linen.relu(linen.Dense(10)(x))
        x = linen.Dropout(0.5, deterministic=not train)(x)
        return linen.Dense(4)(x)


def vgg() -> compare.Port:
    return build("VGG, flatten order kept", TorchVGG, VGG(), images(2, 3, 16, 16))


class FlattenedVGG(VGG):
    """The same, flattened in NHWC order: right once the classifier's rows are permuted with the weights."""

    @linen.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for width in (5, 6):
            x = linen.relu(linen.Conv(width, (3, 3))(x))
            x = linen.max_pool(x, (2, 2), strides=(2, 2))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, 2, height // 2, 2, width // 2, channels).mean(axis=(2, 4))
        x = linen.relu(linen.Dense(10)(x.reshape(batch, -1)))
        return linen.Dense(4)(linen.Dropout(0.5, deterministic=not train)(x))


def vgg_permuted() -> compare.Port:
    def to_nhwc_rows(weight: Any) -> Any:  # (10, 6*2*2) -> (2*2*6, 10)
        return weight.reshape(10, 6, 2, 2).transpose(2, 3, 1, 0).reshape(24, 10)

    mapping = {"classifier.0.weight": ("Dense_0.kernel", to_nhwc_rows)}
    return build("VGG, classifier's rows permuted", TorchVGG, FlattenedVGG(), images(2, 3, 16, 16), mapping=mapping)


# --- MobileNet, squeeze and excitation, ConvNeXt ---


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


BUILDERS = (
    resnet,
    resnet_train,
    linen_resnet,
    linen_resnet_train,
    vgg,
    vgg_permuted,
    mobilenet,
    squeeze_excite,
    convnext,
)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
