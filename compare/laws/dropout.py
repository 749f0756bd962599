"""``compare.check_dropout``: does a Flax model drop what torch drops, as often, as independently, and never in eval?"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from compare.cases import torch_call
from compare.evidence import sentence_of
from compare.laws.masks import FlaxMask, FlaxModel, TorchDropout, torch_dropouts
from compare.laws.statistics import FALSE_ALARMS, Alarm, binomial, correlation
from compare.legs.copying import copied
from compare.legs.dropout import MaskMismatchError
from compare.legs.flax_function import flax_function
from compare.legs.flax_leg import FlaxLeg
from compare.legs.run import Case
from compare.legs.torch_leg import TorchLeg
from compare.mapping.proposal import propose_mapping
from compare.port import Port
from compare.redraw import given_weights
from compare.result import Cause, CheckResult, Report, UsageError
from compare.structure import Inputs, as_call
from compare.surroundings import own_surroundings
from compare.verdict import SAMENESS_FACTOR, compare_arrays, spread

__all__ = ["check_dropout"]

Calls = Sequence[Sequence[FlaxMask]]

# Of each mask this many entries are correlated: a key used twice shows in the first ones.
_ENTRIES = 2048


@own_surroundings()
def check_dropout(
    torch_model: torch.nn.Module | Port, flax_model: Any = None, inputs: Any = None, *, calls: int = 24, **fields: Any
) -> Report:
    """Whether dropout follows torch's law: number, rate, scale, independence, off in evaluation.

    The Flax model is called ``calls`` times in training mode, with another key each time where it takes one. All
    statistical tests together fail a right port at most once in a thousand reports.

    Args:
        torch_model: the reference; or a ``Port``.
        flax_model: the port.
        inputs: what both are called with; a batch of several rows, so that samples can be told apart.
        calls: of the Flax model, at least 2.
        fields: further fields of ``Port``.

    Returns:
        A report with the checks "dropouts", "rate", "scale", "independence" and "evaluation".

    Raises:
        UsageError: the question itself is wrong.
    """
    if calls < 2:
        raise UsageError(f"calls: expected at least 2, found {calls}")
    port = torch_model if isinstance(torch_model, Port) else Port(torch_model, flax_model, inputs, **fields)
    model = copied(port.torch_model).cpu().double().train()
    try:
        expected = torch_dropouts(model, torch_call(port))
    except Exception as error:
        raise UsageError(f"the torch model does not take these inputs: {sentence_of(error)}") from error
    flax = FlaxModel(port)
    try:
        trained = [flax.masks("train", seed=port.seed + number) for number in range(calls)]
        evaluated = flax.masks("eval", seed=port.seed)
    except Exception as error:
        found = CheckResult("dropouts", "failed", f"the Flax model does not run in training: {sentence_of(error)}")
        return Report(port.title, (found,))
    results = [
        _number(expected, trained[0]),
        _rates(expected, trained),
        _scales(port, expected, trained[0]),
        _independence(trained),
        _evaluation(evaluated),
    ]
    return Report(
        name=port.title,
        checks=tuple(check for check, _ in results),
        causes=tuple(cause for _, causes in results for cause in causes),
        numbers={"calls": calls, "dropouts": {"torch": len(expected), "flax": len(trained[0])}},
        settings={"calls": calls, "seed": port.seed, "false-alarm rate": FALSE_ALARMS},
    )


Result = tuple[CheckResult, list[Cause]]


def _result(name: str, causes: list[Cause], fine: str) -> Result:
    if causes:
        return CheckResult(name, "failed", "; ".join(cause.summary for cause in causes)), causes
    return CheckResult(name, "passed", fine), []


def _number(expected: Sequence[TorchDropout], found: Sequence[FlaxMask]) -> Result:
    if not expected and not found:
        return CheckResult("dropouts", "inconclusive", "torch drops nothing: no dropout was active"), []
    counts = f"torch drops {len(expected)} times in a call, Flax {len(found)} times"
    causes = []
    if len(found) < len(expected):
        where = ", ".join(site.module or "the model itself" for site in expected)
        summary = f"dropout is missing: {counts}; torch's are in {where}"
        causes.append(
            Cause("dropout_missing", summary, "apply nnx.Dropout there, and train with model.train()", counts)
        )
    elif len(found) > len(expected):
        causes.append(Cause("dropout_extra", f"dropout that torch has not: {counts}", "leave it out", counts))
    else:
        for number, (site, mask) in enumerate(zip(expected, found, strict=True), 1):
            if mask.mask.size < np.prod(site.shape):
                summary = (
                    f"dropout {number}: one decision serves several entries, mask {mask.mask.shape} for {site.shape}"
                )
                causes.append(Cause("dropout_broadcast", summary, "broadcast_dims=()", counts))
    return _result("dropouts", causes, f"both drop {len(expected)} times in a call")


def _rates(expected: Sequence[TorchDropout], trained: Calls) -> Result:
    if len(expected) != len(trained[0]) or not expected:
        return CheckResult("rate", "skipped", "the dropouts can't be paired"), []
    alarm, causes = Alarm(len(expected)), []
    for number, site in enumerate(expected):
        masks = [call[number].mask for call in trained if len(call) == len(expected)]
        values = np.concatenate([mask[~np.isnan(mask)] for mask in masks])
        kept = int(values.sum())
        if binomial(kept, values.size, 1 - site.rate) >= alarm.threshold:
            continue
        share = 1 - kept / values.size
        evidence = f"{share:.4f} of {values.size} entries dropped, torch's rate is {site.rate:g}"
        where = site.module or f"dropout {number + 1}"
        if binomial(kept, values.size, site.rate) >= alarm.threshold:
            summary = f"{where}: {site.rate:g} is kept, torch drops {site.rate:g}"
            causes.append(Cause("dropout_keep_for_rate", summary, f"rate={site.rate:g}, keep 1 - rate", evidence))
        else:
            summary = f"{where}: {share:.3f} is dropped, torch drops {site.rate:g}"
            causes.append(Cause("dropout_rate", summary, f"rate={site.rate:g}", evidence))
    return _result("rate", causes, "every rate is torch's")


def _scales(port: Port, expected: Sequence[TorchDropout], found: Sequence[FlaxMask]) -> Result:
    """What kept values are multiplied by: read off the dropout's own output, or by replaying torch's masks."""
    if len(expected) != len(found) or not expected:
        return CheckResult("scale", "skipped", "the dropouts can't be paired"), []
    causes = []
    for number, (site, mask) in enumerate(zip(expected, found, strict=True), 1):
        right = 1 / (1 - site.rate) if site.rate < 1 else np.nan
        # Two roundings of float32; a rate that itself is off is another check's finding.
        own = 1 / np.nanmean(mask.mask) if np.nanmean(mask.mask) else np.nan
        unscaled = bool(np.isclose(mask.scale, 1.0, rtol=1e-5))
        if np.isnan(mask.scale) or np.isnan(right) or np.isclose(mask.scale, right, rtol=1e-5):
            continue
        if unscaled or not np.isclose(mask.scale, own, rtol=0.2):
            causes.append(_scale_cause(f"{site.module or f'dropout {number}'}", mask.scale, right))
    causes = causes or _replayed(port, expected)
    return _result("scale", causes, "kept values are divided by 1 - rate")


def _scale_cause(where: str, scale: float, right: float) -> Cause:
    fix = "divide the kept values by 1 - rate"
    evidence = f"kept values are multiplied by {scale:.4g}, torch multiplies by {right:.4g}"
    if np.isclose(scale, 1.0, rtol=1e-5):
        return Cause("dropout_unscaled", f"{where}: kept values are not divided by 1 - rate", fix, evidence)
    return Cause("dropout_scale", f"{where}: kept values are multiplied by {scale:.4g}", fix, evidence)


class _Scaled(TorchFunctionMode):
    """Replays masks with another scale."""

    def __init__(self, masks: Sequence[np.ndarray], scale: Callable[[float], float]) -> None:
        super().__init__()
        self._masks, self._scale = iter(masks), scale

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.dropout:
            return func(*args, **kwargs)
        given = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
        rate = given.get("p", 0.5)
        if not given.get("training", True) or rate == 0:
            return given["input"]
        return given["input"] * torch.from_numpy(next(self._masks)) * self._scale(rate)


def _replayed(port: Port, expected: Sequence[TorchDropout]) -> list[Cause]:
    """With torch's masks in force: is there another scale with which torch computes what Flax does?"""
    try:
        function = flax_function(
            port.flax_model, "train", port.flax_call, port.flax_variables, lambda: torch_call(port)
        )
        mapping = propose_mapping(port.torch_model, function.shapes, port.mapping, kinds=function.kinds)
        leg = TorchLeg(port.torch_model, "float64", "train", port.torch_select)
        case = Case("given weights", given_weights(port.torch_model), torch_call(port))
        masks = leg.record_masks(case, port.seed)
        case = Case(case.name, case.weights, case.call, masks=masks)
        found = FlaxLeg(function, mapping, "float64", _layout(port), port.flax_select).run(case)
    except (MaskMismatchError, UsageError):
        return []
    scales: list[tuple[float, Callable[[float], float]]] = [
        (1 / (1 - expected[0].rate), lambda rate: 1 / (1 - rate)),
        (1.0, lambda rate: 1.0),
        (1 / expected[0].rate, lambda rate: 1 / rate),
        (1 - expected[0].rate, lambda rate: 1 - rate),
    ]
    right = scales[0][0]
    for scale, of_rate in scales:
        run = leg.run(case, edit=_Scaled(masks, of_rate) if scale != right else contextlib.nullcontext())
        rooms = {path: SAMENESS_FACTOR * 16 * spread(array, [], "float64") for path, array in run.outputs.items()}
        if all(
            path in found.outputs and compare_arrays(path, array, found.outputs[path], rooms[path]).agrees
            for path, array in run.outputs.items()
        ):
            return [] if scale == right else [_scale_cause("functional dropout", scale, right)]
    return []


def _layout(port: Port) -> Any:
    if not isinstance(port.inputs, Inputs):
        return None
    return port.inputs.flax if callable(port.inputs.flax) else as_call(port.inputs.flax)


def _independence(trained: Calls) -> Result:
    """Masks of two layers, of two calls, of two samples must have nothing to do with each other."""
    number = len(trained[0])
    calls = [call for call in trained if len(call) == number]
    pairs = list(itertools.combinations(range(number), 2))
    alarm, causes = Alarm(len(pairs) + 2 * number), []
    for i, j in pairs:
        firsts, seconds = zip(*[_shared(call[i].mask, call[j].mask) for call in calls], strict=True)
        if not _independent(firsts, seconds) >= alarm.threshold:
            summary = f"dropouts {i + 1} and {j + 1} of a call have the same mask, as from one key"
            fix = "split the key: one per layer (nnx.Rngs does)"
            causes.append(Cause("dropout_key_reused", summary, fix, f"correlated over {len(calls)} calls"))
    for i in range(number):
        masks = [call[i].mask.reshape(-1)[:_ENTRIES] for call in calls]
        if not _independent(masks[:-1], masks[1:]) >= alarm.threshold:
            summary = f"dropout {i + 1} has the same mask in every call"
            fix = "pass another key at each call: fold in the step, or let nnx.Rngs count"
            causes.append(Cause("dropout_same_every_call", summary, fix, f"{len(calls)} calls"))
        rows = [call[i].mask for call in calls if call[i].mask.ndim > 1 and call[i].mask.shape[0] > 1]
        if rows and not _independent([m[:-1] for m in rows], [m[1:] for m in rows]) >= alarm.threshold:
            summary = f"dropout {i + 1} drops the same entries in every sample"
            fix = "draw a mask of the input's full shape, or fold in the row"
            causes.append(Cause("dropout_same_every_sample", summary, fix, f"{len(calls)} calls"))
    return _result("independence", causes, "masks are independent between layers, calls and samples")


def _shared(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entries that two masks have in common if their keys are the same: the first ones."""
    size = min(first.size, second.size, _ENTRIES)
    return first.reshape(-1)[:size], second.reshape(-1)[:size]


def _independent(firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> float:
    """The p-value of independence; one mask that repeats over all calls counts once."""
    first = np.concatenate([np.ravel(a) for a in firsts])
    second = np.concatenate([np.ravel(b) for b in seconds])
    known = ~(np.isnan(first) | np.isnan(second))
    return correlation(first[known], second[known])


def _evaluation(found: Sequence[FlaxMask]) -> Result:
    causes = []
    if found:
        summary = f"dropout is on in evaluation, {len(found)} times in a call"
        fix = "model.eval(), deterministic=True"
        causes.append(Cause("dropout_on_in_eval", summary, fix, ", ".join(mask.where for mask in found)))
    return _result("evaluation", causes, "nothing is dropped in evaluation")
