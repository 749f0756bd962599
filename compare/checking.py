"""``compare.check``: from a port to a report."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from compare.adequacy import Idle, check_adequacy, turned_over, unexercised
from compare.caches import beside_caches
from compare.cases import make_cases, torch_call
from compare.checks.gradients import check_gradients, gradient_flow
from compare.checks.outputs import check_outputs, with_broken
from compare.checks.parameters import can_run, check_parameters, check_weights, count_parameters, undecided
from compare.checks.precision import check_precision, float32_errors
from compare.checks.sameness import same
from compare.checks.statistics import check_statistics
from compare.concessions import concede
from compare.condensing import condensed
from compare.constants import allow_for_constants
from compare.diagnose import Diagnosis, diagnose, trace_places
from compare.evidence import Evidence, Gathered, LegError, Legs, Step, gather, sentence_of
from compare.execution import call_orders
from compare.hypotheses.masks import mask_cause, mask_place
from compare.hypotheses.precision import FAST_VARIANCE, low_precision_causes, rerun, without_fast_variance
from compare.hypotheses.statistics import statistics_causes
from compare.influence import judge_influence
from compare.legs.dropout import MaskMismatchError, UnseenMaskError
from compare.legs.flax_function import FlaxFunction, flax_function
from compare.legs.flax_leg import FlaxLeg
from compare.legs.numpy_leg import NumpyLeg
from compare.legs.run import Case
from compare.legs.torch_leg import TorchLeg
from compare.mapping.proposal import propose_mapping
from compare.mapping.table import rows
from compare.mapping.weight_mapping import WeightMapping
from compare.port import Port
from compare.precision_place import precision_place
from compare.profile import gradient_norms, layer_errors, worst_array
from compare.redraw import given_weights, redraw_weights
from compare.result import Cause, CheckResult, Report, UsageError
from compare.settings import settings
from compare.settling import settle
from compare.structure import Call, Inputs, as_call
from compare.surroundings import own_surroundings
from compare.verdict import largest_relative

__all__ = ["assert_port", "check"]


def check(torch_model: torch.nn.Module | Port, flax_model: Any = None, inputs: Any = None, **fields: Any) -> Report:
    """Whether a Flax model computes what a PyTorch model computes: weights, outputs, gradients, precision.

    Neither model is changed. In float64 a difference may be a small multiple of what one rounding of the reference's
    weights, inputs and intermediate results causes, array by array; in float32 the port must be about as accurate as
    the original.

    Args:
        torch_model: the reference; or a ``Port``, which holds everything.
        flax_model: the port.
        inputs: what both are called with.
        fields: further fields of ``Port``.

    Returns:
        A report; ``report.passed`` is the verdict.

    Raises:
        UsageError: the question itself is wrong (a model of the wrong kind, inputs that torch can't take).
    """
    port = torch_model if isinstance(torch_model, Port) else Port(torch_model, flax_model, inputs, **fields)
    if port is torch_model and (flax_model is not None or inputs is not None or fields):
        raise UsageError("check: a Port holds all fields; use dataclasses.replace(port, ...) to change one")
    with own_surroundings():
        return _report(port)


def assert_port(torch_model: torch.nn.Module | Port, flax_model: Any = None, inputs: Any = None, **fields: Any) -> None:
    """``check`` for a test suite: raises an ``AssertionError`` with the report's text unless the port passes."""
    check(torch_model, flax_model, inputs, **fields).raise_for_failure()


def _report(port: Port) -> Report:
    try:
        function = flax_function(
            port.flax_model, port.mode, port.flax_call, port.flax_variables, lambda: _flax_example(port)
        )
    except UsageError:
        raise
    except Exception as error:  # a Linen model is initialised by a call
        _expect_torch_runs(port)
        sentence = f"the Flax model can't be initialised on inputs that torch takes: {sentence_of(error)}"
        return Report(port.title, (port.excused(CheckResult("outputs", "failed", sentence)),))
    legs = _legs(port, function, WeightMapping(()))
    mapping = _mapping(port, function, legs)
    tables = set(mapping.without_counterpart) & set(legs.torch64.frozen)  # computed in Flax, and so without gradient
    for leg in (legs.torch64, legs.torch32):
        leg.freeze(tables)
    if mapping.problems:  # a Linen model takes its widths from the inputs: wrong inputs would look like wrong weights
        _expect_torch_runs(port)
    weights = given_weights(port.torch_model)
    counts = count_parameters(port.torch_model, function, _numpy_count(legs, weights), port.formula)
    results = [
        check_weights(mapping, function, weights, copied=port.weights == "torch"),
        check_parameters(counts, mapping, port.torch_model, function),
    ]
    gathered = Gathered()
    mismatch: MaskMismatchError | None = None
    if not can_run(mapping):
        hint = "arrays are left over that do not fit; name the pairs in mapping={torch name: Flax path}"
        results.append(CheckResult("outputs", "skipped", f"nothing was run: {hint}"))
    else:
        try:
            keep, enough = _steps(legs, mapping, port), functools.partial(_enough, legs)
            gathered = gather(legs, make_cases(port, legs.torch64), port.mode, port.seed, keep, enough)
            gathered, idle = _exercised(port, legs, gathered, keep)
            gathered = beside_caches(gathered, legs, keep)  # before what stops at a difference
            if not (port.strict or legs.torch64.large):  # a large model's cases were conceded as they were kept
                gathered = dataclasses.replace(
                    gathered, evidence=concede(legs, mapping, port.torch_model, gathered.evidence)
                )
            results += _judge(port, gathered, idle)
        except MaskMismatchError as error:
            results.append(CheckResult("outputs", "failed", str(error)))
            mismatch = error
        except UnseenMaskError as error:
            if error.leg == "torch":
                return _in_evaluation(port, str(error))
            results.append(CheckResult("outputs", "inconclusive", str(error)))
        except LegError as error:
            results.append(CheckResult("outputs", "failed" if error.leg == "flax" else "error", str(error)))
    evidence = gathered.evidence
    diagnosis = _masks(legs, port, mismatch) if mismatch is not None else _diagnosis(legs, mapping, evidence, port)
    if any(result.name == "precision" and result.status in ("failed", "noted") for result in results):
        found = (*_precision_causes(port, legs, mapping, evidence), *low_precision_causes(legs.flax64))
        worse = [item for item in evidence if check_precision([item], same_function=True).status == "failed"]
        place = diagnosis.divergence or precision_place(legs, mapping, worse)
        diagnosis = dataclasses.replace(diagnosis, divergence=place, causes=(*diagnosis.causes, *found))
    if any(result.name == "statistics" and result.status == "failed" for result in results):
        moved = statistics_causes(evidence, _momenta(port))
        diagnosis = dataclasses.replace(diagnosis, causes=(*diagnosis.causes, *moved))
    results = undecided(results, mapping)
    return Report(
        name=port.title,
        checks=tuple(port.excused(result) for result in results),
        first_divergence=diagnosis.divergence,
        causes=diagnosis.causes,
        numbers={"parameters": counts, **_numbers(results, evidence)},
        settings=settings(port, legs, gathered.refused, diagnosis.note),
        layers=layer_errors(diagnosis.places),
        worst_array=worst_array(evidence),
        gradient_norms=gradient_norms(evidence[0]) if evidence else {},
        mapping=rows(mapping),
    )


def _mapping(port: Port, function: FlaxFunction, legs: Legs) -> WeightMapping:
    """What names, order and shapes propose, as far as runs of both models on redrawn weights confirm it."""

    def case() -> Case:
        return Case("redrawn weights", redraw_weights(port.torch_model, port.seed + 1), torch_call(port))

    orders = functools.partial(call_orders, legs)
    mapping = propose_mapping(
        port.torch_model, function.shapes, port.mapping, kinds=function.kinds, orders=lambda: orders(case())
    )
    legs.flax64.mapping = legs.flax32.mapping = mapping
    if not can_run(mapping) or not (mapping.choices or mapping.other or mapping.problems):
        return mapping
    return judge_influence(settle(mapping, legs, case()), legs, case())


# A unit that no case wakes by chance is woken by weights of the other sign, or by others; one that is dead stays so.
_MOST_REDRAWS = 3


def _exercised(port: Port, legs: Legs, gathered: Gathered, keep: Sequence[Step]) -> tuple[Gathered, Idle]:
    """The evidence, on further weights where something was never exercised, and what still was not."""
    idle = unexercised(gathered.evidence, legs.torch64)
    if any(_enough(legs, item) for item in gathered.evidence):
        return gathered, idle
    for k in range(1, _MOST_REDRAWS + 1):
        if not idle:
            break
        seed = port.seed + (1 if k == 1 else 1000 * k)  # first those that were tried, with their signs turned
        again = turned_over(redraw_weights(port.torch_model, seed), idle)
        call = next((item.case.call for item in gathered.evidence if not item.case.aside), torch_call(port))
        case = Case(f"weights redrawn again ({k})", again, call)
        more = gather(legs, [case], port.mode, port.seed + 1000 * k, keep)
        gathered = dataclasses.replace(gathered, evidence=gathered.evidence + more.evidence)
        idle = unexercised(gathered.evidence, legs.torch64)
    return gathered, idle


def _steps(legs: Legs, mapping: WeightMapping, port: Port) -> tuple[Step, ...]:
    """What every case goes through, before the next one runs."""
    steps: list[Step] = [lambda item: condensed(allow_for_constants(legs, item))]
    if legs.torch64.large and not port.strict:  # at once, since a difference ends the check
        steps.append(lambda item: concede(legs, mapping, port.torch_model, [item])[0])
    return tuple(steps)


def _enough(legs: Legs, item: Evidence) -> bool:
    """Whether a large model differs on the user's inputs: what other cases add to that takes too long.

    What differs on a probe may yet be excused by a cache, and must not hide the cases behind it.
    """
    return legs.torch64.large and not (item.case.aside or item.case.forward_only) and not same(item, strict=False)


def _in_evaluation(port: Port, reason: str) -> Report:
    """The report of evaluation mode, where training mode can't be compared."""
    report = _report(dataclasses.replace(port, mode="eval"))
    skipped = CheckResult("training mode", "skipped", f"{reason}; judged in evaluation mode instead")
    return dataclasses.replace(report, checks=(*report.checks, skipped))


def _diagnosis(legs: Legs, mapping: WeightMapping, evidence: tuple[Evidence, ...], port: Port) -> Diagnosis:
    """Where and what, if outputs or gradients differ; else how well each layer agrees, where that is asked for."""
    failing = [
        item
        for item in evidence
        if "failed" in (check_outputs([item], port.strict).status, check_gradients([item], port.strict).status)
    ]
    try:
        if not failing and evidence and port.profile:
            return Diagnosis(None, places=trace_places(legs, mapping, evidence[0]))
        return diagnose(legs, mapping, failing)
    except Exception as error:  # the verdict stands, whatever a model does while it is watched
        return Diagnosis(None, note=f"the search for the place and the cause broke off: {sentence_of(error)}")


def _precision_causes(
    port: Port, legs: Legs, mapping: WeightMapping, evidence: tuple[Evidence, ...]
) -> tuple[Cause, ...]:
    """Why float32 is less accurate, where a known reason makes the difference."""
    careful = without_fast_variance(port.flax_model)
    if careful is None:
        return ()
    function = flax_function(careful, port.mode, port.flax_call)
    leg = _legs(dataclasses.replace(port, flax_model=careful), function, mapping).flax32
    mended = check_precision(rerun(evidence, leg, legs.torch64), same_function=True)
    return (FAST_VARIANCE,) if mended.status == "passed" else ()


def _expect_torch_runs(port: Port) -> None:
    case = Case("given weights, given inputs", given_weights(port.torch_model), torch_call(port))
    try:
        TorchLeg(port.torch_model, "float64", "eval", port.torch_select).run(case)
    except Exception as error:
        raise UsageError(f"the torch model does not take these inputs: {sentence_of(error)}") from error


def _numpy_count(legs: Legs, weights: Mapping[str, np.ndarray]) -> int | None:
    if legs.numpy is None:
        return None
    try:
        return legs.numpy.parameter_count(weights)
    except Exception as error:
        raise UsageError(f"numpy_model: it can't be made from torch's weights: {sentence_of(error)}") from error


def _flax_example(port: Port) -> Call:
    call = torch_call(port)
    if not isinstance(port.inputs, Inputs):
        return call
    return as_call(port.inputs.flax(*call.args, **call.kwargs) if callable(port.inputs.flax) else port.inputs.flax)


def _legs(port: Port, function: FlaxFunction, mapping: WeightMapping) -> Legs:
    torch_loss, jax_loss = port.loss or (None, None)
    to_flax: Callable[..., Any] | Call | None = None
    if isinstance(port.inputs, Inputs):
        given = port.inputs.flax
        to_flax = given if callable(given) else as_call(given)
    torch64, torch32 = (
        TorchLeg(port.torch_model, precision, port.mode, port.torch_select, torch_loss, thawed=True)
        for precision in ("float64", "float32")
    )
    return Legs(
        torch64=torch64,
        torch32=torch32,
        flax64=FlaxLeg(function, mapping, "float64", to_flax, port.flax_select, jax_loss, torch64.ranks),
        flax32=FlaxLeg(function, mapping, "float32", to_flax, port.flax_select, jax_loss, torch64.ranks),
        numpy=None if port.numpy_model is None else NumpyLeg(port.numpy_model, port.torch_select, torch_loss),
    )


def _judge(port: Port, gathered: Gathered, idle: Idle) -> list[CheckResult]:
    evidence = gathered.evidence
    outputs = with_broken(check_outputs(evidence, port.strict), gathered.broken, port.strict)
    results = [outputs, check_gradients(evidence, port.strict)]
    same_function = all(result.status != "failed" for result in results)
    results.append(check_precision(evidence, same_function, port.strict))
    if port.mode == "train":
        results.append(check_statistics(evidence, _momenta(port), port.strict))
    return [*results, check_adequacy(evidence, idle)]


def _momenta(port: Port) -> dict[str, float]:
    """torch's momentum by module: the share of the new value."""
    return {
        name: module.momentum
        for name, module in port.torch_model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.momentum is not None
    }


def _masks(legs: Legs, port: Port, error: MaskMismatchError) -> Diagnosis:
    """Where and what, if the port drops other arrays."""
    case = Case("given weights, given inputs", given_weights(port.torch_model), torch_call(port))
    place = mask_place(legs.torch64, case, error, port.seed) if port.mode == "train" else None
    return Diagnosis(place, (mask_cause(error, port.mode),))


def _numbers(results: list[CheckResult], evidence: tuple[Evidence, ...]) -> dict[str, Any]:
    """The largest relative differences, and the flow of every gradient, for the table of ports."""
    leaves = {result.name: result.leaves for result in results}
    judged = bool(leaves.get("precision"))
    # Layers that are driven far out amplify rounding, in torch alike: of them no figure for the table.
    usual = [item for item in evidence if not item.case.driven and not item.case.aside and not item.case.cancels]
    per_case = [float32_errors(item) if judged else ([], []) for item in usual]
    outputs, gradients = (largest_relative(leaves.get(name, ())) for name in ("outputs", "gradients"))
    outputs32, gradients32 = (largest_relative([leaf for found in per_case for leaf in found[k]]) for k in (0, 1))
    return {
        "output_error": {"float64": outputs, "float32": outputs32},
        "gradient_error": {"float64": gradients, "float32": gradients32},
        "gradient_flow": gradient_flow(evidence),
    }
