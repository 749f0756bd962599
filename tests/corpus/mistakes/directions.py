"""Recurrent nets written by hand: both directions of a GRU as scans, and a cell that attends to what an LSTM read."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import compare
from tests.corpus.mistake import Case, Family, Mistake, entry

__all__ = ["FAMILY"]

Array = jax.Array
STATE = 5


class TorchTagger(nn.Module):
    """A GRU in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 4)
        self.rnn = nn.GRU(4, STATE, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * STATE, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.rnn(self.embed(ids))[0]))


class Direction(nnx.Module):
    """One direction, as a scan."""

    def __init__(self, mistake: str, rngs: nnx.Rngs) -> None:
        self.mistake = mistake
        draw = lambda *shape: nnx.Param(jax.random.normal(rngs.params(), shape))  # noqa: E731
        self.w_ih, self.w_hh, self.b_ih, self.b_hh = draw(15, 4), draw(15, STATE), draw(15), draw(15)

    def __call__(self, x: Array, reverse: bool = False) -> Array:
        w_hh, b_hh = self.w_hh[...], self.b_hh[...]

        def step(h: Array, x: Array) -> tuple[Array, Array]:
            a, b, c = jnp.split(x @ self.w_ih[...].T + self.b_ih[...], 3, -1)
            d, e, f = jnp.split(h @ w_hh.T + b_hh, 3, -1)
            if self.mistake == "gate_order":
                a, b, d, e = b, a, e, d
            r, z = jax.nn.sigmoid(a + d), jax.nn.sigmoid(b + e)
            recurrent = r * f
            if self.mistake == "reset_gate_place":
                recurrent = (r * h) @ w_hh[2 * STATE :].T + b_hh[2 * STATE :]
            if self.mistake == "bias_missing":
                recurrent = r * (h @ w_hh[2 * STATE :].T)
            n = jnp.tanh(c + recurrent)
            old, new = (1 - z, z) if self.mistake == "update_gate_inverted" else (z, 1 - z)
            h = new * n + old * h
            return h, h

        _, states = jax.lax.scan(step, jnp.zeros((len(x), STATE), x.dtype), x.swapaxes(0, 1), reverse=reverse)
        return states.swapaxes(0, 1)


class FlaxTagger(nnx.Module):
    """Its port; ``forward`` and ``backward`` are the mistakes of the two directions."""

    def __init__(self, forward: str = "", backward: str = "", not_reversed: bool = False) -> None:
        rngs = nnx.Rngs(0)
        self.not_reversed = not_reversed
        self.embed = nnx.Embed(12, 4, rngs=rngs)
        self.fwd, self.bwd = Direction(forward, rngs), Direction(backward, rngs)
        self.out = nnx.Linear(2 * STATE, 3, rngs=rngs)

    def __call__(self, ids: Array) -> Array:
        x = self.embed(ids)
        both = [self.fwd(x), self.bwd(x, reverse=not self.not_reversed)]
        return self.out(jnp.tanh(jnp.concatenate(both, -1)))


class TorchReader(nn.Module):
    """Reads with an LSTM in both directions; a cell then attends to what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.LSTM(4, 5, batch_first=True, bidirectional=True)
        self.query, self.key, self.score = nn.Linear(3, 6), nn.Linear(10, 6), nn.Linear(6, 1, bias=False)
        self.cell, self.out = nn.LSTMCell(10, 3), nn.Linear(13, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        read, _ = self.enc(x)
        h, c, outputs = x.new_zeros(len(x), 3), x.new_zeros(len(x), 3), []
        for _ in range(2):
            scores = self.score(torch.tanh(self.query(h)[:, None] + self.key(read))).squeeze(-1)
            shares = scores.masked_fill(~mask, -torch.inf).softmax(-1)
            context = (shares[..., None] * read).sum(1)
            h, c = self.cell(context, (h, c))
            outputs.append(self.out(torch.cat([h, context], -1)))
        return torch.stack(outputs, 1)


class FlaxReader(nnx.Module):
    """Its port, of Flax's own cells."""

    def __init__(self, mistake: str = "") -> None:
        rngs = nnx.Rngs(0)
        self.mistake = mistake
        cells = [nnx.OptimizedLSTMCell(4, 5, rngs=rngs) for _ in range(2)]
        self.fw, self.bw = nnx.RNN(cells[0]), nnx.RNN(cells[1], reverse=True, keep_order=True)
        self.query, self.key = nnx.Linear(3, 6, rngs=rngs), nnx.Linear(10, 6, rngs=rngs)
        self.score = nnx.Linear(6, 1, use_bias=False, rngs=rngs)
        self.cell, self.out = nnx.LSTMCell(10, 3, rngs=rngs), nnx.Linear(13, 2, rngs=rngs)

    def __call__(self, x: Array, mask: Array) -> Array:
        read = jnp.concatenate([self.fw(x), self.bw(x)], -1)
        carry, outputs = (jnp.zeros((len(x), 3), x.dtype),) * 2, []
        for _ in range(2):
            h = carry[1]
            scores = self.score(jnp.tanh(self.query(h)[:, None] + self.key(read)))[..., 0]
            scores = scores / 6**0.5 if self.mistake == "scale" else scores
            scores = scores if self.mistake == "mask" else jnp.where(mask, scores, -jnp.inf)
            weighted = jax.nn.softmax(scores, -1)[..., None] * read
            context = weighted.mean(1) if self.mistake == "mean" else weighted.sum(1)
            carry, _ = self.cell(carry, context)
            state = h if self.mistake == "state" else carry[1]
            outputs.append(self.out(jnp.concatenate([state, context], -1)))
        return jnp.stack(outputs, 1)


def tagger(**mistakes: str | bool) -> Case:
    torch.manual_seed(0)
    ids = np.random.default_rng(0).integers(0, 12, (3, 4))
    return Case("check", (TorchTagger(), FlaxTagger(**mistakes), ids))  # type: ignore[arg-type]


def reader(mistake: str = "") -> Case:
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((3, 4, 4)).astype(np.float32)
    mask = np.arange(4) < np.array([[4], [3], [2]])
    return Case("check", (TorchReader(), FlaxReader(mistake), compare.Call((x, mask))))


def _tagger(name: str, words: str, *causes: str, **mistakes: str | bool) -> Mistake:
    make: Callable[[], Case] = partial(tagger, **mistakes)
    return entry(name, words, make, ("before out", "inside rnn"), *causes)


MISTAKES = (
    _tagger("gates", "reset and update gate exchanged in one direction", "gate_order", forward="gate_order"),
    _tagger("inverted", "z for 1 - z, read backwards", "update_gate_inverted", backward="update_gate_inverted"),
    _tagger("reset", "the reset gate before the product", "reset_gate_place", forward="reset_gate_place"),
    _tagger("bias", "the candidate's recurrent bias left out", "bias_missing", backward="bias_missing"),
    _tagger(
        "twice_forward",
        "both directions read forward",
        "sequence_reversed",
        "direction_not_reversed",
        not_reversed=True,
    ),
    entry("scale", "scores divided by a root", partial(reader, "scale"), ("before cell",), "scale_factor"),
    entry("mask", "padding takes part", partial(reader, "mask"), ("before cell",), "mask_missing"),
    entry("mean", "the mean for the sum", partial(reader, "mean"), ("before cell",), "mean_for_sum"),
    entry("state", "the state before the step", partial(reader, "state"), ("before out",), "wrong_array"),
)

FAMILY = Family("directions", {"tagger": tagger, "reader": reader}, MISTAKES)
