"""Mistakes in LSTM and GRU: the order of gates, biases, states, directions."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from compare.hypotheses.call_arguments import Replacement
from compare.hypotheses.edit import CallSite
from compare.hypotheses.variant import Maker, Variant

__all__ = ["RECURRENT"]

_GATES = {"lstm": "ifgo", "lstm_cell": "ifgo", "gru": "rzn", "gru_cell": "rzn"}

Change = Callable[[torch.Tensor, int, int], torch.Tensor]
"""From a weight, its number among the weights of its layer (input kernel, recurrent kernel, input bias, recurrent
bias) and the number of gates to what stands in its place."""


def _on_weights(function: str, change: Change) -> Replacement:
    gates = len(_GATES[function])

    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        if function.endswith("_cell"):
            return func(*args[:2], *(change(w, k, gates) for k, w in enumerate(args[2:6])), **kwargs)
        place = next(i for i, arg in enumerate(args) if isinstance(arg, list))
        per_layer = 4 if any(w.dim() == 1 for w in args[place]) else 2
        weights = [change(w, k % per_layer, gates) for k, w in enumerate(args[place])]
        return func(*args[:place], weights, *args[place + 1 :], **kwargs)

    return replace


def _reordered(order: Sequence[int]) -> Change:
    return lambda w, _number, gates: torch.cat([w.chunk(gates)[k] for k in order])


def _gates(site: CallSite) -> Iterator[Variant]:
    names = _GATES[site.function]
    for order in itertools.permutations(range(len(names))):
        if list(order) != sorted(order):
            found = "".join(names[k] for k in order)
            yield (
                "gate_order",
                f"the gates are taken in the order {found}, torch's weights hold them as {names}",
                f"take the rows of the weights as {names}",
                _on_weights(site.function, _reordered(order)),
            )
    for missing in ((2, "input"), (3, "recurrent")):
        yield (
            "bias_missing",
            f"the {missing[1]} bias is not added",
            "Flax has one bias where torch has two: use their sum",
            _on_weights(site.function, lambda w, k, _, missing=missing: 0 * w if k == missing[0] else w),  # type: ignore[misc]
        )
    yield (
        "bias_doubled",
        "the biases are added twice",
        "once",
        _on_weights(site.function, lambda w, k, _: 2 * w if k > 1 else w),
    )
    for k, kind in enumerate(("input", "recurrent")):
        yield (
            "kernel_not_transposed",
            f"the {kind} kernels of the gates are used untransposed; they are square, so no shape tells",
            "kernel = weight.T, gate by gate",
            _on_weights(
                site.function,
                lambda w, n, gates, k=k: torch.cat([part.T for part in w.chunk(gates)]) if n == k else w,  # type: ignore[misc]
            ),
        )


def _forget_bias(site: CallSite) -> Iterator[Variant]:
    def plus_one(w: torch.Tensor, number: int, gates: int) -> torch.Tensor:
        parts = list(w.chunk(gates))
        return torch.cat([parts[0], parts[1] + 1, *parts[2:]]) if number == 2 else w

    yield "forget_bias", "1 is added to the forget gate", "torch adds nothing", _on_weights(site.function, plus_one)


def _gru(site: CallSite) -> Iterator[Variant]:
    def inverted(w: torch.Tensor, _number: int, gates: int) -> torch.Tensor:
        reset, update, new = w.chunk(gates)
        return torch.cat([reset, -update, new])

    yield (
        "update_gate_inverted",
        "the update gate weighs the new state, torch's weighs the old one: h = (1 - z) n + z h",
        "(1 - z) * n + z * h",
        _on_weights(site.function, inverted),
    )
    yield (
        "bias_missing",
        "the candidate's recurrent bias is not added",
        "n = tanh(W x + b + r * (U h + c)), with c inside",
        _on_weights(site.function, _without_inner_bias),
    )
    yield (
        "reset_gate_bias",
        "the candidate's recurrent bias is added outside the reset gate",
        "n = tanh(W x + b + r * (U h + c)), with c inside",
        _bias_outside(site.function),
    )
    if site.function == "gru_cell":
        yield (
            "reset_gate_place",
            "the reset gate is applied to the state before the product: U (r h)",
            "torch multiplies after it: r * (U h + c)",
            lambda func, args, kwargs: _reset_first(args[0], args[1], args[2:6]),
        )
    else:
        yield (
            "reset_gate_place",
            "the reset gate is applied to the state before the product: U (r h)",
            "torch multiplies after it: r * (U h + c)",
            _reset_first_sequence,
        )


def _without_inner_bias(w: torch.Tensor, number: int, gates: int) -> torch.Tensor:
    return torch.cat([*w.chunk(gates)[:2], 0 * w.chunk(gates)[2]]) if number == 3 else w


def _bias_outside(function: str) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        place = 2 if function == "gru_cell" else next(i for i, arg in enumerate(args) if isinstance(arg, list))
        weights = list(args[2:6]) if function == "gru_cell" else list(args[place])
        for k in range(0, len(weights), 4):
            inside, outside = list(weights[k + 3].chunk(3)), list(weights[k + 2].chunk(3))
            weights[k + 2] = torch.cat([*outside[:2], outside[2] + inside[2]])
            weights[k + 3] = torch.cat([*inside[:2], 0 * inside[2]])
        if function == "gru_cell":
            return func(*args[:2], *weights, **kwargs)
        return func(*args[:place], weights, *args[place + 1 :], **kwargs)

    return replace


def _reset_first(x: torch.Tensor, h: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    w_input, w_state, b_input, b_state = weights
    inputs = (x @ w_input.T + b_input).chunk(3, -1)
    states = [h @ w.T + b for w, b in zip(w_state.chunk(3)[:2], b_state.chunk(3)[:2], strict=True)]
    reset, update = torch.sigmoid(inputs[0] + states[0]), torch.sigmoid(inputs[1] + states[1])
    new = torch.tanh(inputs[2] + (reset * h) @ w_state.chunk(3)[2].T + b_state.chunk(3)[2])
    return (1 - update) * new + update * h


def _reset_first_sequence(func: Any, args: Any, kwargs: Any) -> Any:
    """One layer, one direction."""
    x, hidden, weights, batch_first = args[0], args[1], args[2], args[8]
    steps, h = (x.transpose(0, 1) if batch_first else x), hidden[0]
    outputs = []
    for step in steps:
        h = _reset_first(step, h, weights)
        outputs.append(h)
    return torch.stack(outputs, 1 if batch_first else 0), h.unsqueeze(0)


def _sequence(site: CallSite) -> Iterator[Variant]:
    def time(args: Any) -> int:
        return 1 if args[8] else 0  # batch_first

    def backwards(func: Any, args: Any, kwargs: Any) -> Any:
        out, *states = func(args[0].flip(time(args)), *args[1:], **kwargs)
        return out.flip(time(args)), *states

    def half(swap: bool, flip: bool) -> Replacement:
        def replace(func: Any, args: Any, kwargs: Any) -> Any:
            out, *states = func(*args, **kwargs)
            one, other = out.chunk(2, -1)
            other = other.flip(time(args)) if flip else other
            return torch.cat([other, one] if swap else [one, other], -1), *states

        return replace

    yield "sequence_reversed", "the sequence is read from its end", "reverse=False", backwards
    yield "state_missing", "the initial state is zero", "pass the state", _zero_state
    if site.function == "lstm":
        yield (
            "states_swapped",
            "h and c are exchanged in what is returned",
            "torch returns (h, c), Flax's carry is (c, h)",
            lambda func, args, kwargs: _swapped(func(*args, **kwargs)),
        )
        yield (
            "states_swapped",
            "h and c of the initial state are exchanged",
            "torch takes (h, c), Flax's carry is (c, h)",
            lambda func, args, kwargs: func(args[0], tuple(args[1])[::-1], *args[2:], **kwargs),
        )
    if site.arguments.get(7, False):  # bidirectional
        fix = "concatenate forward and backward outputs, both in the sequence's order"
        yield "direction_order", "the backward direction comes first", fix, half(True, False)
        yield "direction_not_reversed", "the backward outputs stay in reversed order", fix, half(False, True)


def _zero_state(func: Any, args: Any, kwargs: Any) -> Any:
    state = args[1]
    zero = tuple(0 * part for part in state) if isinstance(state, tuple) else 0 * state
    return func(args[0], zero, *args[2:], **kwargs)


def _swapped(result: Any) -> Any:
    return result[0], result[2], result[1]


RECURRENT: dict[str, tuple[Maker, ...]] = {
    "lstm": (_gates, _forget_bias, _sequence),
    "gru": (_gates, _gru, _sequence),
    "lstm_cell": (_gates, _forget_bias),
    "gru_cell": (_gates, _gru),
}
