"""What is wrong with a loss, as the first step shows: both models then still have the same weights."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from compare.legs.run import Case, Run
from compare.legs.torch_leg import TorchLeg
from compare.mapping.weight_mapping import WeightMapping
from compare.redraw import given_weights
from compare.result import Cause, UsageError
from compare.structure import flatten, rebuild
from compare.training.comparison import Compared, zeros_for_none
from compare.training.loss_edits import LOSSES, EditLoss
from compare.training.torch_loop import TorchRun, torch_target
from compare.training.trajectory import Snapshot, Training
from compare.verdict import compare_arrays, spread

__all__ = ["loss_causes"]

Gradients = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _First:
    """Loss and gradients of the first step on one side, in torch's names."""

    loss: float
    gradients: Gradients
    room: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def has(self, name: str, gradient: np.ndarray, factor: float = 1.0) -> bool:
        """Whether the gradient of ``name`` is ``factor`` times the one given, but for rounding.

        That is a thousand roundings of the largest value; or, for one that is zero but for rounding, what was measured.
        """
        room = max(1000 * spread(factor * gradient, [], "float64"), max(1.0, abs(factor)) * self.room.get(name, 0.0))
        return compare_arrays(name, factor * gradient, self.gradients[name], room).agrees


def loss_causes(
    training: Training,
    reference: TorchRun,
    found: Sequence[Snapshot],
    mapping: WeightMapping,
    compared: Sequence[Compared],
) -> list[Cause]:
    """Mistakes in the loss, its reduction, or what is differentiated; none where the first step's gradients agree.

    Args:
        training: the pair of loops.
        reference, found: both loops' steps.
        mapping: between the weights.
        compared: all arrays.
    """
    wrong = {c.quantity for c in compared if c.step == 1 and not c.leaf.agrees}
    if not wrong & {"loss", "gradients"} or training.torch_step or training.flax_step:
        return []
    mine, theirs = _first(reference.snapshots[0], None), _first(found[0], mapping)
    first = [c.leaf for c in compared if (c.step, c.quantity) == (1, "gradients")]
    room = {leaf.path.rpartition(" at step ")[0]: leaf.allowed for leaf in first}
    theirs = dataclasses.replace(theirs, room=room)
    causes = list(_factors(training, mine, theirs)) or list(_frozen(reference, mine, theirs))
    if [cause.name for cause in causes] == ["loss_factor"]:  # a factor of this batch may be another one in the next
        causes = list(_edited(training, reference, theirs)) or causes
    causes = causes or list(_penalty(training, mine, theirs)) or list(_edited(training, reference, theirs))
    return causes or _model_causes(training)


def _first(snapshot: Snapshot, mapping: WeightMapping | None) -> _First:
    gradients = snapshot.gradients if mapping is None else mapping.gradients_to_torch(zeros_for_none(snapshot))
    return _First(float(snapshot.loss), {name: g for name, g in gradients.items() if g is not None})


def _factors(training: Training, mine: _First, theirs: _First) -> Iterator[Cause]:
    largest = max(mine.gradients, key=lambda name: float(np.abs(mine.gradients[name]).max(initial=0.0)), default=None)
    if largest is None or largest not in theirs.gradients:
        return
    a, b = mine.gradients[largest], theirs.gradients[largest]
    square = float(np.sum(a * a))
    factor = float(np.sum(a * b)) / square if square else 1.0
    if not all(theirs.has(n, g, factor) for n, g in mine.gradients.items() if n in theirs.gradients):
        return
    loss_factor = theirs.loss / mine.loss if mine.loss else factor
    if np.isclose(factor, 1.0, rtol=1e-12) and np.isclose(loss_factor, 1.0, rtol=1e-12):
        return
    if np.isclose(factor, 1.0, rtol=1e-12):
        summary = f"the loss is {loss_factor:.6g} times torch's, or shifted against it, and its gradients are the same"
        yield Cause("loss_value", summary, "return the loss that is differentiated", _seen(mine, theirs))
    elif np.isclose(factor, loss_factor, rtol=1e-9):
        yield from _named_factor(training, factor, mine, theirs)
    elif mine.loss > 0 and np.isclose(theirs.loss, mine.loss**0.5, rtol=1e-9) and factor > 0:
        summary = "the loss is the root of torch's"
        yield Cause("loss_root", summary, "leave the root out", _seen(mine, theirs))
    else:
        summary = f"the gradients are {factor:.6g} times torch's, the loss is not"
        yield Cause(
            "gradient_scale", summary, "unscale the gradients; average, do not sum, over devices", _seen(mine, theirs)
        )


def _named_factor(training: Training, factor: float, mine: _First, theirs: _First) -> Iterator[Cause]:
    batch = training.batches[0]
    arrays = [np.asarray(a).shape for a in flatten(batch.target).values()]
    rows = arrays[0][0] if arrays and arrays[0] else 1
    items = int(np.prod(arrays[0])) if arrays else 1
    sizes = {rows: "rows", items: "elements", items // rows if rows else 1: "columns"}
    for size, noun in sizes.items():
        if size > 1 and np.isclose(factor, size, rtol=1e-9):
            summary = f"the loss is summed over {size} {noun}, torch's is averaged"
            yield Cause("loss_sum_for_mean", summary, "take the mean as torch's reduction does", _seen(mine, theirs))
        if size > 1 and np.isclose(factor, 1 / size, rtol=1e-9):
            summary = f"the loss is averaged over {size} {noun}, torch's is summed"
            yield Cause("loss_mean_for_sum", summary, "take the sum as torch's reduction does", _seen(mine, theirs))
    if np.isclose(factor, 0.5, rtol=1e-9):
        summary = "the loss is half of torch's: optax.l2_loss is half the squared error"
        yield Cause("loss_halved", summary, "optax.squared_error", _seen(mine, theirs))
    elif np.isclose(factor, 2.0, rtol=1e-9):
        yield Cause("loss_doubled", "the loss is twice torch's", "leave the factor of 2 out", _seen(mine, theirs))
    k = training.accumulate
    if k > 1 and (np.isclose(factor, 1 / k, rtol=1e-9) or np.isclose(factor, k, rtol=1e-9)):
        summary = (
            f"the loss is {factor:.6g} times torch's: divided by the number of accumulated batches on one side only"
        )
        yield Cause("loss_accumulation_scale", summary, "divide on both sides or on neither", _seen(mine, theirs))
    nice = [*sizes, *(1 / s for s in sizes if s), 0.5, 2.0]
    if not any(np.isclose(factor, value, rtol=1e-9) for value in nice):
        summary = f"the loss is {factor:.6g} times torch's"
        yield Cause("loss_factor", summary, "weight the loss as torch does", _seen(mine, theirs))


def _frozen(reference: TorchRun, mine: _First, theirs: _First) -> Iterator[Cause]:
    names = reference.snapshots[0].parameters
    zero = {n: np.zeros(a.shape) for n, a in names.items()}
    ours, other = {**zero, **mine.gradients}, {**zero, **theirs.gradients}
    differing = {n for n in names if n in theirs.gradients and not theirs.has(n, ours[n])}
    if not differing:
        return
    words = ", ".join(sorted(differing))
    if all(not np.any(other[n]) for n in differing):
        summary = f"{words}: no gradient arrives, though torch trains it"
        yield Cause("gradient_stopped", summary, "remove the stop_gradient or the filter", _seen(mine, theirs))
    elif all(n not in mine.gradients for n in differing):
        summary = f"{words}: frozen in torch (requires_grad=False), but trained here"
        fix = "freeze it: optax.masked or multi_transform with set_to_zero, or a Variable that is no nnx.Param"
        yield Cause("parameter_frozen_in_torch", summary, fix, _seen(mine, theirs))


def _penalty(training: Training, mine: _First, theirs: _First) -> Iterator[Cause]:
    """A term ``w/2 |p|²`` in the loss."""
    weights = given_weights(training.port.torch_model)
    shared = [name for name in mine.gradients if name in theirs.gradients]
    extra = {name: theirs.gradients[name] - mine.gradients[name] for name in shared}
    decayed = [name for name in shared if not theirs.has(name, mine.gradients[name])]
    square = sum(float(np.sum(weights[name] ** 2)) for name in decayed)
    if not square:
        return
    factor = sum(float(np.sum(extra[name] * weights[name])) for name in decayed) / square
    total = {name: mine.gradients[name] + (factor * weights[name] if name in decayed else 0.0) for name in shared}
    if all(theirs.has(name, total[name]) for name in shared):
        summary = f"the loss holds a penalty on the weights, {factor / 2:.6g} |p|², that torch's does not"
        yield Cause("loss_penalty", summary, "decay in the optimiser, as torch does", _seen(mine, theirs))


def _edited(training: Training, reference: TorchRun, theirs: _First) -> Iterator[Cause]:
    """Edits of the loss functions that torch calls."""
    port, batch = training.port, training.batches[0]
    target = torch_target(batch.target)
    leg = TorchLeg(port.torch_model, "float64", port.mode, port.torch_select, loss=lambda outputs: outputs)
    case = Case(
        "batch 1", given_weights(port.torch_model), batch.call, {"loss": np.ones(())}, tuple(reference.masks[0])
    )
    for function, name, summary, fix, replace in LOSSES:
        edit = EditLoss(function, replace)

        def loss(outputs: Any, edit: EditLoss = edit) -> Any:
            with edit:
                return training.torch_loss(outputs, target)

        leg.loss = loss
        try:
            run = leg.run(case)
        except Exception:  # an edit that these shapes do not admit is not the mistake
            continue
        if edit.used and _reproduces(run, theirs):
            yield Cause(name, summary, fix, "with this mistake torch's loss and gradients are Flax's to rounding")


def _reproduces(run: Run, theirs: _First) -> bool:
    loss = compare_arrays(
        "", run.outputs["loss"], np.asarray(theirs.loss), 1000 * spread(run.outputs["loss"], [], "float64")
    )
    return loss.agrees and all(
        theirs.has(name, g) for name, g in run.parameter_gradients.items() if g is not None and name in theirs.gradients
    )


def _model_causes(training: Training) -> list[Cause]:
    """The models themselves differ, perhaps, or the losses as code: what ``check`` finds on the first batch."""
    from compare.checking import check

    batch = training.batches[0]
    target = torch_target(batch.target)

    def torch_loss(outputs: Any) -> Any:  # some losses refuse a target in another precision than the outputs'
        own = next((leaf.dtype for leaf in flatten(outputs).values() if leaf.is_floating_point()), torch.float64)
        given = {path: leaf.to(own) if leaf.is_floating_point() else leaf for path, leaf in flatten(target).items()}
        return training.torch_loss(outputs, rebuild(target, given))

    port = dataclasses.replace(training.port, loss=(torch_loss, lambda o: training.jax_loss(o, batch.target)))
    if batch.to_flax is not None:
        from compare.structure import Inputs

        port = dataclasses.replace(port, inputs=Inputs(batch.call, batch.to_flax))
    try:
        report = check(port)
    except UsageError:  # the verdict stands without a cause
        return []
    if report.check("outputs").status != "failed":
        return []
    if report.causes:
        return list(report.causes)
    if not any(leaf.path != "loss" and not leaf.agrees for leaf in report.check("outputs").leaves):
        return []
    summary = "the models' outputs differ already, before any training"
    evidence = report.check("outputs").detail
    return [Cause("model", summary, "compare.check on the first batch says where", evidence)]


def _seen(mine: _First, theirs: _First) -> str:
    return f"first loss {theirs.loss:.9g}, torch's is {mine.loss:.9g}"
