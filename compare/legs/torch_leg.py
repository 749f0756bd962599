"""The PyTorch leg: the reference, run eagerly on a deep copy in the precision asked for.

The copy's parameters hold numbers from the first run until ``unload``: a leg that waits takes no memory.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from compare.case_weights import Held, Replaced
from compare.legs.copying import copied
from compare.legs.dropout import TorchMasks
from compare.legs.dtypes import shared_16_bit_type
from compare.legs.lookups import Lookup, Lookups
from compare.legs.memory import give_back, hollow, is_hollow
from compare.legs.noise import Noise
from compare.legs.run import Case, Reduce, Run
from compare.legs.scores import Scores
from compare.legs.torch_lift import TorchLift, raise_plain_tensors
from compare.legs.watch import Reached, TorchWatch
from compare.result import UsageError
from compare.structure import Call, flatten, is_floating, rebuild, to_numpy

__all__ = ["TorchLeg"]

Precision = Literal["float64", "float32"]

# Weights of this many numbers, 64 MB in float32, take so long that cases beyond the given and the redrawn weights are
# compared forward only.
_LARGE = 2**24

# What a last layer returns is often a logarithm's argument: e^-745 is zero in float64, and nothing compares with it.
_HEAD = 30.0


class TorchLeg:
    """Runs a torch module on cases, in float64 or in float32, and never touches the module it was given.

    Args:
        model: the user's module.
        precision: of weights, inputs and arithmetic.
        mode: "eval" or "train".
        select: brings the output to the structure that is compared; None keeps it.
        loss: a function of the selected outputs whose value is compared as one more output.
        thawed: whether parameters that the model freezes (``requires_grad=False``) get gradients like all others.

    Attributes:
        frozen: their names.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        precision: Precision,
        mode: Literal["eval", "train"] = "eval",
        select: Callable[[Any], Any] | None = None,
        loss: Callable[[Any], Any] | None = None,
        thawed: bool = False,
    ) -> None:
        self.precision: Precision = precision
        self.dtype = getattr(torch, precision)
        self.mode = mode
        self.select = select
        self.loss = loss
        own = copied(model, {id(p): hollow(p) for p in model.parameters() if type(p) is torch.nn.Parameter})
        own = own.cpu()
        # The working precision is the one that the model holds; a model in float64 is used in float32 by its port.
        self.low = shared_16_bit_type([p.dtype for p in own.parameters()]) if precision == "float32" else None
        if self.low is None:
            raise_plain_tensors(own, self.dtype)
            for parameter in own.parameters():
                if parameter.is_floating_point():
                    parameter.data = hollow(parameter, self.dtype).data
            own = own.to(self.dtype)
        self.model = own.train(mode == "train")
        self._parameters = dict(self.model.named_parameters())
        self.frozen = tuple(n for n, p in self._parameters.items() if p.is_floating_point() and not p.requires_grad)
        for name in self.frozen if thawed else ():
            self._parameters[name].requires_grad_()
        # Tied names are listed once, as the mapping lists them.
        self._buffers = dict(self.model.named_buffers())
        self._loaded: Mapping[str, np.ndarray] | None = None
        self._replaced: frozenset[str] = frozenset()
        self.size = sum(tensor.numel() for tensor in (self._parameters | self._buffers).values())
        self.large = self.size >= _LARGE
        self.ranks: dict[str, int] = {}  # of the outputs of the last run

    def run(
        self,
        case: Case,
        perturbation: int | None = None,
        trace: bool = False,
        edit: AbstractContextManager[Any] | None = None,
        clock: Callable[[], int] = lambda: 0,
        until: int | None = None,
        reduce: Reduce | None = None,
    ) -> Run:
        """Runs ``case`` forward, and backward if it has cotangents.

        Args:
            case: weights, inputs, cotangents and dropout masks.
            perturbation: a seed; then inputs, weights and every module's output are moved by one rounding.
            trace: whether to record checkpoints, with their gradients.
            edit: a hypothesis: a context in which the model computes something else.
            clock: read at each checkpoint.
            until: number of the checkpoint to stop at; then there are checkpoints only, without gradients.
            reduce: what is kept of each gradient as it arises; all of it when None.
        """
        noise = None if perturbation is None else Noise(perturbation)
        self._load(case.weights, noise)
        arguments, leaves = self._arguments(case.call, noise)
        watch = TorchWatch(clock, until) if trace else None
        if until is not None:
            with contextlib.suppress(Reached), self._environment(case, noise, watch), edit or contextlib.nullcontext():
                self.model(*arguments.args, **arguments.kwargs)
            return Run(outputs={}, checkpoints=watch.checkpoints() if watch else ())
        with self._environment(case, noise, watch), edit or contextlib.nullcontext():
            returned = self.model(*arguments.args, **arguments.kwargs)
            outputs = self._outputs(returned)
            gradients = self._backward(outputs, leaves, case, reduce) if case.cotangents else {}
        return Run(
            outputs={path: to_numpy(value) for path, value in outputs.items()},
            parameter_gradients=gradients.get("parameter_gradients", {}),
            input_gradients=gradients.get("input_gradients", {}),
            statistics={name: to_numpy(value) for name, value in self._buffers.items()},
            checkpoints=watch.checkpoints() if watch else (),
        )

    def record_masks(self, case: Case, seed: int) -> tuple[np.ndarray, ...]:
        """The dropout masks that a training-mode call draws, in call order."""
        recorder = TorchMasks(seed=seed)
        self._explore(case, recorder)
        return tuple(recorder.masks)

    def outputs(self, case: Case, seed: int = 0) -> dict[str, np.ndarray]:
        """The outputs alone; in training mode with masks of its own."""
        returned = self._explore(case, self._own_masks(seed))
        with torch.no_grad():
            return {path: to_numpy(value) for path, value in self._outputs(returned).items()}

    def lookups(self, case: Case) -> dict[str, Lookup]:
        """For each integer input the table that it looks something up in, if it does."""
        found: dict[str, Lookup] = {}
        self._explore(case, self._own_masks(0), lambda arguments: Lookups(flatten(arguments), found))
        return found

    def scores(self, case: Case) -> Scores:
        """How large attention scores become in ``case``, and whether some are masked."""
        seen = Scores()
        self._explore(case, self._own_masks(0), lambda _: seen)
        return seen

    def unload(self) -> None:
        """Lets go of all weights, until the next run."""
        self._loaded = None
        for parameter in self._parameters.values():
            parameter.data, parameter.grad = hollow(parameter).data, None
        give_back()

    def freeze(self, names: Iterable[str]) -> None:
        """From now on these parameters get no gradients."""
        for name in names:
            self._parameters[name].requires_grad_(False)

    def driven(self, case: Case, size: float) -> dict[str, float]:
        """Factors for ``case``'s weights by which each layer returns values of about ``size``, the last one of 30."""
        done: dict[int, float] = {}
        last: list[torch.Tensor] = []

        def drive(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            own = [p for p in module.parameters(recurse=False) if p.is_floating_point() and id(p) not in done]
            leaves = [leaf for leaf in flatten(output).values() if leaf.is_floating_point() and leaf.numel()]
            found = float(leaves[0].square().mean().sqrt()) if leaves else 0.0
            if not own or not 0.0 < found < np.inf:
                return None
            for parameter in own:
                parameter.mul_(size / found)
                done[id(parameter)] = size / found
            last[:] = own
            return module.forward(*args, **kwargs)

        single = (torch.nn.MultiheadAttention,)  # its inner module is never called
        layers = [m for m in self.model.modules() if isinstance(m, single) or not any(True for _ in m.children())]
        hooks = [layer.register_forward_hook(drive, with_kwargs=True) for layer in layers]
        try:
            self._explore(case, self._own_masks(0))
        finally:
            self._loaded = None
            for hook in hooks:
                hook.remove()
        for parameter in last:
            done[id(parameter)] *= min(1.0, _HEAD / size)
        return {name: done[id(p)] for name, p in self._parameters.items() if id(p) in done}

    def _own_masks(self, seed: int) -> AbstractContextManager[Any]:
        return TorchMasks(seed=seed) if self.mode == "train" else contextlib.nullcontext()

    def _explore(
        self,
        case: Case,
        masks: AbstractContextManager[Any],
        watch: Callable[[Call], AbstractContextManager[Any]] = lambda _: contextlib.nullcontext(),
    ) -> Any:
        self._load(case.weights, None)
        arguments, _ = self._arguments(case.call, None)
        with self._default_dtype(), self._lifted(), masks, watch(arguments), torch.no_grad():
            return self.model(*arguments.args, **arguments.kwargs)

    def _load(self, weights: Mapping[str, np.ndarray], noise: Noise | None) -> None:
        # A search runs one case thousands of times, or with single parameters replaced; no forward pass changes any.
        base, own = (weights.base, weights.own.keys()) if isinstance(weights, Replaced) else (weights, frozenset())
        kept = noise is None and self._loaded is base
        changed = self._buffers.keys() | self._replaced | own
        self._loaded, self._replaced = base if noise is None else None, frozenset(own)
        with torch.no_grad():
            for name, tensor in (self._parameters | self._buffers).items():
                if kept and name not in changed:
                    continue
                if is_hollow(tensor):
                    tensor.data = torch.empty(tensor.shape, dtype=tensor.dtype)
                array = weights.narrow[name] if isinstance(weights, Held) else weights[name]
                tensor.copy_(torch.from_numpy(array if array.flags.writeable else array.copy()))
                if noise is not None:
                    noise.move(tensor)

    def _arguments(self, call: Call, noise: Noise | None) -> tuple[Call, dict[str, torch.Tensor]]:
        leaves: dict[str, torch.Tensor] = {}
        tensors: dict[str, torch.Tensor] = {}
        for path, array in flatten(call).items():
            tensor = torch.from_numpy(to_numpy(array))
            if is_floating(array):
                tensor = tensor.to(self.low or self.dtype)
                tensor = (noise(tensor) if noise else tensor).requires_grad_()
                leaves[path] = tensor
            tensors[path] = tensor
        return rebuild(call, tensors), leaves

    @contextlib.contextmanager
    def _environment(self, case: Case, noise: Noise | None, watch: TorchWatch | None) -> Iterator[None]:
        hooks: list[Any] = []
        if noise is not None:
            for module in self.model.modules():
                hooks.append(module.register_forward_hook(lambda _m, _i, output: _move(output, noise)))
        if watch is not None:
            hooks += watch.hooks(self.model)
        nothing = contextlib.nullcontext()
        masks = TorchMasks(replay=case.masks) if self.mode == "train" else nothing
        # What the backward pass reads is moved too: where a tanh saturates, its derivative is nothing but rounding.
        moved = self._moved_backward(noise) if noise and case.cotangents else nothing
        try:
            with self._default_dtype(), self._lifted(), masks, moved:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _moved_backward(self, noise: Noise) -> AbstractContextManager[Any]:
        parameters = set(map(_place, self._parameters.values()))

        def kept(saved: torch.Tensor) -> tuple[torch.Tensor, bool]:
            # Not the tensor itself, which may be the output and would keep its whole graph for ever.
            return saved.detach(), _place(saved) in parameters  # moved already

        return saved_tensors_hooks(kept, lambda saved: saved[0] if saved[1] else noise(saved[0]))

    @contextlib.contextmanager
    def calling(self, case: Case) -> Iterator[None]:
        """Where single calls of ``case`` can be made again."""
        self._load(case.weights, None)
        with self._default_dtype(), self._lifted(), torch.no_grad():
            yield

    def selected(self, returned: Any) -> dict[str, np.ndarray]:
        """The outputs that are compared, of what the model returned."""
        return {path: to_numpy(value) for path, value in self._outputs(returned).items()}

    def _lifted(self) -> AbstractContextManager[Any]:
        return TorchLift() if self.precision == "float64" else contextlib.nullcontext()

    @contextlib.contextmanager
    def _default_dtype(self) -> Iterator[None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    def _outputs(self, returned: Any) -> dict[str, torch.Tensor]:
        selected = returned if self.select is None else self.select(returned)
        outputs = flatten(selected)
        self.ranks.clear()
        self.ranks.update({path: value.ndim for path, value in outputs.items()})
        if not outputs:
            found = type(returned).__name__
            raise UsageError(f"the torch model returned {found}, in which there is no array to compare")
        if self.loss is not None:
            outputs["loss"] = self.loss(selected)
        return outputs

    def _backward(
        self,
        outputs: Mapping[str, torch.Tensor],
        leaves: Mapping[str, torch.Tensor],
        case: Case,
        reduce: Reduce | None,
    ) -> dict[str, dict[str, Any]]:
        terms = [
            (torch.from_numpy(np.array(case.cotangents[path])).to(value.dtype) * value).sum()
            for path, value in outputs.items()
            # Another shape is another check's finding.
            if path in case.cotangents and value.requires_grad and case.cotangents[path].shape == tuple(value.shape)
        ]
        wanted = {"parameter_gradients": self._parameters, "input_gradients": leaves}
        found: dict[str, dict[str, Any]] = {field: dict.fromkeys(named) for field, named in wanted.items()}
        if not terms:
            return found

        def take(field: str, path: str, tensor: torch.Tensor) -> None:
            # Taken as soon as it is complete: the gradients of all parameters are as large as the model.
            with torch._C.DisableTorchFunction():
                assert tensor.grad is not None
                gradient, tensor.grad = tensor.grad, None
                array = (gradient.float() if gradient.dtype.itemsize == 2 else gradient).numpy()
            found[field][path] = array if reduce is None else reduce(field, path, array)

        with torch._C.DisableTorchFunction():  # an edit may have the model read other arrays
            hooks = [
                tensor.register_post_accumulate_grad_hook(functools.partial(take, field, path))
                for field, named in wanted.items()
                for path, tensor in named.items()
                if tensor.requires_grad
            ]
        try:
            torch.stack(terms).sum().backward()
        finally:
            for hook in hooks:
                hook.remove()
        return found


def _place(tensor: torch.Tensor) -> int | None:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else None


def _move(output: Any, noise: Noise) -> Any:
    if isinstance(output, torch.Tensor):
        return noise(output)
    leaves = {path: noise(leaf) for path, leaf in flatten(output).items()}
    return rebuild(output, leaves) if leaves else output
