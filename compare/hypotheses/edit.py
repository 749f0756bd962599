"""An edit of the torch computation, and the calls that it can act on."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode

from compare.result import Cause

__all__ = ["CallSite", "Calls", "Edit", "Hypothesis", "editing"]

Replacement = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class CallSite:
    """One call of a torch function in a forward pass.

    Args:
        number: its place among all calls.
        function: its name, "layer_norm", "gelu", "tanh".
        module: the innermost module that was running.
        shapes: of its tensor arguments.
        scalars: the numbers among its positional arguments.
    """

    number: int
    function: str
    module: str
    shapes: tuple[tuple[int, ...], ...]
    scalars: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Edit:
    """Replaces what one torch call returns.

    Args:
        site: the call.
        replace: ``(function, args, kwargs) -> result``.
    """

    site: CallSite
    replace: Replacement


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A mistake that the port may contain, as edits that make torch contain it too.

    Args:
        name, summary, fix: of the cause that is reported if it fits.
        edits: of calls.
        weights: torch name -> what the Flax model uses in its place.
    """

    name: str
    summary: str
    fix: str
    edits: tuple[Edit, ...] = ()
    weights: dict[str, Callable[[Any], Any]] = dataclasses.field(default_factory=dict)

    def cause(self, evidence: str) -> Cause:
        """The cause, once it is found to fit."""
        return Cause(self.name, self.summary, self.fix, evidence)


def editing(hypotheses: Sequence[Hypothesis]) -> "Calls":
    """A context in which a model computes as if it contained these mistakes."""
    return Calls({edit.site.number: edit for hypothesis in hypotheses for edit in hypothesis.edits})


class Calls(TorchFunctionMode):
    """Numbers the torch function calls made while it is entered, notes them, and replaces some.

    Args:
        edits: by number of the call.
        model: whose submodules are named in the notes; None leaves the names out.
    """

    def __init__(self, edits: Mapping[int, Edit] | None = None, model: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.edits = edits or {}
        self.sites: list[CallSite] = []
        self._model = model
        self._hooks: list[Any] = []
        self._stack: list[str] = [""]
        self._number = -1
        self._inside = False

    def __enter__(self) -> Self:
        for name, module in self._model.named_modules() if self._model is not None else ():
            self._hooks.append(module.register_forward_pre_hook(lambda _m, _a, name=name: self._stack.append(name)))
            self._hooks.append(module.register_forward_hook(self._leave))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _leave(self, _module: Any, _args: Any, _output: Any) -> None:
        self._stack.pop()

    def count(self) -> int:
        """How many calls there were so far."""
        return self._number + 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._inside or not _counts(name):
            return func(*args, **kwargs)
        self._number += 1
        self.sites.append(CallSite(self._number, name, self._stack[-1], _shapes(args), _scalars(args)))
        edit = self.edits.get(self._number)
        self._inside = True  # a functional may call others: it is one site
        try:
            return func(*args, **kwargs) if edit is None else edit.replace(func, args, kwargs)
        finally:
            self._inside = False


# Bookkeeping that computes nothing.
_SILENT = {"__get__", "size", "dim", "numel", "stride", "__set__", "requires_grad_", "clone", "retain_grad"}
_SILENT |= {
    "is_floating_point",
    "is_complex",
    "register_hook",
    "__len__",
    "item",
    "is_contiguous",
    "data_ptr",
    "backward",
}
_SILENT |= {"ndimension", "type", "cpu", "numpy", "copy_", "__iter__", "unbind", "uniform_", "empty_like", "addcmul"}


def _counts(name: str) -> bool:
    return name not in _SILENT


def _shapes(args: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(arg.shape) for arg in args if isinstance(arg, torch.Tensor))


def _scalars(args: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(arg) for arg in args if isinstance(arg, int | float) and not isinstance(arg, bool))
