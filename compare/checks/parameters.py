"""Do both models hold the same weights: as many parameters, and the same values?"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from compare.legs.flax_function import FlaxFunction
from compare.mapping.weight_mapping import WeightMapping
from compare.result import CheckResult, CheckStatus, Leaf
from compare.verdict import compare_arrays

__all__ = ["can_run", "check_parameters", "check_weights", "count_parameters", "merged_counts", "undecided"]


def check_weights(
    mapping: WeightMapping, function: FlaxFunction, weights: Mapping[str, np.ndarray], copied: bool
) -> CheckResult:
    """Whether every array has its counterpart, and where weights stand as given, the same values.

    Args:
        mapping: between the two models.
        function: the Flax model with its own values.
        weights: torch's values by name.
        copied: True when torch's values are copied into the Flax model, so that only the mapping can fail.
    """
    if mapping.ambiguous or mapping.refuted:
        candidates = "; ".join(mapping.ambiguous or mapping.refuted)
        tried = "" if mapping.ambiguous else ", and the models agree with none of them; the nearest is taken"
        detail = f"ambiguous mapping: nothing decides between these candidates{tried}. Name the pairs in mapping=: "
        return CheckResult("weights", "inconclusive", detail + candidates)
    leaves = tuple(Leaf(p.name, np.nan, 0.0, detail=p.detail) for p in mapping.problems)
    if mapping.problems:
        return CheckResult("weights", "failed", f"{len(leaves)} arrays have no counterpart that fits", leaves)
    placed = f"{len(mapping.rules)} arrays mapped, every Flax leaf written once"
    if any(rule.part or rule.place or rule.added for rule in mapping.rules):
        sources, targets = ({getattr(r, side) for r in mapping.rules} for side in ("source", "target"))
        placed = f"{len(sources)} torch arrays mapped to {len(targets)} Flax arrays, every element written"
    if mapping.without_counterpart:
        placed += f"; {len(mapping.without_counterpart)} have no counterpart in Flax by nature"
    if mapping.flax_only:
        placed += f"; {len(mapping.flax_only)} buffers of Flax keep their own values"
    if mapping.idle:
        placed += f"; without counterpart and without influence: {', '.join(p.name for p in mapping.idle)}"
    status: CheckStatus = "noted" if mapping.idle else "passed"
    if copied:
        return CheckResult("weights", status, placed)
    expected = mapping.to_flax(weights)
    # Equal values, not equal to rounding: a copy does not compute anything.
    leaves = tuple(compare_arrays(path, array, function.leaves[path], 0.0) for path, array in expected.items())
    bad = [leaf for leaf in leaves if not leaf.agrees]
    if bad:
        detail = f"{placed}; {len(bad)} of {len(leaves)} hold other values than torch's"
        return CheckResult("weights", "failed", detail, leaves)
    return CheckResult("weights", status, f"{placed}; all values equal torch's", leaves)


def count_parameters(
    torch_model: torch.nn.Module, function: FlaxFunction, numpy_count: int | None, formula: int | None
) -> dict[str, int | None]:
    """Parameters of each leg, tied ones once and buffers left out; None where a leg does not say."""
    return {
        "torch": sum(parameter.numel() for parameter in torch_model.parameters()),
        "flax": sum(leaf.size for path, leaf in function.leaves.items() if function.kinds[path] == "parameter"),
        "numpy": numpy_count,
        "formula": formula,
    }


def check_parameters(
    counts: Mapping[str, int | None], mapping: WeightMapping, torch_model: torch.nn.Module, function: FlaxFunction
) -> CheckResult:
    """Whether all legs count the same, and no buffer has slipped into the parameters on one side."""
    merged = merged_counts(counts, mapping, torch_model, function)
    known = {leg: count for leg, count in merged.items() if count is not None}
    raw = {leg: "" if counts[leg] == count else f" ({counts[leg]:,} raw)" for leg, count in known.items()}
    text = ", ".join(f"{leg} {count:,}{raw[leg]}" for leg, count in known.items())
    parameters = dict(torch_model.named_parameters())
    leaves = []
    for rule in mapping.rules:
        in_torch, in_flax = rule.source in parameters, function.kinds[rule.target] == "parameter"
        if in_torch != in_flax:
            here, there = ("parameter", "buffer") if in_torch else ("buffer", "parameter")
            detail = f"a {here} in torch ({rule.source}), a {there} in Flax"
            leaves.append(Leaf(rule.target, np.nan, 0.0, detail=detail))
    if leaves or len(set(known.values())) > 1:
        return CheckResult("parameters", "failed", f"parameter counts differ: {text}", tuple(leaves))
    return CheckResult("parameters", "passed", text)


def merged_counts(
    counts: Mapping[str, int | None], mapping: WeightMapping, torch_model: torch.nn.Module, function: FlaxFunction
) -> dict[str, int | None]:
    """Parameters of each leg with those counted once that the other side merges, and those left out that do nothing."""
    parameters = dict(torch_model.named_parameters())
    rules = [rule for rule in mapping.rules if rule.source in parameters]
    moved: dict[str, int] = {}
    for rule in rules:
        size = function.leaves[rule.target].size if rule.transform is not None else rule.size
        moved[rule.source] = moved.get(rule.source, 0) + size
    merged_in_flax = sum(rule.size for rule in rules if rule.added)
    tied_in_torch = sum(max(size - parameters[name].numel(), 0) for name, size in moved.items())
    idle = {problem.name for problem in mapping.idle} | set(mapping.without_counterpart)
    idle_torch = sum(p.numel() for name, p in parameters.items() if name in idle)
    idle_flax = sum(function.leaves[name].size for name in idle if function.kinds.get(name) == "parameter")
    merged = dict(counts)
    for leg, less in (("torch", merged_in_flax + idle_torch), ("flax", tied_in_torch + idle_flax)):
        count = merged[leg]
        merged[leg] = None if count is None else count - less
    return merged


def can_run(mapping: WeightMapping) -> bool:
    """Whether running both models can tell more than the mapping does: all that both have fits, and that is most."""
    sides = [problem.side for problem in mapping.problems]
    return "both" not in sides and (len(set(sides)) < 2 or len(mapping.rules) > len(sides))


def undecided(results: list[CheckResult], mapping: WeightMapping) -> list[CheckResult]:
    """``results`` without verdicts that rest on an ambiguous mapping."""
    if not mapping.ambiguous:
        return results
    return [
        dataclasses.replace(result, status="inconclusive", detail=f"{result.detail}, under an ambiguous mapping")
        if result.status == "failed"
        else result
        for result in results
    ]
