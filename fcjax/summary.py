"""What a model is made of: a table of its layers, shapes and parameters, and how parameters grow with size."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from flax import nnx

from fcjax.wrapped_calls import wrapped_calls

__all__ = ["LayerRow", "Summary", "fully_connected_count", "growth_table", "parameter_count", "summary"]


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One module of a model.

    Attributes:
        path: dotted, such as ``"layers.0"``; empty for the model itself.
        type: name of the module's class.
        input_shape, output_shape: of its first call; None if it was not called.
        parameters: numbers that it holds itself, those of its submodules left out.
    """

    path: str
    type: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    parameters: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A model's modules in the order of their calls; ``str`` gives a table."""

    rows: tuple[LayerRow, ...]

    @property
    def parameters(self) -> int:
        """All trainable numbers."""
        return sum(row.parameters for row in self.rows)

    def __str__(self) -> str:
        header = ("layer", "type", "input", "output", "parameters")
        body: list[tuple[str | int, ...]] = [
            (row.path or "(model)", row.type, *map(_shape_text, (row.input_shape, row.output_shape)), row.parameters)
            for row in self.rows
        ]
        return _text_table(header, [*body, ("total", "", "", "", self.parameters)], text_columns=4)


def summary(model: nnx.Module, x: jax.Array | jax.ShapeDtypeStruct) -> Summary:
    """Lists the layers of ``model`` with the shapes that an input of ``x``'s shape takes on its way through.

    Nothing is computed and the model is not changed: its call, in evaluation mode, is only traced. Buffers (masks,
    running statistics) are not parameters and not counted.

    Args:
        model: any module called with one array.
        x: an example input, or its shape and dtype, with the batch axis first.
    """
    graphdef, state = nnx.split(model)
    rows: list[LayerRow] = []

    def trace(state: nnx.State, x: jax.Array) -> None:
        copy: Any = nnx.merge(graphdef, state)
        copy.eval()
        modules = {id(module): (path, module) for path, module in nnx.iter_modules(copy)}
        calls: dict[int, tuple[Any, Any]] = {}
        with _recorded_calls({type(module) for _, module in modules.values()}, calls):
            copy(x)
        counted: set[int] = set()
        own = {key: _own_parameters(module, counted) for key, (_, module) in modules.items()}
        called = [key for key in calls if key in modules]
        uncalled = [key for key in modules if key not in calls and own[key]]
        for key in called + uncalled:
            path, module = modules[key]
            if path or own[key] or called == [key]:  # the model's own row only where it says something
                name = ".".join(map(str, path))
                rows.append(LayerRow(name, type(module).__name__, *calls.get(key, (None, None)), own[key]))

    jax.eval_shape(trace, state, x)
    return Summary(tuple(rows))


@contextmanager
def _recorded_calls(classes: set[type], calls: dict[int, tuple[Any, Any]]) -> Iterator[None]:
    """While open, notes input and output shape of each module's first call, in the order in which they begin."""

    def recording(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_and_note(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            first = id(self) not in calls
            if first:
                calls[id(self)] = (_shape(args[0]) if args else None, None)
            outputs = call(self, *args, **kwargs)
            if first:
                calls[id(self)] = (calls[id(self)][0], _shape(outputs))
            return outputs

        return call_and_note

    with wrapped_calls(classes, recording):
        yield


def _own_parameters(module: nnx.Module, counted: set[int]) -> int:
    """Numbers in the parameters that ``module`` holds itself; one that is shared counts where it is met first."""
    total = 0
    for value in vars(module).values():
        for leaf in jax.tree.leaves(value, is_leaf=lambda v: isinstance(v, nnx.Variable | nnx.Module)):
            if isinstance(leaf, nnx.Param) and id(leaf) not in counted:
                counted.add(id(leaf))
                total += leaf[...].size
    return total


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if hasattr(value, "shape") else None


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else " x ".join(map(str, shape)) or "scalar"


def parameter_count(model: nnx.Module) -> int:
    """How many trainable numbers ``model`` has: its ``nnx.Param`` alone, without buffers and generators."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def fully_connected_count(sizes: Sequence[int]) -> int:
    """``Σ (in + 1) out`` over neighbouring ``sizes``: weights and biases of a plain fully connected net.

    >>> fully_connected_count((3, 5, 2))  # (3 + 1) 5 + (5 + 1) 2 = 20 + 12
    32
    """
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))


def growth_table(inputs: int, outputs: int, widths: Sequence[int], depths: Sequence[int]) -> str:
    """Parameters of ``inputs - width - ... - width - outputs``: linear in depth, quadratic in width.

    Args:
        inputs, outputs: sizes of the two ends.
        widths: of the hidden layers; one column each.
        depths: numbers of hidden layers; one row each.
    """
    header = ("hidden layers", *(f"width {width}" for width in widths))
    rows: list[tuple[str | int, ...]] = [
        (str(depth), *(fully_connected_count((inputs, *[width] * depth, outputs)) for width in widths))
        for depth in depths
    ]
    return _text_table(header, rows, text_columns=1)


def _text_table(header: Sequence[str], rows: Sequence[Sequence[str | int]], text_columns: int) -> str:
    """Plain aligned text: the first ``text_columns`` columns to the left, numbers to the right with thousands apart."""
    cells = [list(header)] + [[f"{c:,}" if isinstance(c, int) else c for c in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            c.ljust(w) if i < text_columns else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
