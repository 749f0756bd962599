"""``compare.check_training``: two training loops step by step."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import optax
import torch

from compare.checks.parameters import check_weights
from compare.evidence import Legs, sentence_of
from compare.legs.dropout import MaskMismatchError
from compare.legs.flax_function import FlaxFunction, flax_function
from compare.legs.flax_leg import FlaxLeg
from compare.legs.run import Case
from compare.legs.torch_leg import TorchLeg
from compare.mapping.proposal import propose_mapping
from compare.mapping.weight_mapping import WeightMapping
from compare.port import Port
from compare.redraw import given_weights, redraw_weights
from compare.result import Cause, CheckResult, CheckStatus, Report, UsageError
from compare.rounding import PERTURBED_RUNS
from compare.settling import settle
from compare.structure import Call, as_call
from compare.surroundings import own_surroundings
from compare.training.comparison import Compared, compare_trajectories, first_difference, results
from compare.training.diagnosis import OptimizerFinding, examine_optimizer, unnoticed
from compare.training.losses import loss_causes
from compare.training.optax_loop import run_optax
from compare.training.rates import rate_causes, same_rates
from compare.training.scales import scale_causes
from compare.training.torch_loop import TorchRun, run_torch
from compare.training.trajectory import QUANTITIES, Batch, Snapshot, Training, read_batches

__all__ = ["check_training"]

# What a rate that is off by float32's 6e-8 may make of any quantity, relative to its size: steps add up and amplify it.
_ROUNDED_RATE = 1e-4


def check_training(
    torch_model: torch.nn.Module,
    flax_model: Any,
    batches: Iterable[Any],
    *,
    torch_optimizer: Callable[..., Any],
    optax_optimizer: Any,
    torch_loss: Callable[[Any, Any], Any],
    jax_loss: Callable[[Any, Any], Any],
    learning_rate: Any = None,
    clip: Any = None,
    accumulate: int = 1,
    scaler: Any = None,
    torch_step: Callable[..., Any] | None = None,
    flax_step: Callable[..., Any] | None = None,
    **fields: Any,
) -> Report:
    """Whether a Flax training loop takes the same steps as a PyTorch one, from torch's weights, in float64.

    Each entry of ``batches`` is one step. Torch's loop is ``loss.backward()``, and every ``accumulate`` batches:
    unscale, clip, ``optimizer.step()``, ``scheduler.step()``, ``zero_grad()``; in between the gradients add up, as they
    do in torch. On the Flax side optax does all of it. Compared at each step, in this order: loss, gradients,
    learning_rate, moments, update, parameters, loss_scale. A difference may be a small multiple of what one rounding
    of weights, activations, gradients and rates at every step does to torch's own loop. Neither model is changed.

    Args:
        torch_model, flax_model: the models.
        batches: (input, target) pairs; the input is whatever ``check`` takes as inputs.
        torch_optimizer: callable parameters -> optimizer, or -> (optimizer, learning-rate scheduler).
        optax_optimizer: a gradient transformation, ``optax.MultiSteps`` where torch accumulates.
        torch_loss, jax_loss: functions of (output, target) that return a scalar.
        learning_rate: the optax schedule (or a number), where it is compared too; called with the steps taken before.
        clip: torch's clipping: a largest norm, ("norm", size), ("value", size), or a callable of the parameters.
        accumulate: batches per optimiser step in torch.
        scaler: a ``torch.amp.GradScaler``; or (GradScaler, Flax loss scale), the latter flax's ``DynamicScale`` or an
            object with ``.scale`` and ``.update(finite) -> the next one``; then the loss scale is compared too.
        torch_step: a loop body of one's own, ``(model, optimizer, (input, target)) -> loss``.
        flax_step: likewise, ``(parameters, optimiser state, (input, target)) -> (parameters, state, loss)``.
        fields: further fields of ``Port``. In mode "train" torch's dropout masks are replayed in Flax; in "eval", the
            default, both models run as in evaluation.

    Returns:
        A report with one check per quantity; ``first_divergence`` has the first ``step`` (from 1) and ``quantity``.

    Raises:
        UsageError: the question itself is wrong.
    """
    read = read_batches(batches)
    if not isinstance(accumulate, int) or accumulate < 1:
        raise UsageError(f"accumulate: expected a positive whole number, found {accumulate!r}")
    training = Training(
        port=Port(torch_model, flax_model, read[0].call, **fields),
        batches=read,
        torch_optimizer=torch_optimizer,
        optax_optimizer=optax_optimizer,
        torch_loss=torch_loss,
        jax_loss=jax_loss,
        learning_rate=learning_rate,
        clip=clip,
        accumulate=accumulate,
        scaler=scaler,
        torch_step=torch_step,
        flax_step=flax_step,
    )
    with own_surroundings():
        return _report(training)


def _report(training: Training) -> Report:
    port = training.port
    example = _flax_example(training.batches[0])
    function = flax_function(port.flax_model, port.mode, port.flax_call, port.flax_variables, lambda: example)
    mapping = propose_mapping(port.torch_model, function.shapes, port.mapping, kinds=function.kinds)
    start = given_weights(port.torch_model)
    if (mapping.choices or mapping.other) and not mapping.problems:
        mapping = _settled(training, function, mapping)
    weights = check_weights(mapping, function, start, copied=True)
    if mapping.problems:
        return Report(port.title, (weights,), settings=_settings(training))
    reference = _expect_runs("torch", run_torch, training)
    perturbed = [run_torch(training, reference.masks, perturbation=k).snapshots for k in range(PERTURBED_RUNS)]
    try:
        found = _expect_runs("Flax", run_optax, training, function, mapping, start, reference.masks)
    except MaskMismatchError as error:
        return Report(port.title, (weights, CheckResult("loss", "failed", str(error))), settings=_settings(training))
    compared = compare_trajectories(reference.snapshots, perturbed, found, mapping)
    differing = {c.quantity for c in compared if not c.leaf.agrees}
    finding, causes = OptimizerFinding(()), []
    if differing:
        causes = loss_causes(training, reference, found, mapping, compared)
        if training.torch_step is None and training.flax_step is None:
            finding = examine_optimizer(training, reference, found, mapping, start)
        causes += [*_schedule_causes(reference, found, finding), *finding.causes]
        causes += scale_causes(training, reference.snapshots, found) if "loss_scale" in differing else []
    own_loop = training.torch_step is not None or training.flax_step is not None
    planted = (0, []) if differing or own_loop else unnoticed(training, reference, mapping, start)
    notes = _notes(compared, finding, causes)
    checks = [weights, *results(compared, notes), _adequacy(training, compared, planted)]
    failed = any(check.status == "failed" for check in checks)
    return Report(
        name=port.title,
        checks=tuple(port.excused(check) for check in checks),
        first_divergence=first_difference([c for c in compared if c.quantity not in notes]) if failed else None,
        causes=tuple(causes),
        numbers={"steps": len(training.batches), "hypotheses": finding.searched},
        settings=_settings(training),
    )


def _settled(training: Training, function: FlaxFunction, mapping: WeightMapping) -> WeightMapping:
    """Square matrices of the user's own the way round that makes the models agree."""
    port, batch = training.port, training.batches[0]

    def torch_leg(precision: Any) -> TorchLeg:
        return TorchLeg(port.torch_model, precision, port.mode, port.torch_select)

    def flax_leg(precision: Any) -> FlaxLeg:
        return FlaxLeg(function, mapping, precision, batch.to_flax, port.flax_select)

    legs = Legs(torch_leg("float64"), torch_leg("float32"), flax_leg("float64"), flax_leg("float32"))
    case = Case("redrawn weights", redraw_weights(port.torch_model, port.seed + 1), batch.call)
    return settle(mapping, legs, case)


def _expect_runs(side: str, run: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return run(*arguments)
    except (UsageError, MaskMismatchError):
        raise
    except Exception as error:
        raise UsageError(f"the {side} loop does not run: {sentence_of(error)}") from error


def _flax_example(batch: Batch) -> Call:
    if batch.to_flax is None:
        return batch.call
    return batch.to_flax if isinstance(batch.to_flax, Call) else as_call(batch.to_flax(*batch.call.args))


def _notes(compared: Sequence[Compared], finding: OptimizerFinding, causes: list[Cause]) -> Mapping[str, CheckStatus]:
    """Differences that are none: moments kept in another form, and rates that were rounded to float32.

    A rounded rate changes no loss and no gradient before the first step, and later ones only a little.
    """
    differing = {c.quantity for c in compared if not c.leaf.agrees}
    if differing == {"moments"}:
        return {"moments": "noted"}
    ahead = any(c.step == 1 and c.quantity in ("loss", "gradients") and not c.leaf.agrees for c in compared)
    small = all(c.leaf.agrees or c.leaf.relative <= _ROUNDED_RATE for c in compared if c.quantity != "loss_scale")
    if finding.rounded_rate and not causes and small and not ahead:
        return {quantity: "constants" for quantity in QUANTITIES if quantity != "loss_scale"}
    return {}


def _schedule_causes(reference: TorchRun, found: Sequence[Snapshot], finding: OptimizerFinding) -> list[Cause]:
    """What is wrong with the schedule that was given apart, unless the updates told it already."""
    pairs = [(s.learning_rate, t.learning_rate) for s, t in zip(found, reference.snapshots, strict=True)]
    theirs = [rate for rate, _ in pairs if rate is not None]
    if not theirs or same_rates(theirs, [rate for _, rate in pairs if rate is not None], single=True):
        return []
    known = {cause.name for cause in finding.causes}
    ours = [float(rate) for _, rate in pairs if rate is not None]
    return [cause for cause in rate_causes(theirs, ours) if cause.name not in known]


def _adequacy(training: Training, compared: Sequence[Compared], planted: tuple[int, list[str]]) -> CheckResult:
    """A single step shows neither momentum nor schedule; gradients of zero show nothing at all.

    Args:
        training: the pair of loops.
        compared: all arrays.
        planted: how many mistakes were put into torch's loop, and the names of those that changed nothing.
    """
    gradients = [c.leaf for c in compared if c.quantity == "gradients"]
    if not any(c.quantity == "parameters" for c in compared):
        return CheckResult("adequacy", "inconclusive", "no parameter was compared")
    if gradients and not any(leaf.scale > leaf.allowed for leaf in gradients):
        return CheckResult("adequacy", "inconclusive", "every gradient is zero: nothing was trained")
    if len(training.batches) // training.accumulate < 2:
        detail = (
            "fewer than two optimiser steps: momentum, bias correction and schedules do not show; give more batches"
        )
        return CheckResult("adequacy", "inconclusive", detail)
    number, hidden = planted
    if not number:
        return CheckResult("adequacy", "passed", f"{len(training.batches)} batches, and gradients that are not zero")
    detail = f"{number} mistakes were put into torch's loop; these batches show all"
    if hidden:
        detail += f" but {', '.join(hidden)}"
    never = training.clip is not None and "clip_missing" in hidden
    return CheckResult("adequacy", "noted" if never else "passed", detail + ("; nothing was clipped" if never else ""))


def _settings(training: Training) -> dict[str, Any]:
    return {
        "mode": training.port.mode,
        "seed": training.port.seed,
        "steps": len(training.batches),
        "accumulate": training.accumulate,
        "precision": "float64, optax's step counts in 64 bits",
        "jax": jax.__version__,
        "optax": optax.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
