"""LSTM and GRU: layers, cells, two directions, embeddings before them."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn

import compare
from tests.corpus.building import build, integers, normal

Array = jax.Array


class TorchTagger(nn.Module):
    """Embedding with padding_idx, two LSTM layers, a head."""

    def __init__(self, vocabulary: int = 9, dim: int = 5, hidden: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.lstm = nn.LSTM(dim, hidden, num_layers=2, batch_first=True)
        self.fc = nn.Linear(hidden, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out, _ = self.lstm(self.embedding(tokens))
        return self.fc(out)


class Tagger(nnx.Module):
    def __init__(self, vocabulary: int = 9, dim: int = 5, hidden: int = 6) -> None:
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Embed(vocabulary, dim, rngs=rngs)
        self.lstm1 = nnx.RNN(nnx.OptimizedLSTMCell(dim, hidden, rngs=rngs))
        self.lstm2 = nnx.RNN(nnx.OptimizedLSTMCell(hidden, hidden, rngs=rngs))
        self.fc = nnx.Linear(hidden, 4, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        return self.fc(self.lstm2(self.lstm1(self.embedding(tokens))))


def lstm_two_layers() -> compare.Port:
    return build("nn.LSTM, two layers, NNX", TorchTagger, Tagger(), integers(9, 3, 6))


class TorchBiLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 5, bidirectional=True, batch_first=True)
        self.out = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, (h, _) = self.rnn(x)
        return self.out(y) + self.out(torch.cat([h[0], h[1]], dim=-1))[:, None]


class BiLSTM(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        forward = linen.RNN(linen.LSTMCell(5), return_carry=True, name="forward_rnn")
        backward = linen.RNN(linen.LSTMCell(5), return_carry=True, reverse=True, keep_order=True, name="backward_rnn")
        (_, h_forward), y_forward = forward(x)
        (_, h_backward), y_backward = backward(x)
        out = linen.Dense(3)
        y = out(jnp.concatenate([y_forward, y_backward], axis=-1))
        return y + out(jnp.concatenate([h_forward, h_backward], axis=-1))[:, None]


def bilstm() -> compare.Port:
    return build("bidirectional LSTM, Linen", TorchBiLSTM, BiLSTM(), normal(3, 6, 4))


class TorchGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, h = self.gru(x)  # (time, batch, features)
        return self.head(h[-1])


class GRU(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        carry, _ = linen.RNN(linen.GRUCell(features=5), return_carry=True)(x)
        return linen.Dense(2)(carry)


def gru() -> compare.Port:
    inputs = compare.Inputs(normal(6, 3, 4), lambda x: jnp.swapaxes(x, 0, 1))
    return build("nn.GRU, time first, Linen", TorchGRU, GRU(), inputs)


class GRULayer(nnx.Module):
    """torch's own formula, its packed weights, under lax.scan."""

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.input = nnx.Linear(features, 3 * hidden, rngs=rngs)
        self.recurrent = nnx.Linear(hidden, 3 * hidden, rngs=rngs)
        self.hidden = hidden

    def __call__(self, x: Array) -> Array:
        gates = self.input(x)  # (batch, time, 3 hidden)

        def step(h: Array, gate: Array) -> tuple[Array, Array]:
            r_x, z_x, n_x = jnp.split(gate, 3, axis=-1)
            r_h, z_h, n_h = jnp.split(self.recurrent(h), 3, axis=-1)
            r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
            n = jnp.tanh(n_x + r * n_h)
            h = (1 - z) * n + z * h
            return h, h

        h0 = jnp.zeros((x.shape[0], self.hidden), x.dtype)
        _, out = jax.lax.scan(step, h0, jnp.swapaxes(gates, 0, 1))
        return jnp.swapaxes(out, 0, 1)


class TorchStackedGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, num_layers=2, batch_first=True, dropout=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x)[0]


class StackedGRU(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([GRULayer(4, 5, rngs=rngs), GRULayer(5, 5, rngs=rngs)])

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x


def stacked_gru() -> compare.Port:
    return build("nn.GRU, two layers, own scan with packed gates", TorchStackedGRU, StackedGRU(), normal(3, 6, 4))


class TorchCellLoop(nn.Module):
    """An LSTMCell in a Python loop, state given and returned."""

    def __init__(self, features: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(features, hidden)
        self.readout = nn.Linear(hidden, 2)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> Any:
        h, c = state
        outputs = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            outputs.append(self.readout(h))
        return torch.stack(outputs, dim=1), (h, c)


class CellLoop(nnx.Module):
    def __init__(self, features: int = 4, hidden: int = 6) -> None:
        rngs = nnx.Rngs(0)
        self.cell = nnx.LSTMCell(features, hidden, rngs=rngs)
        self.readout = nnx.Linear(hidden, 2, rngs=rngs)

    def __call__(self, x: Array, state: tuple[Array, Array]) -> Any:
        h, c = state
        outputs = []
        for t in range(x.shape[1]):
            (c, h), y = self.cell((c, h), x[:, t])  # Flax carries (c, h)
            outputs.append(self.readout(y))
        return jnp.stack(outputs, axis=1), (h, c)


def lstm_cell() -> compare.Port:
    inputs = (normal(3, 4, 4), (normal(3, 6, seed=1), normal(3, 6, seed=2)))
    return build("LSTMCell in a loop, state in and out", TorchCellLoop, CellLoop(), inputs)


class TorchElman(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 7, nonlinearity="tanh", batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


class Elman(nnx.Module):
    def __init__(self) -> None:
        self.rnn = nnx.RNN(nnx.SimpleCell(4, 7, rngs=nnx.Rngs(0)))

    def __call__(self, x: Array) -> Array:
        return self.rnn(x)


def elman() -> compare.Port:
    return build("nn.RNN against nnx.SimpleCell", TorchElman, Elman(), normal(2, 5, 4))


BUILDERS = (lstm_two_layers, bilstm, gru, stacked_gru, lstm_cell, elman)


def ports() -> list[compare.Port]:
    return [build_port() for build_port in BUILDERS]
