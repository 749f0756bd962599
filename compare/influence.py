"""Do arrays without counterpart matter? A key bias that softmax cancels does not."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from compare.case_weights import Replaced
from compare.evidence import Legs
from compare.legs.run import Case
from compare.mapping.weight_mapping import MappingProblem, WeightMapping
from compare.rounding import PERTURBED_RUNS
from compare.verdict import SAMENESS_FACTOR, compare_arrays, spread

__all__ = ["judge_influence"]

Arrays = Mapping[str, np.ndarray]


def judge_influence(mapping: WeightMapping, legs: Legs, case: Case) -> WeightMapping:
    """``mapping`` with those problems set apart, as ``idle``, whose arrays move no output when they are drawn anew.

    Args:
        mapping: whose problems are arrays of one side only.
        legs: of the port.
        case: without cotangents, with redrawn weights.
    """
    if not mapping.problems:
        return mapping
    try:
        if legs.torch64.mode == "train":
            case = dataclasses.replace(case, masks=legs.torch64.record_masks(case, seed=0))
        idle = tuple(problem for problem in mapping.problems if _is_idle(problem, legs, case))
    except Exception:  # one of the models does not run: the checks say so in their own words
        return mapping
    left = tuple(problem for problem in mapping.problems if problem not in idle)
    return dataclasses.replace(mapping, problems=left, idle=idle)


def _is_idle(problem: MappingProblem, legs: Legs, case: Case) -> bool:
    if problem.side == "both":
        return False
    random = np.random.default_rng(0)
    if problem.side == "torch":
        name = problem.name.partition("[")[0]
        moved = dataclasses.replace(case, weights=Replaced(case.weights, {name: _moved(case.weights[name], random)}))
        runs = [legs.torch64.run(case, perturbation=k).outputs for k in range(PERTURBED_RUNS)]
        return _same(legs.torch64.run(case).outputs, legs.torch64.run(moved).outputs, runs)
    leg, function = legs.flax64, legs.flax64.function
    before = leg.run(case).outputs
    leaves = {**function.leaves, problem.name: _moved(function.leaves[problem.name], random)}
    try:
        leg.function = dataclasses.replace(function, leaves=leaves)
        return _same(before, leg.run(case).outputs, [])
    finally:
        leg.function = function


def _moved(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    size = float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) or 1.0
    return (array + size * random.standard_normal(array.shape)).astype(array.dtype)


def _same(before: Arrays, after: Arrays, perturbed: list[Arrays]) -> bool:
    return all(
        compare_arrays(
            path,
            array,
            after[path],
            SAMENESS_FACTOR * spread(array, [run[path] for run in perturbed], "float64"),
        ).agrees
        for path, array in before.items()
        if np.issubdtype(array.dtype, np.floating)
    )
