"""A recorded forward pass, of which only those calls are made again that an edit touches.

A search tries thousands of edits, and most of a model's calls have nothing to do with one of them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from compare.hypotheses.call_arguments import Replacement, renamed, tensors_of
from compare.structure import flatten, rebuild

__all__ = ["Tape", "UnsureError"]


class UnsureError(Exception):
    """What an edit does can't be told from the tape: shapes change, or a number is read from an array."""


@dataclasses.dataclass(frozen=True)
class _Call:
    number: int
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: tuple[torch.Tensor, ...]
    results: tuple[torch.Tensor, ...]


class Tape:
    """The calls of one forward pass with their arrays.

    Args:
        drawing: whether dropout is on, whose masks are not drawn again.
    """

    def __init__(self, drawing: bool) -> None:
        self._drawing = drawing
        self._calls: list[_Call] = []
        # First of its parts -> past the last one, and the call itself; the outermost of several comes last.
        self._whole: dict[int, list[tuple[int, _Call]]] = {}
        self._edges: list[tuple[int, list[torch.Tensor]]] = []
        self._known: set[int] = set()
        self._output: Any = None
        self._last = -1
        self._sound = True

    @property
    def length(self) -> int:
        """How many calls were noted."""
        return len(self._calls)

    def note(self, number: int, name: str, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Adds a call, after it was made."""
        call = _Call(number, name, function, args, kwargs, *(tuple(tensors_of(n)) for n in ((args, kwargs), result)))
        inside = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        changes = inside or name in _CHANGING or bool(kwargs.get("inplace")) or "out" in kwargs
        strange = any(t.grad_fn is not None and id(t) not in self._known for t in call.tensors)
        self._sound = self._sound and not changes and not strange
        if call.results or name in _READING:
            self._calls.append(call)
            self._known.update(id(tensor) for tensor in call.results)

    def join(self, start: int, number: int, name: str, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Says that the calls from ``start`` on are the parts of one."""
        given, returned = tuple(tensors_of((args, kwargs))), tuple(tensors_of(result))
        whole = _Call(number, name, function, args, kwargs, given, returned)
        self._whole.setdefault(start, []).append((len(self._calls), whole))

    def edge(self, tensors: Sequence[torch.Tensor]) -> None:
        """Adds an edge of a submodule."""
        self._edges.append((len(self._calls), list(tensors)))

    def end(self, output: Any) -> None:
        """Adds what the model returns, as the last edge."""
        self._output = output
        self._last = max((call.number for call in self._calls), default=-1)
        self.edge(list(tensors_of(list(flatten(output).values()))))

    def output(self, tensors: Sequence[torch.Tensor]) -> Any:
        """What the model returns, with these tensors in it."""
        paths = [path for path, leaf in flatten(self._output).items() if isinstance(leaf, torch.Tensor)]
        return rebuild(self._output, dict(zip(paths, tensors, strict=True)))

    def again(
        self,
        edits: Mapping[int, Sequence[tuple[str, Replacement]]],
        reads: Mapping[int, torch.Tensor],
        always: frozenset[int],
        edge: int,
    ) -> list[torch.Tensor]:
        """The arrays at an edge if some calls return something else.

        Args:
            edits: number of a call -> the function it must be, and what it then returns.
            reads: id of a tensor -> the one that is read in its place.
            always: numbers of calls that are made again in any case.
            edge: number of the edge, -1 for what the model returns.

        Raises:
            UnsureError: the tape can't tell.
        """
        if not self._sound or edge >= len(self._edges):
            raise UnsureError
        if edge < 0 and any(number > self._last for number in edits):
            raise UnsureError  # behind the model: a loss
        values = dict(reads)
        end, wanted = self._edges[edge]
        for call in self._played(end, edits):
            touched = [tensor for tensor in call.tensors if id(tensor) in values]
            if touched or call.number in edits or call.number in always:
                if call.name in _READING or (self._drawing and any(word in call.name for word in _DRAWING)):
                    raise UnsureError
                function = call.function
                for name, replace in edits.get(call.number, ()):
                    if name == call.name:
                        function = _edited(replace, function)
                result = function(*renamed(call.args, values), **renamed(call.kwargs, values))
                self._keep(call, tuple(tensors_of(result)), values)
        return [values.get(id(tensor), tensor) for tensor in wanted]

    def _played(self, end: int, edits: Mapping[int, Any]) -> Iterator[_Call]:
        position = 0
        while position < end:
            wholes = reversed(self._whole.get(position, ()))
            after, call = next((pair for pair in wholes if pair[1].number in edits), (position + 1, None))
            yield call or self._calls[position]
            position = after

    @staticmethod
    def _keep(call: _Call, found: Sequence[torch.Tensor], values: dict[int, torch.Tensor]) -> None:
        if [tensor.shape for tensor in found] != [tensor.shape for tensor in call.results]:
            raise UnsureError
        values.update((id(old), new) for old, new in zip(call.results, found, strict=True))


def _edited(replace: Replacement, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: replace(function, args, kwargs)


_CHANGING = {"__setitem__", "__set__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ipow__"}
_CHANGING |= {"__iand__", "__ior__", "__ixor__", "__ifloordiv__", "__imod__", "__ilshift__", "__irshift__"}
# They make a number of an array, on which Python goes on.
_READING = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "numpy", "__array__"}
_DRAWING = ("dropout", "attention", "lstm", "gru", "rnn")
