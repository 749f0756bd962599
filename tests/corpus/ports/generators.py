"""Transposed convolutions: a decoder, a U-Net, a GAN's generator, a VAE."""

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


def torch_generator() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(7, 8, 4, 1, 0, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(True),
        nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(True),
        nn.ConvTranspose2d(6, 3, 4, 2, 1),
        nn.Tanh(),
    )


class Generator(linen.Module):
    """DCGAN: flax's ConvTranspose on a flipped kernel."""

    @linen.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        x = linen.ConvTranspose(8, (4, 4), strides=(1, 1), padding="VALID", use_bias=False)(z)
        x = linen.relu(linen.BatchNorm(not train, momentum=0.9)(x))
        x = linen.ConvTranspose(6, (4, 4), strides=(2, 2), padding="SAME", use_bias=False)(x)
        x = linen.relu(linen.BatchNorm(not train, momentum=0.9)(x))
        return jnp.tanh(linen.ConvTranspose(3, (4, 4), strides=(2, 2), padding="SAME")(x))


def generator() -> compare.Port:
    inputs = compare.Inputs(normal(2, 7, 1, 1), nhwc)
    return build("GAN generator, flipped kernels", torch_generator, Generator(), inputs, outputs=(None, nchw))


class DoubleConv(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, padding=1)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))))


class TorchUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = DoubleConv(3, 4), DoubleConv(4, 6)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.dec = DoubleConv(8, 4)
        self.final = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.down1(x)
        x = self.up(self.down2(self.pool(skip)))
        return self.final(self.dec(torch.cat([skip, x], dim=1)))


class FlaxDoubleConv(nnx.Module):
    def __init__(self, fan_in: int, fan_out: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(fan_in, fan_out, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(fan_out, fan_out, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.conv2(nnx.relu(self.conv1(x))))


class UNet(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.down1, self.down2 = FlaxDoubleConv(3, 4, rngs=rngs), FlaxDoubleConv(4, 6, rngs=rngs)
        self.up = nnx.ConvTranspose(6, 4, (2, 2), strides=(2, 2), padding="VALID", transpose_kernel=True, rngs=rngs)
        self.dec = FlaxDoubleConv(8, 4, rngs=rngs)
        self.final = nnx.Conv(4, 2, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        skip = self.down1(x)
        x = self.up(self.down2(nnx.max_pool(skip, (2, 2), strides=(2, 2))))
        return self.final(self.dec(jnp.concatenate([skip, x], axis=-1)))


def unet() -> compare.Port:
    inputs = compare.Inputs(normal(2, 3, 8, 6), nhwc)
    return build("U-Net", TorchUNet, UNet(), inputs, outputs=(None, nchw))


class TorchUpsampler(nn.Module):
    """Odd sizes, output_padding, nearest and bilinear upsampling, reflected borders."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)
        self.conv = nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect")
        self.smooth = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.up(x), 0.2)
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.smooth(F.pixel_shuffle(self.conv(x).repeat(1, 4, 1, 1), 2))


class Upsampler(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        # torch's padding p and output_padding o are k-1-p zeros before and k-1-p+o after.
        self.up = nnx.ConvTranspose(
            3, 4, (3, 3), strides=(2, 2), padding=((1, 2), (1, 2)), transpose_kernel=True, rngs=rngs
        )
        self.conv = nnx.Conv(4, 3, (3, 3), padding="VALID", rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = jax.nn.leaky_relu(self.up(x), 0.2)
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = self.conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"))
        b, h, w, c = x.shape
        x = jnp.tile(x, (1, 1, 1, 4)).reshape(b, h, w, c, 2, 2)  # pixel shuffle: channel, row, column
        x = x.transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c)
        return jax.image.resize(x, (b, 4 * h, 4 * w, c), method="bilinear")


def upsampler() -> compare.Port:
    inputs = compare.Inputs(normal(1, 3, 4, 3), nhwc)
    return build("upsampling five ways", TorchUpsampler, Upsampler(), inputs, outputs=(None, nchw))


class TorchVAE(nn.Module):
    """In eval mode the code is the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.fc3, self.fc4 = nn.Linear(3, 8), nn.Linear(8, 12)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = F.relu(self.fc1(x.view(-1, 12)))
        mu, logvar = self.fc21(h), self.fc22(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar) if self.training else mu
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


class VAE(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.encoder = nnx.Linear(12, 8, rngs=rngs)
        self.mean = nnx.Linear(8, 3, rngs=rngs)
        self.logvar = nnx.Linear(8, 3, rngs=rngs)
        self.decoder_hidden = nnx.Linear(3, 8, rngs=rngs)
        self.decoder_out = nnx.Linear(8, 12, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x: Array, deterministic: bool = True) -> tuple[Array, Array, Array]:
        h = nnx.relu(self.encoder(x.reshape(-1, 12)))
        mu, logvar = self.mean(h), self.logvar(h)
        z = mu
        if not deterministic:
            z = mu + jax.random.normal(self.rngs.noise(), mu.shape) * jnp.exp(0.5 * logvar)
        return nnx.sigmoid(self.decoder_out(nnx.relu(self.decoder_hidden(z)))), mu, logvar


def vae() -> compare.Port:
    return build("VAE in eval mode", TorchVAE, VAE(), normal(4, 3, 4))


BUILDERS = (generator, unet, upsampler, vae)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
