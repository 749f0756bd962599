"""Convolutional nets: NCHW in torch, NHWC in Flax."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn

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


BUILDERS = (resnet, resnet_train, linen_resnet, linen_resnet_train, vgg, vgg_permuted)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
