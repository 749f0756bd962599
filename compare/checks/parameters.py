"""Do both models hold the same weights: as many parameters, and the same values?"""

from collections.abc import Mapping

import numpy as np
import torch

from compare.legs.flax_function import FlaxFunction
from compare.result import CheckResult, Leaf
from compare.verdict import compare_arrays
from compare.weights import WeightMapping

__all__ = ["check_parameters", "check_weights", "count_parameters"]


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
    if mapping.problems:
        leaves = tuple(Leaf(p.name, np.nan, 0.0, detail=p.detail) for p in mapping.problems)
        return CheckResult("weights", "failed", f"{len(leaves)} arrays have no counterpart that fits", leaves)
    placed = f"{len(mapping.rules)} arrays mapped, every Flax leaf written once"
    if mapping.without_counterpart:
        placed += f"; {len(mapping.without_counterpart)} have no counterpart in Flax by nature"
    if copied:
        return CheckResult("weights", "passed", placed)
    expected = mapping.to_flax(weights)
    # Equal values, not equal to rounding: a copy does not compute anything.
    leaves = tuple(compare_arrays(path, array, function.leaves[path], 0.0) for path, array in expected.items())
    bad = [leaf for leaf in leaves if not leaf.agrees]
    if bad:
        detail = f"{placed}; {len(bad)} of {len(leaves)} hold other values than torch's"
        return CheckResult("weights", "failed", detail, leaves)
    return CheckResult("weights", "passed", f"{placed}; all values equal torch's", leaves)


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
    known = {leg: count for leg, count in counts.items() if count is not None}
    text = ", ".join(f"{leg} {count:,}" for leg, count in known.items())
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
