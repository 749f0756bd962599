"""The torch training loop: forward, backward, clip, step, as people write it; in float64, on copies."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from compare.legs.copying import copied
from compare.legs.run import Case, Run
from compare.legs.torch_leg import TorchLeg
from compare.result import UsageError
from compare.structure import flatten, rebuild, to_numpy
from compare.training.trajectory import Batch, Snapshot, Training, as_clip, own_scaler
from compare.verdict import unit_roundoff

__all__ = ["TorchRun", "run_torch"]

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TorchRun:
    """What the torch loop did.

    Args:
        snapshots: one per batch.
        masks: dropout masks of every batch, drawn by the first run.
        settings: parameter -> the settings of its group at the start, with "rates", its learning rate at each
            optimiser step; empty where the loop is the user's own.
        optimizer: the class of the optimiser.
    """

    snapshots: tuple[Snapshot, ...]
    masks: tuple[tuple[np.ndarray, ...], ...]
    settings: Mapping[str, Mapping[str, Any]]
    optimizer: type


def run_torch(training: Training, masks: Any = None, perturbation: int | None = None) -> TorchRun:
    """Runs the loop over all batches.

    Args:
        training: the pair of loops.
        masks: dropout masks to replay; None draws them.
        perturbation: a seed; then weights, activations, gradients and rates are moved by one rounding at every step.
    """
    return _Loop(training, perturbation).run(masks)


class _Loop:
    def __init__(self, training: Training, perturbation: int | None) -> None:
        self.training = training
        self.port = training.port
        self.leg = TorchLeg(self.port.torch_model, "float64", self.port.mode, self.port.torch_select, loss=_unset)
        # The optimiser works on parameters of its own: the leg loads what it is told, perturbed or not.
        self.model = copied(self.port.torch_model).cpu().to(torch.float64).train(self.port.mode == "train")
        self.parameters = dict(self.model.named_parameters())
        self.buffers: Arrays = {name: to_numpy(buffer) for name, buffer in self.model.named_buffers()}
        made = training.torch_optimizer(list(self.model.parameters()))
        self.optimizer, self.scheduler = made if isinstance(made, tuple) else (made, None)
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            found = type(self.optimizer).__name__
            raise UsageError(f"torch_optimizer: expected parameters -> torch.optim.Optimizer, found {found}")
        self.scaler = own_scaler(training.scalers[0])
        self.perturbation = perturbation
        self.random = None if perturbation is None else np.random.default_rng(perturbation)
        names = {id(tensor): name for name, tensor in self.parameters.items()}
        self.groups = [[names[id(p)] for p in group["params"]] for group in self.optimizer.param_groups]
        keep = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        self.settings: dict[str, dict[str, Any]] = {
            name: {**keep[number], "rates": []} for number, group in enumerate(self.groups) for name in group
        }
        self.largest_rate = 0.0

    def run(self, masks: Any) -> TorchRun:
        snapshots: list[Snapshot] = []
        drawn: list[tuple[np.ndarray, ...]] = []
        for number, batch in enumerate(self.training.batches):
            given = None if masks is None else masks[number]
            if self.training.torch_step is not None:
                snapshots.append(self._own_step(batch))
                drawn.append(())
                continue
            case, run = self._differentiate(batch, number, given)
            drawn.append(case.masks)
            before = self._values()
            rate = self._rate()
            self._accumulate(run, batch)
            if (number + 1) % self.training.accumulate == 0:
                self._step(run)
            self.buffers = dict(run.statistics)
            snapshots.append(self._snapshot(run.outputs["loss"], run.parameter_gradients, rate, before))
        return TorchRun(tuple(snapshots), tuple(drawn), self.settings, type(self.optimizer))

    def _values(self) -> Arrays:
        return {name: to_numpy(tensor) for name, tensor in self.parameters.items()}

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _differentiate(self, batch: Batch, number: int, masks: Any) -> tuple[Case, Run]:
        case = Case(f"batch {number + 1}", {**self._values(), **self.buffers}, batch.call)
        if self.port.mode == "train":
            drawn = self.leg.record_masks(case, self.port.seed + number) if masks is None else masks
            case = dataclasses.replace(case, masks=tuple(drawn))
        target = torch_target(batch.target)
        self.leg.loss = lambda outputs: _scalar(self.training.torch_loss(outputs, target))
        case = dataclasses.replace(case, cotangents={"loss": np.ones(())})
        seed = None if self.perturbation is None else 1000 * self.perturbation + number
        return case, self.leg.run(case, perturbation=seed)

    def _accumulate(self, run: Run, batch: Batch) -> None:
        scale = self.scaler.scale(torch.ones((), dtype=torch.float64)) if self.scaler is not None else 1.0
        for name, parameter in self.parameters.items():
            gradient = run.parameter_gradients.get(name)
            if gradient is None or not parameter.requires_grad:
                continue
            tensor = torch.from_numpy(self._moved(gradient)) * scale
            parameter.grad = tensor if parameter.grad is None else parameter.grad + tensor

    def _step(self, run: Run) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        _clip(self.training.clip, list(self.model.parameters()))
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.largest_rate = max(self.largest_rate, *map(float, rates))
        for group, names in zip(self.optimizer.param_groups, self.groups, strict=True):
            for name in names:
                self.settings[name]["rates"].append(float(group["lr"]))
            if self.random is not None:
                group["lr"] = group["lr"] + 2 * unit_roundoff("float64") * self.largest_rate * self.random.uniform(
                    -1, 1
                )
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        if self.random is not None:
            with torch.no_grad():
                for parameter in self.parameters.values():
                    parameter.copy_(torch.from_numpy(self._moved(to_numpy(parameter))))
        self._schedule(run.outputs["loss"])

    def _schedule(self, loss: np.ndarray) -> None:
        if self.scheduler is None:
            return
        with warnings.catch_warnings():
            # A step that the scaler skipped: torch then warns of the order of the calls.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.scheduler.step(float(loss))
            else:
                self.scheduler.step()

    def _own_step(self, batch: Batch) -> Snapshot:
        before, rate = self._values(), self._rate()
        call = rebuild(batch.call, {path: _tensor(array) for path, array in flatten(batch.call).items()})
        inputs = call.args[0] if len(call.args) == 1 and not call.kwargs else call
        step = self.training.torch_step
        assert step is not None
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            loss = step(self.model, self.optimizer, (inputs, torch_target(batch.target)))
        finally:
            torch.set_default_dtype(default)
        self._schedule(to_numpy(torch.as_tensor(loss)))
        if self.random is not None:
            with torch.no_grad():
                for parameter in self.parameters.values():
                    parameter.copy_(torch.from_numpy(self._moved(to_numpy(parameter))))
        return self._snapshot(to_numpy(torch.as_tensor(loss)).astype(np.float64), {}, rate, before)

    def _snapshot(self, loss: np.ndarray, gradients: Any, rate: float, before: Arrays) -> Snapshot:
        after = self._values()
        moments = {
            (role, name): to_numpy(value)
            for name, parameter in self.parameters.items()
            for role, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and role != "step"
        }
        return Snapshot(
            loss=np.asarray(loss, np.float64).reshape(()),
            gradients=dict(gradients),
            learning_rate=rate,
            moments=moments,
            update={name: after[name] - before[name] for name in after},
            parameters=after,
            loss_scale=None if self.scaler is None else float(self.scaler.get_scale()),
        )

    def _moved(self, array: np.ndarray) -> np.ndarray:
        if self.random is None:
            return np.array(array)
        return array * (1 + 2 * unit_roundoff("float64") * self.random.uniform(-1, 1, array.shape))


def torch_target(target: Any) -> Any:
    """The target as torch's losses take it: floating numbers in float64, whole numbers in int64."""
    return rebuild(target, {path: _tensor(array) for path, array in flatten(target).items()})


def _tensor(array: Any) -> torch.Tensor:
    tensor = torch.from_numpy(to_numpy(array))
    if tensor.is_floating_point():
        return tensor.to(torch.float64)
    return tensor if tensor.dtype == torch.bool else tensor.to(torch.int64)


def _unset(_: Any) -> Any:
    raise AssertionError("the loss is set for each batch")


def _scalar(loss: torch.Tensor) -> torch.Tensor:
    if loss.numel() != 1:
        raise UsageError(f"torch_loss: expected a scalar, found shape {tuple(loss.shape)}: the reduction is missing")
    return loss.reshape(())


def _clip(clip: Any, parameters: list[torch.nn.Parameter]) -> None:
    if clip is None:
        return
    if callable(clip):
        clip(parameters)
        return
    wanted = as_clip(clip)
    assert wanted is not None
    function: Callable[..., Any] = (
        torch.nn.utils.clip_grad_norm_ if wanted.kind == "norm" else torch.nn.utils.clip_grad_value_
    )
    function(parameters, wanted.value)
