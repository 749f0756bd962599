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
from compare.legs.run import Case, Run
from compare.legs.torch_lift import TorchLift, raise_plain_tensors
from compare.legs.watch import Reached, TorchWatch
from compare.result import UsageError
from compare.structure import Call, flatten, is_floating, rebuild, to_numpy
from compare.verdict import unit_roundoff

__all__ = ["TorchLeg"]

Precision = Literal["float64", "float32"]


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
        raise_plain_tensors(own, self.dtype)
        self.model = own.to(self.dtype).train(mode == "train")
        self._parameters = dict(self.model.named_parameters())
        # Tied names are listed once, as the mapping lists them.
        self._buffers = dict(self.model.named_buffers())
        self._loaded: Mapping[str, np.ndarray] | None = None

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
        noise = None if perturbation is None else _Noise(perturbation, self.precision)
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
        self._load(case.weights, None)
        arguments, _ = self._arguments(case.call, None)
        recorder = TorchMasks(seed=seed)
        with self._default_dtype(), self._lifted(), recorder, torch.no_grad():
            self.model(*arguments.args, **arguments.kwargs)
        return tuple(recorder.masks)

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
                tensor = tensor.to(self.dtype)
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

    def __init__(self, seed: int, precision: Precision) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        # A relative move of 2u, uniform in sign and size, rounds to the neighbouring number about half of the time.
        self.size = 2 * unit_roundoff(precision)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        move = torch.empty_like(tensor).uniform_(-self.size, self.size, generator=self.generator)
        return torch.addcmul(tensor, tensor, move)


def _move(output: Any, noise: _Noise) -> Any:
    if isinstance(output, torch.Tensor):
        return noise(output)
    leaves = {path: noise(leaf) for path, leaf in flatten(output).items()}
    return rebuild(output, leaves) if leaves else output
