"""Mistakes in recurrent nets: LSTM and GRU layers of torch, a scan over cells written by hand in NNX."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from compare import Port
from tests.corpus.mistake import Case, Family, Mistake
from tests.corpus.models import rows, seeded

Array = jax.Array
INPUT, HIDDEN = 4, 5


class TorchGRU(nn.Module):
    """A GRU cell unrolled by hand, a norm, the last state, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(INPUT, 3 * HIDDEN), nn.Linear(HIDDEN, 3 * HIDDEN)
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[0], HIDDEN)
        for t in range(x.shape[1]):
            xr, xz, xn = self.x(x[:, t]).chunk(3, -1)
            hr, hz, hn = self.h(h).chunk(3, -1)
            r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
            n = torch.tanh(xn + r * hn)
            h = (1 - z) * n + z * h
        return self.head(self.norm(h))


@dataclasses.dataclass(frozen=True)
class Flaws:
    """What is wrong with the port; nothing by default."""

    reset_before: bool = False
    update_inverted: bool = False
    gates: tuple[int, int, int] = (0, 1, 2)
    start: float = 0.0
    backwards: bool = False
    last: str = "state"
    tanh: Any = jnp.tanh
    truncated: bool = False
    steps: int = 0


class FlaxGRU(nnx.Module):
    def __init__(self, flaws: Flaws) -> None:
        rngs = nnx.Rngs(0)
        self.x, self.h = nnx.Linear(INPUT, 3 * HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, 3 * HIDDEN, rngs=rngs)
        self.norm = nnx.LayerNorm(HIDDEN, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.head, self.flaws = nnx.Linear(HIDDEN, 3, rngs=rngs), flaws

    def __call__(self, x: Array) -> Array:
        flaws = self.flaws
        h, states = jnp.full((x.shape[0], HIDDEN), flaws.start, x.dtype), []
        for t in range(x.shape[1] - flaws.steps):
            parts = jnp.split(self.x(x[:, -1 - t] if flaws.backwards else x[:, t]), 3, -1)
            xr, xz, xn = (parts[i] for i in flaws.gates)
            state = jax.lax.stop_gradient(h) if flaws.truncated else h
            if flaws.reset_before:
                hr, hz, _ = jnp.split(self.h(state), 3, -1)
                hn = jnp.split(self.h(jax.nn.sigmoid(xr + hr) * state), 3, -1)[2]
                n = flaws.tanh(xn + hn)
            else:
                hr, hz, hn = jnp.split(self.h(state), 3, -1)
                n = flaws.tanh(xn + jax.nn.sigmoid(xr + hr) * hn)
            z = jax.nn.sigmoid(xz + hz)
            h = z * n + (1 - z) * state if flaws.update_inverted else (1 - z) * n + z * state
            states.append(h)
        h = {"state": h, "mean": jnp.stack(states).mean(0), "first": states[0]}[flaws.last]
        return self.head(self.norm(h))


class TorchLSTM(nn.Module):
    """torch's own layer, both directions, two layers on request; all states through a head."""

    def __init__(self, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUT, HIDDEN, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(HIDDEN * (2 if bidirectional else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


class Cells(nnx.Module):
    """Torch's arrays as they are, merged by hand: input and hidden kernels, one bias."""

    def __init__(self, width: int) -> None:
        rngs = nnx.Rngs(0)
        self.input, self.hidden = nnx.Linear(width, 4 * HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, 4 * HIDDEN, rngs=rngs)

    def __call__(self, x: Array, order: str = "ifgo", forget_bias: float = 0.0, cell: bool = False) -> Array:
        def step(carry: Any, now: Array) -> Any:
            h, c = carry
            gates = dict(zip(order, jnp.split(self.input(now) + self.hidden(h), 4, -1), strict=True))
            i, f, o = (jax.nn.sigmoid(gates[k] + (forget_bias if k == "f" else 0.0)) for k in "ifo")
            c = f * c + i * jnp.tanh(gates["g"])
            h = o * jnp.tanh(c)
            return (h, c), c if cell else h

        zeros = jnp.zeros((x.shape[0], HIDDEN), x.dtype)
        return jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[1].swapaxes(0, 1)


class FlaxLSTM(nnx.Module):
    def __init__(
        self, bidirectional: bool = False, *, flipped: bool = True, reversed_order: bool = False, **how: Any
    ) -> None:
        self.forward, self.how = Cells(INPUT), how
        self.backward = Cells(INPUT) if bidirectional else None
        self.flipped, self.reversed_order = flipped, reversed_order
        self.head = nnx.Linear(HIDDEN * (2 if bidirectional else 1), 3, rngs=nnx.Rngs(1))

    def __call__(self, x: Array) -> Array:
        states = self.forward(x, **self.how)
        if self.backward is not None:
            other = self.backward(x[:, ::-1], **self.how)
            other = other[:, ::-1] if self.flipped else other
            states = jnp.concatenate([other, states] if self.reversed_order else [states, other], -1)
        return self.head(states)


def pairs(bidirectional: bool) -> dict[str, Any]:
    """Where torch's arrays go."""
    found: dict[str, Any] = {}
    for suffix, path in (("", "forward"), ("_reverse", "backward"))[: 2 if bidirectional else 1]:
        for kind, name in (("ih", "input"), ("hh", "hidden")):
            found[f"lstm.weight_{kind}_l0{suffix}"] = (f"{path}.{name}.kernel", lambda array: array.T)
            found[f"lstm.bias_{kind}_l0{suffix}"] = f"{path}.{name}.bias"
    return found


def gru(flaws: Flaws | None = None) -> Case:
    return Case("check", (Port(seeded(TorchGRU), FlaxGRU(flaws or Flaws()), rows(3, 4, INPUT)),))


def lstm(bidirectional: bool = False, **how: Any) -> Case:
    model = FlaxLSTM(bidirectional, **how)
    port = Port(seeded(lambda: TorchLSTM(bidirectional)), model, rows(3, 4, INPUT), mapping=pairs(bidirectional))
    return Case("check", (port,))


def unrolled(
    name: str, words: str, places: tuple[str, ...], causes: tuple[str, ...] | None, flaws: Flaws, **more: Any
) -> Mistake:
    return Mistake(name, words, lambda: gru(flaws), places, None if causes is None else frozenset(causes), **more)


LAYER = ("inside lstm", "before head")
NEXT = ("before h", "before norm")
FAMILY = Family(
    "recurrent",
    {"gru": gru, "lstm": lstm, "bidirectional": lambda: lstm(True)},
    (
        unrolled(
            "reset_before",
            "reset gate applied to the state, not to its projection (Keras's v1)",
            NEXT,
            None,
            Flaws(reset_before=True),
        ),
        unrolled(
            "update_inverted", "z and 1 - z exchanged", NEXT, ("operands_exchanged",), Flaws(update_inverted=True)
        ),
        unrolled(
            "gates_exchanged", "reset and update gates exchanged", NEXT, ("chunks_swapped",), Flaws(gates=(1, 0, 2))
        ),
        unrolled("start_of_ones", "first state of ones", ("before h",), None, Flaws(start=1.0)),
        unrolled(
            "backwards", "the sequence read backwards", ("before x",), ("sequence_reversed",), Flaws(backwards=True)
        ),
        unrolled("mean_state", "mean of the states in place of the last", ("before norm",), None, Flaws(last="mean")),
        unrolled(
            "relu_candidate", "ReLU for tanh in the candidate", NEXT, ("activation_swapped",), Flaws(tanh=jax.nn.relu)
        ),
        unrolled(
            "truncated",
            "gradient stopped between steps",
            ("before h", "inside x", "inside h"),
            ("gradient_stopped",),
            Flaws(truncated=True),
            direction="backward",
        ),
        unrolled("one_step_short", "the last step left out", ("before norm", "before h"), None, Flaws(steps=1)),
        Mistake(
            "gate_order",
            "gates in Keras's order, i f c o as i o f c",
            lambda: lstm(order="iofg"),
            LAYER,
            frozenset({"gate_order"}),
        ),
        Mistake(
            "gate_order_cell",
            "cell gate and output gate exchanged",
            lambda: lstm(order="ifog"),
            LAYER,
            frozenset({"gate_order"}),
        ),
        Mistake(
            "forget_bias",
            "a forget bias of 1 added, as in TensorFlow",
            lambda: lstm(forget_bias=1.0),
            LAYER,
            frozenset({"forget_bias"}),
        ),
        Mistake(
            "cell_for_state", "cell states returned", lambda: lstm(cell=True), LAYER, frozenset({"cell_for_state"})
        ),
        Mistake(
            "not_flipped_back",
            "backward states left in reversed order",
            lambda: lstm(True, flipped=False),
            LAYER,
            frozenset({"sequence_reversed"}),
        ),
        Mistake(
            "directions_exchanged",
            "backward states first",
            lambda: lstm(True, reversed_order=True),
            LAYER,
            frozenset({"concatenation_order"}),
        ),
    ),
)
