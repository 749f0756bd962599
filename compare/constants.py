"""Tables that one side holds in float32 and the other does not: allowed for as much as they round, and named.

A frequency or a table of sines is built in float32 where it is built at all: once, into a torch buffer, or on each call
of a Flax port. In float64 the two then part by their rounding. How far that moves the results is measured with exactly
these numbers changed; another base or another table stands far above it.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch

from compare.case_weights import Replaced
from compare.checks.sameness import same
from compare.evidence import Evidence, Legs
from compare.legs.run import Case, Reduce, Run
from compare.mapping.weight_mapping import WeightMapping
from compare.rounding import spreads
from compare.structure import is_floating
from compare.verdict import unit_roundoff

__all__ = ["allow_for_constants", "allow_for_tables"]

_RUNS = 3


def allow_for_constants(legs: Legs, item: Evidence) -> Evidence:
    """``item`` with what the rounding of the numbers may move that the port itself holds in a lower precision.

    Args:
        legs: of the port.
        item: a case, with its gradients.
    """
    names = legs.flax64.constants
    if not names or same(item):
        return item
    runs = (functools.partial(legs.flax64.run, item.case, seed) for seed in range(_RUNS))
    return dataclasses.replace(item, constants=spreads(item.flax, runs, "float64"), constant_names=names)


def allow_for_tables(legs: Legs, mapping: WeightMapping, model: torch.nn.Module, item: Evidence) -> Evidence:
    """``item`` with what the rounding of tables may move, added to the allowance for constants.

    Args:
        legs: of the port.
        mapping: tells which buffers of torch have no counterpart in Flax.
        model: the torch model.
        item: a case that does not agree.
    """
    moved: list[Run] = [] if item.constants is None else [item.constants]
    names = list(item.constant_names)
    try:
        lifted = legs.flax64.with_tables(item.case, own=False)
        own = functools.partial(legs.flax64.with_tables, item.case, True)
        moved.append(spreads(lifted, [own], "float64"))
        del lifted
        names.append("tables that the port computes in float32")
    except Exception:  # the port can't be traced outside 64-bit mode
        pass
    written = {rule.source for rule in mapping.rules}
    tables = [
        n for n, b in model.named_buffers() if n not in written and is_floating(item.case.weights[n]) and b.numel()
    ]
    if tables:
        random = np.random.default_rng(0)

        def run(reduce: Reduce) -> Run:
            return legs.torch64.run(_rounded(item, tables, random), reduce=reduce)

        moved.append(spreads(item.reference, [run] * _RUNS, "float64"))
        names += [f"torch's buffer {name}" for name in tables]
    if not moved:
        return item
    return dataclasses.replace(item, constants=_largest(moved), constant_names=tuple(names))


def _rounded(item: Evidence, tables: Sequence[str], random: np.random.Generator) -> Case:
    """The case with these buffers moved by a rounding of float32."""
    moved: dict[str, np.ndarray] = {}
    for name in tables:
        table = item.case.weights[name]
        # A number that was rounded once lies within half a unit; whole ones are tried.
        move = 2 * unit_roundoff("float32") * random.uniform(-1.0, 1.0, table.shape)
        moved[name] = table * (1.0 + move)
    return dataclasses.replace(item.case, weights=Replaced(item.case.weights, moved))


def _largest(runs: Sequence[Run]) -> Run:
    """Array by array the largest of several spreads."""

    def field(name: str) -> dict[str, np.ndarray]:
        fields = [getattr(run, name) for run in runs]
        paths = dict.fromkeys(path for found in fields for path in found)
        return {p: np.array(max(float(np.max(f[p], initial=0.0)) for f in fields if p in f)) for p in paths}

    return Run(field("outputs"), field("parameter_gradients"), field("input_gradients"), field("statistics"))
