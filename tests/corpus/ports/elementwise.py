"""Activations, constants and thresholds: the same function, not always the same formula."""

import math
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


class TorchActivations(nn.Module):
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(10)])
        bounded = (nn.Hardtanh(-1.5, 2.0), nn.Softsign(), nn.LogSigmoid())
        smooth = (nn.SiLU(), nn.Mish(), nn.LeakyReLU(), nn.GELU(approximate="tanh"), nn.GLU())
        self.acts = nn.ModuleList([nn.SELU(), nn.CELU(2.0), *bounded, *smooth])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [act(layer(x.narrow(-1, 0, 5))) for layer, act in zip(self.layers, self.acts[:9], strict=False)] + [
            self.acts[9](torch.cat([self.layers[9](x), x], dim=-1))
        ]


class Activations(nnx.Module):
    def __init__(self, width: int = 5) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(10)])

    def __call__(self, x: Array) -> list[Array]:
        acts = (
            jax.nn.selu,
            lambda y: jax.nn.celu(y, 2.0),
            lambda y: jnp.clip(y, -1.5, 2.0),
            jax.nn.soft_sign,
            jax.nn.log_sigmoid,
            jax.nn.swish,
            jax.nn.mish,
            lambda y: jax.nn.leaky_relu(y, 0.01),
            jax.nn.gelu,
        )
        outputs = [act(layer(x)) for act, layer in zip(acts, list(self.layers)[:9], strict=True)]
        return [*outputs, jax.nn.glu(jnp.concatenate([self.layers[9](x), x], axis=-1))]


def activations() -> compare.Port:
    return build("ten activations", TorchActivations, Activations(), normal(4, 5))


class TorchGaussianHead(nn.Module):
    """A mean and a positive scale; the output is a log likelihood. torch's softplus is the identity above 20."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.mu, self.sigma = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.tanh(self.body(x))
        mean, scale = self.mu(h), F.softplus(8 * self.sigma(h)) + 1e-3
        log_prob = -((y - mean) ** 2) / (2 * scale**2) - scale.log() - math.log(math.sqrt(2 * math.pi))
        return log_prob.sum(-1), scale


class GaussianHead(linen.Module):
    @linen.compact
    def __call__(self, x: Array, y: Array) -> tuple[Array, Array]:
        h = jnp.tanh(linen.Dense(6, name="body")(x))
        mean = linen.Dense(2, name="mu")(h)
        scale = jax.nn.softplus(8 * linen.Dense(2, name="sigma")(h)) + 1e-3
        return jax.scipy.stats.norm.logpdf(y, mean, scale).sum(axis=-1), scale


def gaussian_head() -> compare.Port:
    inputs = (normal(6, 4), normal(6, 2, seed=1))
    return build("Gaussian head, softplus", TorchGaussianHead, GaussianHead(), inputs)


class TorchNormalised(nn.Module):
    """Image statistics as buffers."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_max_pool2d(self.conv((x - self.mean) / self.std), 1).flatten(1)


class Normalised(nnx.Module):
    """The same statistics as numbers in the code."""

    def __init__(self) -> None:
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, padding="VALID", rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        x = (x - jnp.array([0.485, 0.456, 0.406])) / jnp.array([0.229, 0.224, 0.225])
        return self.conv(x).max(axis=(1, 2))


def normalised_images() -> compare.Port:
    inputs = compare.Inputs(normal(2, 3, 7, 6), lambda x: jnp.transpose(x, (0, 2, 3, 1)))
    return build("image statistics: buffers against constants", TorchNormalised, Normalised(), inputs)


class TorchContrastive(nn.Module):
    """CLIP's head: cosine similarities times a learned temperature, one net called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4, bias=False))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, pair: dict[str, torch.Tensor]) -> torch.Tensor:
        left, right = (F.normalize(self.net(pair[side]), dim=-1) for side in ("left", "right"))
        return self.logit_scale.exp() * left @ right.t()


class Contrastive(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.fc1, self.fc2 = nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 4, use_bias=False, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.zeros(()))

    def embed(self, x: Array) -> Array:
        z = self.fc2(nnx.relu(self.fc1(x)))
        return z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-12)

    def __call__(self, pair: dict[str, Array]) -> Array:
        return jnp.exp(self.logit_scale[...]) * self.embed(pair["left"]) @ self.embed(pair["right"]).T


def contrastive() -> compare.Port:
    inputs = ({"left": normal(4, 5), "right": normal(4, 5, seed=1)},)
    return build("CLIP-like head, nested inputs", TorchContrastive, Contrastive(), inputs)


class TorchQuantiser(nn.Module):
    """VQ-VAE: the nearest of six codes, gradients straight through, the index among the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 3)
        self.codebook = nn.Embedding(6, 3)
        self.decoder = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        z = self.encoder(x)
        codes = self.codebook.weight
        distances = z.pow(2).sum(1, keepdim=True) - 2 * z @ codes.t() + codes.pow(2).sum(1)
        index = distances.argmin(dim=1)
        quantised = self.codebook(index)
        loss = F.mse_loss(quantised, z.detach()) + 0.25 * F.mse_loss(z, quantised.detach())
        return {"y": self.decoder(z + (quantised - z).detach()), "loss": loss, "index": index}


class Quantiser(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> dict[str, Any]:
        z = linen.Dense(3, name="encoder")(x)
        codes = self.param("codebook", linen.initializers.normal(1.0), (6, 3))
        index = jnp.argmin(jnp.sum((z[:, None] - codes[None]) ** 2, axis=-1), axis=1)
        quantised = codes[index]
        stop = jax.lax.stop_gradient
        loss = jnp.mean((quantised - stop(z)) ** 2) + 0.25 * jnp.mean((z - stop(quantised)) ** 2)
        return {"y": linen.Dense(5, name="decoder")(z + stop(quantised - z)), "loss": loss, "index": index}


def quantiser() -> compare.Port:
    return build("VQ-VAE, straight through", TorchQuantiser, Quantiser(), normal(6, 5))


BUILDERS = (activations, gaussian_head, normalised_images, contrastive, quantiser)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
