"""Ports that hold a cache for as many samples as the user's call has, as decoders do."""

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from compare.evidence import Evidence, Gathered, Legs, Step, by_torch
from compare.legs.flax_leg import FlaxLeg
from compare.legs.run import Case, Run
from compare.structure import flatten

__all__ = ["beside_caches"]

# Of a cache (samples, length, ...), or of those of all layers, stacked.
_SAMPLE_AXES = (0, 1)


def beside_caches(gathered: Gathered, legs: Legs, keep: Sequence[Step]) -> Gathered:
    """``gathered``, other batches excused that the port does take once its caches hold as many samples.

    What it then returns is compared as anything else. A port that breaks all the same has the number of samples in
    its code.

    Args:
        gathered: all cases.
        legs: of the port.
        keep: steps that bring a case to what is kept of it.
    """
    if not gathered.evidence:
        return gathered
    samples = _samples(gathered.evidence[0].case)
    made = "where the port keeps a cache for another number of samples"

    def kept(item: Evidence) -> Evidence:
        return functools.reduce(lambda item, step: step(item), keep, item)

    evidence, broken = [], []
    for item in gathered.evidence:
        apart = _shapes(item.flax) != _shapes(item.reference)
        run = _with_room(legs.flax64, item.case, samples) if apart else None
        evidence.append(item if run is None else kept(replace(item, flax=run)))
    for case, sentence in gathered.broken:
        run = _with_room(legs.flax64, case, samples)
        if run is not None:
            evidence.append(kept(replace(by_torch(legs, case, legs.torch64.mode, seed=0), flax=run)))
            case = replace(case, aside=made)
        broken.append((case, sentence))
    return replace(gathered, broken=tuple(broken), evidence=tuple(evidence))


def _samples(case: Case) -> int:
    return next((len(array) for array in flatten(case.call).values() if array.ndim), 0)


def _shapes(run: Run) -> dict[str, tuple[int, ...]]:
    return {path: array.shape for path, array in run.outputs.items()}


def _with_room(leg: FlaxLeg, case: Case, samples: int) -> Run | None:
    """The port's run of ``case`` with caches for as many samples as that has; None if it has none, or breaks."""
    more = _samples(case)
    if case.aside or not case.forward_only or more == samples:
        return None
    function = leg.function
    caches = [path for path in leg.mapping.flax_only if function.kinds[path] == "buffer"]
    for axis in _SAMPLE_AXES:
        wider = {
            path: np.take(function.leaves[path], np.arange(more) % samples, axis)
            for path in caches
            if function.leaves[path].ndim > axis and function.leaves[path].shape[axis] == samples
        }
        if not wider:
            continue
        resized = replace(function, leaves={**function.leaves, **wider})
        with contextlib.suppress(Exception):  # whatever else stands against it
            return FlaxLeg(resized, leg.mapping, leg.precision, leg.to_flax, leg.select, leg.loss, leg.ranks).run(case)
    return None
