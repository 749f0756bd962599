"""Language models as people write them: BERT-like, GPT-2-like."""

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F

import compare
from tests.corpus.building import build, integers

Array = jax.Array


# --- BERT-like encoder, post-norm, Linen with automatic names ---


class TorchBertLayer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-12)
        self.intermediate = nn.Linear(dim, 2 * dim)
        self.dense = nn.Linear(2 * dim, dim)
        self.output_norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(0.1)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
        context = (self.dropout(F.softmax(scores, dim=-1)) @ v).transpose(1, 2).reshape(x.shape)
        x = self.attention_norm(x + self.dropout(self.output(context)))
        return self.output_norm(x + self.dropout(self.dense(F.gelu(self.intermediate(x)))))


class TorchBert(nn.Module):
    def __init__(self, vocabulary: int = 11, dim: int = 8, heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.position_embeddings = nn.Embedding(9, dim)
        self.token_type_embeddings = nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList([TorchBertLayer(dim, heads) for _ in range(depth)])
        self.pooler = nn.Linear(dim, dim)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        positions = torch.arange(input_ids.shape[1])
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        x = self.norm(x + self.token_type_embeddings(token_type_ids))
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.layers:
            x = layer(x, bias)
        return {"last_hidden_state": x, "pooler_output": torch.tanh(self.pooler(x[:, 0]))}


class BertLayer(linen.Module):
    heads: int

    @linen.compact
    def __call__(self, x: Array, bias: Array, deterministic: bool) -> Array:
        batch, length, dim = x.shape
        split = (batch, length, self.heads, dim // self.heads)
        query = linen.Dense(dim, name="query")(x).reshape(split)
        key = linen.Dense(dim, name="key")(x).reshape(split)
        value = linen.Dense(dim, name="value")(x).reshape(split)
        weights = linen.dot_product_attention_weights(query, key, bias=bias)
        weights = linen.Dropout(0.1)(weights, deterministic=deterministic)
        context = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        y = linen.Dropout(0.1)(linen.Dense(dim)(context), deterministic=deterministic)
        x = linen.LayerNorm(epsilon=1e-12)(x + y)
        y = linen.Dense(dim)(linen.gelu(linen.Dense(2 * dim)(x), approximate=False))
        return linen.LayerNorm(epsilon=1e-12)(x + linen.Dropout(0.1)(y, deterministic=deterministic))


class Bert(linen.Module):
    vocabulary: int = 11
    dim: int = 8
    heads: int = 2
    depth: int = 2
    masked: float = -10000.0

    @linen.compact
    def __call__(
        self, input_ids: Array, attention_mask: Array, token_type_ids: Array, deterministic: bool = True
    ) -> dict[str, Array]:
        words = linen.Embed(self.vocabulary, self.dim)(input_ids)
        positions = linen.Embed(9, self.dim)(jnp.arange(input_ids.shape[1]))
        types = linen.Embed(2, self.dim)(token_type_ids)
        x = linen.LayerNorm(epsilon=1e-12)(words + positions + types)
        bias = jnp.where(attention_mask[:, None, None, :] > 0, 0.0, self.masked)
        for _ in range(self.depth):
            x = BertLayer(self.heads)(x, bias, deterministic)
        pooled = jnp.tanh(linen.Dense(self.dim, name="pooler")(x[:, 0]))
        return {"last_hidden_state": x, "pooler_output": pooled}


def bert() -> compare.Port:
    mask = integers(2, 3, 7, seed=1) * 0 + 1
    mask[1, 4:] = 0
    inputs = {"input_ids": integers(11, 3, 7), "attention_mask": mask, "token_type_ids": integers(2, 3, 7, seed=2)}
    return build("BERT-like encoder, Linen compact", TorchBert, Bert(), inputs, frozen=("attention_mask",))


# --- GPT-2-like decoder: Conv1D weights (in, out), tied embeddings ---


class TorchConv1D(nn.Module):
    """GPT-2's Linear with its weight the other way round."""

    def __init__(self, features: int, fan_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(fan_in, features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class TorchGPTBlock(nn.Module):
    bias: torch.Tensor

    def __init__(self, dim: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(dim)
        self.c_attn, self.c_proj = TorchConv1D(3 * dim, dim), TorchConv1D(dim, dim)
        self.ln_2 = nn.LayerNorm(dim)
        self.c_fc, self.mlp_proj = TorchConv1D(4 * dim, dim), TorchConv1D(dim, 4 * dim)
        self.register_buffer("bias", torch.tril(torch.ones(context, context)).view(1, 1, context, context))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(c, dim=2)
        q, k, v = (a.view(b, t, self.heads, c // self.heads).transpose(1, 2) for a in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / k.shape[-1] ** 0.5)
        scores = scores.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        x = x + self.c_proj((F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(b, t, c))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class TorchGPT(nn.Module):
    def __init__(self, vocabulary: int = 13, dim: int = 8, heads: int = 2, depth: int = 2, context: int = 10) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, dim), nn.Embedding(context, dim)
        self.h = nn.ModuleList([TorchGPTBlock(dim, heads, context) for _ in range(depth)])
        self.ln_f = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class GPTAttention(nnx.Module):
    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.c_attn = nnx.Linear(dim, 3 * dim, rngs=rngs)
        self.c_proj = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        b, t, c = x.shape
        q, k, v = (a.reshape(b, t, self.heads, -1) for a in jnp.split(self.c_attn(x), 3, axis=-1))
        mask = nnx.make_causal_mask(jnp.ones((b, t)))
        return self.c_proj(nnx.dot_product_attention(q, k, v, mask=mask).reshape(b, t, c))


class GPTMlp(nnx.Module):
    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.c_fc = nnx.Linear(dim, 4 * dim, rngs=rngs)
        self.c_proj = nnx.Linear(4 * dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.c_proj(jax.nn.gelu(self.c_fc(x)))


class GPTBlock(nnx.Module):
    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.ln_1 = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.attn = GPTAttention(dim, heads, rngs=rngs)
        self.ln_2 = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.mlp = GPTMlp(dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nnx.Module):
    def __init__(self, vocabulary: int = 13, dim: int = 8, heads: int = 2, depth: int = 2, context: int = 10) -> None:
        rngs = nnx.Rngs(0)
        self.wte = nnx.Embed(vocabulary, dim, rngs=rngs)
        self.wpe = nnx.Embed(context, dim, rngs=rngs)
        self.h = nnx.List([GPTBlock(dim, heads, rngs=rngs) for _ in range(depth)])
        self.ln_f = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)

    def __call__(self, idx: Array) -> Array:
        x = self.wte(idx) + self.wpe(jnp.arange(idx.shape[1]))
        for block in self.h:
            x = block(x)
        return self.wte.attend(self.ln_f(x))


def gpt() -> compare.Port:
    return build("GPT-2-like decoder, tied embeddings", TorchGPT, GPT(), integers(13, 2, 7))


BUILDERS = (bert, gpt)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
