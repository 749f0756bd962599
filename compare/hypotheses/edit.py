"""An edit of the torch computation, and the calls that it can act on."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from compare.hypotheses.call_arguments import Replacement, given, plain, renamed, tensors_of
from compare.hypotheses.expansion import EXPANSIONS
from compare.hypotheses.tape import Tape
from compare.result import Cause
from compare.structure import flatten, rebuild

__all__ = ["BOUNDARIES", "CallSite", "Calls", "Edit", "Hypothesis"]

BOUNDARIES = ("entering", "returning")
"""Not calls of torch, but edges where code between two modules may do something: each is an identity."""


@dataclasses.dataclass(frozen=True)
class CallSite:
    """One call of a torch function in a forward pass.

    Args:
        number: its place among all calls.
        function: its name, "layer_norm", "gelu", "tanh".
        module: the innermost module that was running.
        shapes: of its tensor arguments.
        scalars: the numbers among its positional arguments.
        result: shape of the first tensor that it returned.
        parameters: for each tensor argument the name of the parameter or buffer that it is, "" for none.
        arguments: its other arguments, by name, or by place where it has none.
        ordinal: the how-manieth call of that function in that module.
        span: how many calls it is made of, where it is taken apart.
        sources: numbers of the calls that returned its tensor arguments, -1 for none.
        repeat: the same call on another array; None where it takes none first.
        redo: what the call returns with an edit in it, on the arrays that it had.
        returned: how many tensors it returned.
    """

    number: int
    function: str
    module: str
    shapes: tuple[tuple[int, ...], ...]
    scalars: tuple[float, ...] = ()
    result: tuple[int, ...] | None = None
    parameters: tuple[str, ...] = ()
    arguments: Mapping[str | int, Any] = dataclasses.field(default_factory=dict)
    ordinal: int = 1
    span: int = 0
    sources: tuple[int, ...] = ()
    repeat: Callable[[torch.Tensor], Any] | None = None
    redo: Callable[[Replacement | None], Any] | None = None
    returned: int = 1

    @property
    def place(self) -> str:
        """In words: the module, or where there is none, which call it is."""
        call = f"at call {self.ordinal} of {self.function}" if self.function not in BOUNDARIES else ""
        return f"in {self.module}" if self.module else call


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
        reads: torch name of a parameter or buffer -> name of the one that the Flax model reads in its place.
        exchanged: torch modules that change places: each is compared with the other's partner.
        moved: torch modules whose calls change place: their own edges say nothing.
        made_of: several mistakes at once, where it is not one.
    """

    name: str
    summary: str
    fix: str
    edits: tuple[Edit, ...] = ()
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    exchanged: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    made_of: tuple["Hypothesis", ...] = ()

    @property
    def rearranges(self) -> bool:
        """Whether the modules that are compared change, not only what they compute."""
        return bool(self.exchanged or self.moved)

    def causes(self, evidence: str) -> list[Cause]:
        """The causes, once it is found to fit."""
        return [Cause(part.name, part.summary, part.fix, evidence) for part in self.made_of or (self,)]


class Calls(TorchFunctionMode):
    """Numbers the torch function calls made while it is entered, notes them, and replaces some.

    Entering a submodule and returning from the model count as calls, so that an edit can stand there.

    Args:
        model: theirs.
        hypotheses: mistakes that the model is to contain.
        recording: whether to note every call in ``sites``.
        fed: number of an edge of a submodule, in the order of execution, -> arrays that stand there from then on.
        tape: where to note the calls, edited as they are.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        hypotheses: Sequence[Hypothesis] = (),
        recording: bool = False,
        fed: Mapping[int, Sequence[np.ndarray]] | None = None,
        tape: Tape | None = None,
    ) -> None:
        super().__init__()
        self.sites: list[CallSite] = []
        self._fed = fed or {}
        self._edge = -1
        self._replaced: list[Any] = []  # kept, so that no id is used twice
        self._edits: dict[int, list[Edit]] = {}
        for hypothesis in hypotheses:
            for edit in hypothesis.edits:
                self._edits.setdefault(edit.site.number, []).append(edit)
        self._recording, self._model, self._tape = recording, model, tape
        self._tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._names = {id(tensor): name for name, tensor in self._tensors.items()}
        reads = {name: other for hypothesis in hypotheses for name, other in hypothesis.reads.items()}
        self._reads = {id(self._tensors[name]): self._tensors[other] for name, other in reads.items()}
        self._hooks: list[Any] = []
        self._stack: list[str] = [""]
        self._number = -1
        self._counts: Counter[tuple[str, str]] = Counter()
        self._made: dict[int, tuple[Any, int]] = {}  # id -> the tensor, kept so that no id is used twice, and its call

    def __enter__(self) -> Self:
        for name, module in self._model.named_modules():
            if name:
                enter = functools.partial(self._enter, name)
                self._hooks.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._leave, prepend=True))
                if not type(module).__module__.startswith("torch.nn"):  # it has code of its own
                    self._hooks.append(module.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._hooks.append(self._model.register_forward_hook(self._return))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _enter(self, name: str, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._stack.append(name)
        args, kwargs = self._feed((args, kwargs))
        return self._entered(args), kwargs

    def _entered(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._boundary("entering", args[0]), *args[1:]) if args and _floating(args[0]) else args

    def _begin(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # changes the module's inside only
        return self._entered(args), kwargs

    def _leave(self, _module: Any, _args: Any, output: Any) -> Any:
        self._stack.pop()
        return self._feed(output)

    def _feed(self, structure: Any) -> Any:
        """``structure``, or what stands there in its place; code that still holds the old arrays reads the new ones."""
        self._edge += 1
        if self._edge not in self._fed and self._tape is None:
            return structure
        leaves = {path: leaf for path, leaf in flatten(structure).items() if _floating(leaf)}
        if self._tape is not None:
            self._tape.edge([leaf for leaf in leaves.values() if not isinstance(leaf, torch.nn.Parameter)])
        changed = {}
        with torch._C.DisableTorchFunction():
            for (path, leaf), array in zip(leaves.items(), self._fed.get(self._edge, ()), strict=False):
                if array.shape == tuple(leaf.shape) and not isinstance(leaf, torch.nn.Parameter):
                    value = torch.from_numpy(np.array(array)).to(leaf.dtype)
                    changed[path] = value + (leaf - leaf.detach())  # the gradient goes on as it would
                    self._reads[id(leaf)] = changed[path]
                    self._replaced.append(leaf)
        return rebuild(structure, changed) if changed else structure

    def _return(self, _module: Any, _args: Any, output: Any) -> Any:
        leaves = {path: leaf for path, leaf in flatten(output).items() if _floating(leaf)}
        if self._tape is not None:
            self._tape.end(output)
        changed = {path: self._boundary("returning", leaf) for path, leaf in leaves.items()}
        return rebuild(output, changed) if changed and self._edits else output

    def _boundary(self, kind: str, tensor: torch.Tensor) -> torch.Tensor:
        self._number += 1
        result: torch.Tensor = self._editing(kind, lambda x: x)(tensor)
        self._note(self._number, kind, (tensor,), {}, result, lambda x: x)
        return result

    def count(self) -> int:
        """How many calls there were so far."""
        return self._number + 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _SILENT:
            return self._silent(name, func, args, kwargs)
        if self._reads:
            args, kwargs = renamed(args, self._reads), renamed(kwargs, self._reads)
        self._number += 1
        number = self._number
        if name in EXPANSIONS and EXPANSIONS[name].fits(*args, **kwargs):
            return self._composite(number, name, func, args, kwargs)
        call = self._editing(name, func)
        if self._tape is not None and kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}  # else the tape would hold what is changed
        result = call(*args, **kwargs)
        if self._tape is not None:
            self._tape.note(number, name, call, args, kwargs, result)
        if not any(True for _ in tensors_of(result)):
            self._number -= 1  # a question about a tensor (its size), not a computation
            return result
        self._note(number, name, args, kwargs, result, func)
        return result

    def _silent(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        if self._tape is None:
            return func(*args, **kwargs)
        result = (call := (lambda x: list(x.unbind(0))) if name == "__iter__" else func)(*args, **kwargs)
        self._tape.note(-1, name, call, args, kwargs, result)
        return iter(result) if name == "__iter__" else result

    def _composite(self, number: int, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """A call that is made of others: edited as a whole, or else taken apart, so that each part is a call."""
        if number in self._edits:
            call = self._editing(name, func)
            result = call(*args, **kwargs)
            self._number += self._edits[number][0].site.span
            if self._tape is not None:
                self._tape.note(number, name, call, args, kwargs, result)
            return result
        start = self._tape.length if self._tape is not None else 0
        super().__enter__()  # the parts are to be seen
        try:
            result = EXPANSIONS[name].compute(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)
        if self._tape is not None:
            self._tape.join(start, number, name, func, args, kwargs, result)
        self._note(number, name, args, kwargs, result, func, span=self._number - number)
        return result

    def _editing(self, name: str, func: Any) -> Callable[..., Any]:
        for edit in self._edits.get(self._number, ()):
            if edit.site.function != name:
                continue  # a question about a tensor, which has the number of the next computation
            func = functools.wraps(func)(functools.partial(_replaced, edit.replace, func))
        return func

    def _note(self, number: int, name: str, args: Any, kwargs: Any, result: Any, func: Any, span: int = 0) -> None:
        if not self._recording:
            return
        taken = list(tensors_of((args, kwargs)))
        returned = list(tensors_of(result))
        module = self._stack[-1]
        self._counts[module, name] += 1
        site = CallSite(
            number=number,
            function=name,
            module=module,
            shapes=tuple(tuple(tensor.shape) for tensor in taken),
            scalars=tuple(float(arg) for arg in args if isinstance(arg, int | float) and not isinstance(arg, bool)),
            result=tuple(returned[0].shape) if returned else None,
            returned=len(returned),
            parameters=tuple(self._names.get(id(tensor), "") for tensor in taken),
            arguments=plain(given(name, func, args, kwargs)),
            ordinal=self._counts[module, name],
            span=span,
            sources=tuple(self._made.get(id(tensor), (None, -1))[1] for tensor in taken),
            repeat=self._repeat(func, args, kwargs),
            redo=None if _once(name) else lambda edit: edit(func, args, kwargs) if edit else func(*args, **kwargs),
        )
        self.sites.append(site)
        for tensor in returned:
            self._made[id(tensor)] = (tensor, number)

    def _repeat(self, func: Any, args: Any, kwargs: Any) -> Callable[[torch.Tensor], Any] | None:
        """The call as a function of its first array, where all others are the model's own."""
        if not args or not isinstance(args[0], torch.Tensor):
            return None
        if not all(id(tensor) in self._names for tensor in tensors_of((args[1:], kwargs))):
            return None
        return lambda x: func(x, *args[1:], **kwargs)


def _once(name: str) -> bool:
    """Whether the call works in place or draws at random, so that made again it gives something else."""
    return name.startswith("__i") or (name.endswith("_") and not name.endswith("__")) or "dropout" in name


def _replaced(replace: Replacement, func: Any, *args: Any, **kwargs: Any) -> Any:
    return replace(func, args, kwargs)


def _floating(node: Any) -> bool:
    return isinstance(node, torch.Tensor) and node.is_floating_point()


# Bookkeeping that computes nothing.
_SILENT = {
    *("__get__", "__set__", "requires_grad_", "clone", "retain_grad", "register_hook", "backward", "item"),
    *("data_ptr", "type", "cpu", "numpy", "copy_", "__iter__", "unbind", "uniform_", "empty_like", "addcmul"),
}
