"""What happens inside a trained network: the values that go into and come out of each layer, in figures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from fcjax.layers import Dropout
from fcjax.wrapped_calls import wrapped_calls

__all__ = ["Activations", "LayerStatistics", "layer_activations", "layer_statistics", "statistics_table"]


@dataclass(frozen=True)
class Activations:
    """What one layer computes for a batch.

    Args:
        path: dotted, such as ``"fc1"``.
        before: its output, shape ``(batch, width)``.
        after: what the activation function makes of it: the input of the next layer, or the model's output.
    """

    path: str
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class LayerStatistics:
    """One layer's figures over a batch.

    Args:
        path: dotted.
        mean, std: of the layer's output, before the activation function.
        zeros: share of exact zeros after it.
        dead: share of units that are zero for every sample.
        saturated: share within 0.01 of the ends of a bounded activation's range (sigmoid, tanh); 0 for others.
    """

    path: str
    mean: float
    std: float
    zeros: float
    dead: float
    saturated: float


def layer_activations(model: nnx.Module, x: jax.Array) -> list[Activations]:
    """Input and output of every layer for the batch ``x``, in order: what a forward hook sees.

    Layers are the modules without submodules, dropout left out. Leaves the model as it is, in evaluation mode.
    """
    model.eval()
    names = {
        id(module): ".".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if not isinstance(module, Dropout | nnx.Dropout | nnx.List) and not _children(module)
    }
    calls: list[tuple[str, Any, Any]] = []
    with _recorded(model, names, calls):
        output = model(x)
    following = [inputs for _, inputs, _ in calls[1:]] + [output]
    return [
        Activations(path, np.asarray(before, np.float32), np.asarray(after, np.float32))
        for (path, _, before), after in zip(calls, following, strict=True)
    ]


def layer_statistics(activations: list[Activations]) -> list[LayerStatistics]:
    """Mean, deviation, zeros and saturation of every layer."""
    return [
        LayerStatistics(
            one.path,
            float(one.before.mean()),
            float(one.before.std()),
            float((one.after == 0).mean()),
            float((one.after == 0).all(axis=0).mean()),
            _saturated(one.after),
        )
        for one in activations
    ]


def statistics_table(rows: list[LayerStatistics]) -> str:
    """Plain aligned text."""
    lines = [f"{'layer':<16}{'mean':>10}{'std':>10}{'zeros':>9}{'dead':>9}{'saturated':>11}"]
    for r in rows:
        shares = f"{100 * r.zeros:>7.1f} %{100 * r.dead:>7.1f} %{100 * r.saturated:>9.1f} %"
        lines.append(f"{r.path:<16}{r.mean:>10.3g}{r.std:>10.3g}{shares}")
    return "\n".join(lines)


def _saturated(values: np.ndarray) -> float:
    low, high = float(values.min()), float(values.max())
    if low == 0.0 or low < -1.0 or high > 1.0:
        return 0.0  # not bounded, or a ReLU
    ends = (0.0, 1.0) if low > 0 else (-1.0, 1.0)
    return float(((values <= ends[0] + 0.01) | (values >= ends[1] - 0.01)).mean())


def _children(module: nnx.Module) -> bool:
    return any(isinstance(value, nnx.Module) for value in vars(module).values())


@contextmanager
def _recorded(model: nnx.Module, names: dict[int, str], calls: list[tuple[str, Any, Any]]) -> Iterator[None]:
    """While open, each call of a named module appends its path, input and output to ``calls``."""

    def recording(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_and_note(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            outputs = call(self, *args, **kwargs)
            if id(self) in names:
                calls.append((names[id(self)], args[0], outputs))
            return outputs

        return call_and_note

    kinds = {type(module) for _, module in nnx.iter_modules(model) if id(module) in names}
    with wrapped_calls(kinds, recording):
        yield
