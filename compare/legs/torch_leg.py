"""The PyTorch leg: the reference, run eagerly on a deep copy in the precision asked for."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from compare.legs.dropout import TorchMasks
from compare.legs.dtypes import shared_16_bit_type
from compare.legs.lookups import Lookup, Lookups
from compare.legs.run import Case, Run
from compare.legs.scores import Scores
from compare.legs.torch_lift import TorchLift, raise_plain_tensors
from compare.legs.watch import Reached, TorchWatch
from compare.result import UsageError
from compare.structure import Call, flatten, is_floating, rebuild, to_numpy
from compare.verdict import unit_roundoff

__all__ = ["TorchLeg"]

Precision = Literal["float64", "float32"]

# What a last layer returns is often a logarithm's argument: e^-745 is zero in float64, and nothing compares with it.
_HEAD = 30.0

# So many moves are drawn for one tensor; a larger one repeats them, with a prime period: no row is like the next.
_DRAWN = 65537


class TorchLeg:
    """Runs a torch module on cases, in float64 or in float32, and never touches the module it was given.

    Args:
        model: the user's module.
        precision: of weights, inputs and arithmetic.
        mode: "eval" or "train".
        select: brings the output to the structure that is compared; None keeps it.
        loss: a function of the selected outputs whose value is compared as one more output.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        precision: Precision,
        mode: Literal["eval", "train"] = "eval",
        select: Callable[[Any], Any] | None = None,
        loss: Callable[[Any], Any] | None = None,
    ) -> None:
        self.precision: Precision = precision
        self.dtype = getattr(torch, precision)
        self.mode = mode
        self.select = select
        self.loss = loss
        own = copy.deepcopy(model).cpu()
        # The working precision is the one that the model holds; a model in float64 is used in float32 by its port.
        self.low = shared_16_bit_type([p.dtype for p in own.parameters()]) if precision == "float32" else None
        if self.low is None:
            raise_plain_tensors(own, self.dtype)
            own = own.to(self.dtype)
        self.model = own.train(mode == "train")
        self._parameters = dict(self.model.named_parameters())
        # Tied names are listed once, as the mapping lists them.
        self._buffers = dict(self.model.named_buffers())
        self._loaded: Mapping[str, np.ndarray] | None = None
        self.ranks: dict[str, int] = {}  # of the outputs of the last run

    def run(
        self,
        case: Case,
        perturbation: int | None = None,
        trace: bool = False,
        edit: AbstractContextManager[Any] | None = None,
        clock: Callable[[], int] = lambda: 0,
        until: int | None = None,
    ) -> Run:
        """Runs ``case`` forward, and backward if it has cotangents.

        Args:
            case: weights, inputs, cotangents and dropout masks.
            perturbation: a seed; then inputs, weights and every module's output are moved by one rounding.
            trace: whether to record checkpoints, with their gradients.
            edit: a hypothesis: a context in which the model computes something else.
            clock: read at each checkpoint.
            until: number of the checkpoint to stop at; then there are checkpoints only, without gradients.
        """
        noise = None if perturbation is None else _Noise(perturbation)
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
            gradients = self._backward(outputs, leaves, case, watch is not None)
        return Run(
            outputs={path: to_numpy(value) for path, value in outputs.items()},
            parameter_gradients={name: gradients[f"p.{name}"] for name in self._parameters} if gradients else {},
            input_gradients={path: gradients[f"i.{path}"] for path in leaves} if gradients else {},
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

    def driven(self, case: Case, size: float) -> dict[str, np.ndarray]:
        """``case``'s weights, scaled layer by layer: each then returns values of about ``size``, the last one of 30."""
        done: set[int] = set()
        last: list[torch.Tensor] = []

        def drive(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            own = [p for p in module.parameters(recurse=False) if p.is_floating_point() and id(p) not in done]
            leaves = [leaf for leaf in flatten(output).values() if leaf.is_floating_point() and leaf.numel()]
            found = float(leaves[0].square().mean().sqrt()) if leaves else 0.0
            if not own or not 0.0 < found < np.inf:
                return None
            for parameter in own:
                parameter.mul_(size / found)
                done.add(id(parameter))
            last[:] = own
            return module.forward(*args, **kwargs)

        single = (torch.nn.MultiheadAttention,)  # its inner module is never called
        layers = [m for m in self.model.modules() if isinstance(m, single) or not any(True for _ in m.children())]
        hooks = [layer.register_forward_hook(drive, with_kwargs=True) for layer in layers]
        try:
            self._explore(case, self._own_masks(0))
        finally:
            for hook in hooks:
                hook.remove()
        with torch.no_grad():
            for parameter in last:
                parameter.mul_(min(1.0, _HEAD / size))
        scaled = {name: to_numpy(parameter) for name, parameter in self._parameters.items() if id(parameter) in done}
        return {**case.weights, **scaled}

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

    def _load(self, weights: Mapping[str, np.ndarray], noise: "_Noise | None") -> None:
        # A search runs one case thousands of times, and no forward pass changes a parameter.
        kept = noise is None and self._loaded is weights
        self._loaded = weights if noise is None else None
        with torch.no_grad():
            for name, tensor in (self._buffers if kept else self._parameters | self._buffers).items():
                value = torch.from_numpy(np.array(weights[name])).to(tensor.dtype)
                tensor.copy_(noise(value) if noise else value)

    def _arguments(self, call: Call, noise: "_Noise | None") -> tuple[Call, dict[str, torch.Tensor]]:
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
    def _environment(self, case: Case, noise: "_Noise | None", watch: TorchWatch | None) -> Iterator[None]:
        hooks: list[Any] = []
        if noise is not None:
            for module in self.model.modules():
                hooks.append(module.register_forward_hook(lambda _m, _i, output: _move(output, noise)))
        if watch is not None:
            hooks += watch.hooks(self.model)
        masks = TorchMasks(replay=case.masks) if self.mode == "train" else contextlib.nullcontext()
        # What the backward pass reads is moved too: where a tanh saturates, its derivative is nothing but rounding.
        moved = contextlib.nullcontext() if noise is None else saved_tensors_hooks(lambda saved: saved, noise)
        try:
            with self._default_dtype(), self._lifted(), masks, moved:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextlib.contextmanager
    def calling(self, case: Case) -> Iterator[None]:
        """Where single calls of ``case`` can be made again."""
        self._load(case.weights, None)
        with self._default_dtype(), self._lifted(), torch.no_grad():
            yield

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
        self, outputs: Mapping[str, torch.Tensor], leaves: Mapping[str, torch.Tensor], case: Case, everywhere: bool
    ) -> dict[str, np.ndarray | None]:
        if not case.cotangents:
            return {}
        wanted: dict[str, torch.Tensor] = {f"p.{name}": p for name, p in self._parameters.items() if p.requires_grad}
        wanted |= {f"i.{path}": leaf for path, leaf in leaves.items()}
        terms = [
            (torch.from_numpy(np.array(case.cotangents[path])).to(value.dtype) * value).sum()
            for path, value in outputs.items()
            # Another shape is another check's finding.
            if path in case.cotangents and value.requires_grad and case.cotangents[path].shape == tuple(value.shape)
        ]
        found: dict[str, np.ndarray | None] = {f"p.{name}": None for name in self._parameters}
        found |= {f"i.{path}": None for path in leaves}
        if terms and wanted:
            total = torch.stack(terms).sum()
            if everywhere:  # gradients at checkpoints too, which only ``backward`` fills in
                self.model.zero_grad(set_to_none=True)
                total.backward()
                gradients = [tensor.grad for tensor in wanted.values()]
            else:
                gradients = list(torch.autograd.grad(total, list(wanted.values()), allow_unused=True))
            for name, gradient in zip(wanted, gradients, strict=True):
                found[name] = None if gradient is None else to_numpy(gradient)
        return found


class _Noise:
    """Moves floating tensors by at most one rounding, at random."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        # A relative move of 2u, uniform in sign and size, rounds to the neighbouring number about half of the time.
        size = 2 * unit_roundoff(str(tensor.dtype).removeprefix("torch."))
        count = tensor.numel()
        if count <= _DRAWN:
            move = torch.empty_like(tensor).uniform_(-size, size, generator=self.generator)
        else:
            drawn = torch.empty(_DRAWN, dtype=tensor.dtype).uniform_(-size, size, generator=self.generator)
            move = drawn.repeat(-(-count // _DRAWN))[:count].view(tensor.shape)
        moved = torch.addcmul(tensor, tensor, move)
        # A mask's -inf and its finfo.min are no results that rounding moves, and there is no neighbour beyond them.
        return torch.where(moved.isfinite(), moved, tensor)


def _move(output: Any, noise: _Noise) -> Any:
    if isinstance(output, torch.Tensor):
        return noise(output)
    leaves = {path: noise(leaf) for path, leaf in flatten(output).items()}
    return rebuild(output, leaves) if leaves else output
