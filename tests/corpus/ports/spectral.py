"""Fourier transforms, complex weights, a selective scan."""

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F

import compare
from tests.corpus.building import build, normal

Array = jax.Array


class TorchFNet(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, 9), nn.GELU(), nn.Linear(9, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real)
        return self.norm2(x + self.ff(x))


class FNet(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        x = linen.LayerNorm(epsilon=1e-5)(x + jnp.fft.fft2(x).real)
        y = linen.gelu(linen.Dense(9)(x), approximate=False)
        return linen.LayerNorm(epsilon=1e-5)(x + linen.Dense(x.shape[-1])(y))


def fnet() -> compare.Port:
    return build("FNet block", TorchFNet, FNet(), normal(2, 8, 6))


class TorchFNO(nn.Module):
    """A Fourier layer whose weights are complex, kept as pairs of real numbers."""

    def __init__(self, channels: int = 3, modes: int = 3) -> None:
        super().__init__()
        self.modes = modes
        self.lift = nn.Linear(2, channels)
        self.weights = nn.Parameter(torch.randn(channels, channels, modes, 2) / channels)
        self.skip = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lift(x).permute(0, 2, 1)
        spectrum = torch.fft.rfft(x)
        kept = torch.einsum("bim,iom->bom", spectrum[..., : self.modes], torch.view_as_complex(self.weights))
        out = torch.zeros_like(spectrum)
        out[..., : self.modes] = kept
        return F.gelu(torch.fft.irfft(out, n=x.shape[-1]) + self.skip(x))


class FNO(nnx.Module):
    def __init__(self, channels: int = 3, modes: int = 3) -> None:
        rngs = nnx.Rngs(0)
        self.modes = modes
        self.lift = nnx.Linear(2, channels, rngs=rngs)
        self.weights = nnx.Param(jnp.zeros((channels, channels, modes, 2)))
        self.skip = nnx.Linear(channels, channels, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.lift(x)  # (batch, points, channels)
        spectrum = jnp.fft.rfft(x, axis=1)
        weights = self.weights[..., 0] + 1j * self.weights[..., 1]
        kept = jnp.einsum("bmi,iom->bmo", spectrum[:, : self.modes], weights)
        out = jnp.zeros_like(spectrum).at[:, : self.modes].set(kept)
        y = jnp.fft.irfft(out, n=x.shape[1], axis=1) + self.skip(x)
        return jax.nn.gelu(y, approximate=False).transpose(0, 2, 1)


def fno() -> compare.Port:
    return build("Fourier neural operator", TorchFNO, FNO(), normal(2, 10, 2))


class TorchSelectiveScan(nn.Module):
    """Mamba's recurrence, step by step."""

    def __init__(self, dim: int = 4, state: int = 3) -> None:
        super().__init__()
        self.x_proj = nn.Linear(dim, 1 + 2 * state, bias=False)
        self.dt_proj = nn.Linear(1, dim)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, state + 1).float()).repeat(dim, 1))
        self.D = nn.Parameter(torch.ones(dim))
        self.state = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dt, b, c = self.x_proj(x).split([1, self.state, self.state], dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        decay = torch.exp(dt.unsqueeze(-1) * -torch.exp(self.A_log))
        drive = (dt * x).unsqueeze(-1) * b.unsqueeze(2)
        h, ys = torch.zeros_like(decay[:, 0]), []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + drive[:, t]
            ys.append((h * c[:, t].unsqueeze(1)).sum(-1))
        return torch.stack(ys, dim=1) + self.D * x


class SelectiveScan(nnx.Module):
    """The same recurrence as an associative scan."""

    def __init__(self, dim: int = 4, state: int = 3) -> None:
        rngs = nnx.Rngs(0)
        self.x_proj = nnx.Linear(dim, 1 + 2 * state, use_bias=False, rngs=rngs)
        self.dt_proj = nnx.Linear(1, dim, rngs=rngs)
        self.A_log = nnx.Param(jnp.zeros((dim, state)))
        self.D = nnx.Param(jnp.ones(dim))
        self.state = state

    def __call__(self, x: Array) -> Array:
        dt, b, c = jnp.split(self.x_proj(x), [1, 1 + self.state], axis=-1)
        dt = jax.nn.softplus(self.dt_proj(dt))
        decay = jnp.exp(dt[..., None] * -jnp.exp(self.A_log[...]))
        drive = (dt * x)[..., None] * b[:, :, None, :]

        def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
            return left[0] * right[0], left[1] * right[0] + right[1]

        _, h = jax.lax.associative_scan(combine, (decay, drive), axis=1)
        return jnp.einsum("btds,bts->btd", h, c) + self.D[...] * x


def selective_scan() -> compare.Port:
    return build("selective scan, loop against associative scan", TorchSelectiveScan, SelectiveScan(), normal(2, 6, 4))


BUILDERS = (fnet, fno, selective_scan)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
