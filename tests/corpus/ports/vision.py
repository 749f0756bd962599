"""Nets over patches: a vision transformer, a Swin-like window block, an MLP-Mixer."""

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


# --- Vision transformer ---


class TorchAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attention = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, length, dim))


class TorchViTBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = TorchAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TorchViT(nn.Module):
    def __init__(self, dim: int = 8, heads: int = 2, depth: int = 2, patch: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 5, dim))
        self.blocks = nn.ModuleList([TorchViTBlock(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Attention(nnx.Module):
    """The packed projection kept packed."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nnx.Linear(dim, dim * 3, rngs=rngs)
        self.proj = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, dim // self.num_heads)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q * self.scale, k))
        return self.proj(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, length, dim))


class ViTBlock(nnx.Module):
    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(dim, rngs=rngs)
        self.attn = Attention(dim, heads, rngs=rngs)
        self.norm2 = nnx.LayerNorm(dim, rngs=rngs)
        self.fc1 = nnx.Linear(dim, 2 * dim, rngs=rngs)
        self.fc2 = nnx.Linear(2 * dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(nnx.gelu(self.fc1(self.norm2(x)), approximate=False))


class ViT(nnx.Module):
    def __init__(self, dim: int = 8, heads: int = 2, depth: int = 2, patch: int = 4) -> None:
        rngs = nnx.Rngs(0)
        self.patch_embed = nnx.Conv(3, dim, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, dim)))
        self.pos_embed = nnx.Param(jnp.zeros((1, 5, dim)))
        self.blocks = nnx.List([ViTBlock(dim, heads, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(dim, rngs=rngs)
        self.head = nnx.Linear(dim, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.patch_embed(x)
        batch, *_, dim = x.shape
        x = x.reshape(batch, -1, dim)
        token = jnp.broadcast_to(self.cls_token[...], (batch, 1, dim))
        x = jnp.concatenate([token, x], axis=1) + self.pos_embed[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class LinenViTBlock(linen.Module):
    heads: int

    @linen.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        y = linen.LayerNorm()(x)
        y = linen.MultiHeadDotProductAttention(self.heads, deterministic=deterministic)(y, y)
        x = x + y
        y = linen.LayerNorm()(x)
        y = linen.gelu(linen.Dense(2 * x.shape[-1])(y), approximate=False)
        return x + linen.Dense(x.shape[-1])(y)


class LinenViT(linen.Module):
    """The packed projection split into query, key and value, heads apart."""

    dim: int = 8
    heads: int = 2
    depth: int = 2

    @linen.compact
    def __call__(self, x: Array) -> Array:
        x = linen.Conv(self.dim, (4, 4), strides=(4, 4), padding="VALID", name="embedding")(x)
        x = x.reshape(x.shape[0], -1, self.dim)
        token = self.param("cls", linen.initializers.zeros, (1, 1, self.dim))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("pos_embedding", linen.initializers.normal(0.02), (1, x.shape[1], self.dim))
        for i in range(self.depth):
            x = LinenViTBlock(self.heads, name=f"encoderblock_{i}")(x)
        return linen.Dense(3, name="head")(linen.LayerNorm(name="encoder_norm")(x)[:, 0])


def vit() -> compare.Port:
    return build("vision transformer, NNX", TorchViT, ViT(), compare.Inputs(normal(2, 3, 8, 8), nhwc))


def linen_vit() -> compare.Port:
    return build("vision transformer, Linen, qkv split", TorchViT, LinenViT(), compare.Inputs(normal(2, 3, 8, 8), nhwc))


# --- Swin: windows, a cyclic shift, relative position bias ---


def relative_index(window: int) -> Any:
    grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    relative = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + window - 1
    return relative[..., 0] * (2 * window - 1) + relative[..., 1]


class TorchSwinBlock(nn.Module):
    relative_position_index: torch.Tensor

    def __init__(self, dim: int = 6, heads: int = 3, window: int = 2, shift: int = 1) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=True)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(0.02 * torch.randn((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_index(window))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, h, w, c = x.shape
        win = self.window
        y = torch.roll(self.norm(x), shifts=(-self.shift, -self.shift), dims=(1, 2))
        y = y.view(b, h // win, win, w // win, win, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, win * win, c)
        qkv = self.qkv(y).reshape(y.shape[0], win * win, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] * (c // self.heads) ** -0.5) @ qkv[1].transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        scores = scores + bias.view(win * win, win * win, -1).permute(2, 0, 1).unsqueeze(0)
        y = self.proj((scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(-1, win * win, c))
        y = y.view(b, h // win, w // win, win, win, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + torch.roll(y, shifts=(self.shift, self.shift), dims=(1, 2))


class SwinBlock(nnx.Module):
    def __init__(self, dim: int = 6, heads: int = 3, window: int = 2, shift: int = 1) -> None:
        rngs = nnx.Rngs(0)
        self.heads, self.window, self.shift = heads, window, shift
        self.norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.qkv = nnx.Linear(dim, 3 * dim, rngs=rngs)
        self.proj = nnx.Linear(dim, dim, rngs=rngs)
        self.relative_position_bias_table = nnx.Param(jnp.zeros(((2 * window - 1) ** 2, heads)))
        coords = jnp.stack(jnp.meshgrid(jnp.arange(window), jnp.arange(window), indexing="ij")).reshape(2, -1)
        relative = coords[:, :, None] - coords[:, None, :] + window - 1
        self.relative_index = nnx.Variable(relative[0] * (2 * window - 1) + relative[1])

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        win = self.window
        y = jnp.roll(self.norm(x), (-self.shift, -self.shift), axis=(1, 2))
        y = y.reshape(b, h // win, win, w // win, win, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, win * win, c)
        q, k, v = jnp.split(self.qkv(y), 3, axis=-1)
        q, k, v = (a.reshape(-1, win * win, self.heads, c // self.heads) for a in (q, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(c // self.heads)
        bias = self.relative_position_bias_table[...][self.relative_index[...]]  # (win^2, win^2, heads)
        weights = jax.nn.softmax(scores + bias.transpose(2, 0, 1)[None])
        y = self.proj(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(-1, win * win, c))
        y = y.reshape(b, h // win, w // win, win, win, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + jnp.roll(y, (self.shift, self.shift), axis=(1, 2))


def swin() -> compare.Port:
    return build("Swin block, shifted windows, relative positions", TorchSwinBlock, SwinBlock(), normal(2, 4, 6, 6))


# --- MLP-Mixer ---


class TorchMlpBlock(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TorchMixer(nn.Module):
    def __init__(self, tokens: int = 6, dim: int = 7, depth: int = 2) -> None:
        super().__init__()
        self.norms1 = nn.ModuleList([nn.LayerNorm(dim) for _ in range(depth)])
        self.tokens = nn.ModuleList([TorchMlpBlock(tokens, 5) for _ in range(depth)])
        self.norms2 = nn.ModuleList([nn.LayerNorm(dim) for _ in range(depth)])
        self.channels = nn.ModuleList([TorchMlpBlock(dim, 9) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm1, tokens, norm2, channels in zip(self.norms1, self.tokens, self.norms2, self.channels, strict=True):
            x = x + tokens(norm1(x).transpose(1, 2)).transpose(1, 2)
            x = x + channels(norm2(x))
        return self.head(self.norm(x).mean(dim=1))


class MlpBlock(linen.Module):
    mlp_dim: int

    @linen.compact
    def __call__(self, x: Array) -> Array:
        y = linen.gelu(linen.Dense(self.mlp_dim)(x), approximate=False)
        return linen.Dense(x.shape[-1])(y)


class MixerBlock(linen.Module):
    tokens_dim: int
    channels_dim: int

    @linen.compact
    def __call__(self, x: Array) -> Array:
        y = jnp.swapaxes(linen.LayerNorm(epsilon=1e-5)(x), 1, 2)
        y = MlpBlock(self.tokens_dim, name="token_mixing")(y)
        x = x + jnp.swapaxes(y, 1, 2)
        y = linen.LayerNorm(epsilon=1e-5)(x)
        return x + MlpBlock(self.channels_dim, name="channel_mixing")(y)


class Mixer(linen.Module):
    depth: int = 2

    @linen.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.depth):
            x = MixerBlock(5, 9)(x)
        x = linen.LayerNorm(epsilon=1e-5, name="pre_head_layer_norm")(x)
        return linen.Dense(4, name="head")(jnp.mean(x, axis=1))


def mixer() -> compare.Port:
    return build("MLP-Mixer, Linen", TorchMixer, Mixer(), normal(3, 6, 7))


BUILDERS = (vit, linen_vit, swin, mixer)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
