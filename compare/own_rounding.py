"""How far a port moves by rounding, measured as torch's is: by moving what it is given by one rounding."""

import dataclasses

import numpy as np

from compare.constants import largest
from compare.evidence import PERTURBED_RUNS, Evidence, spreads
from compare.legs.flax_leg import FlaxLeg
from compare.legs.run import Case, Run
from compare.structure import flatten, is_floating, rebuild
from compare.verdict import unit_roundoff

__all__ = ["with_own_rounding"]


# What rounding moves stays far below the array's own size; a decision that tips over (a floor, a comparison) does not.
_MOST = 1e-4


def with_own_rounding(flax64: FlaxLeg, item: Evidence) -> Evidence:
    """``item`` with the larger of both spreads allowed.

    The same function may be computed in a way that rounds more: a decay as a difference of long sums. A mistake does
    not move with the last bit of the weights.
    """
    runs = [flax64.run(_nudged(item.case, seed)) for seed in range(PERTURBED_RUNS)]
    own = _of_rounding(spreads(item.flax, runs, "float64"), item.reference)
    return dataclasses.replace(item, moved=largest([item.moved, own]))


def _nudged(case: Case, seed: int) -> Case:
    """``case`` with every number moved by a rounding; zeros stay."""
    random = np.random.default_rng(seed)

    def nudged(array: np.ndarray) -> np.ndarray:
        if not is_floating(array):
            return array
        return array * (1.0 + 2 * unit_roundoff("float64") * random.choice([-1.0, 1.0], array.shape))

    weights = {name: nudged(array) for name, array in case.weights.items()}
    inputs = {path: nudged(array) for path, array in flatten(case.call).items()}
    return dataclasses.replace(case, weights=weights, call=rebuild(case.call, inputs))


def _of_rounding(own: Run, reference: Run) -> Run:
    """``own`` without spreads too large for rounding."""

    def field(name: str) -> dict[str, np.ndarray]:
        arrays = getattr(reference, name)
        sizes = {path: _size(arrays.get(path)) for path in getattr(own, name)}
        return {path: s if s <= _MOST * sizes[path] else np.zeros(()) for path, s in getattr(own, name).items()}

    return Run(field("outputs"), field("parameter_gradients"), field("input_gradients"), field("statistics"))


def _size(array: np.ndarray | None) -> float:
    return 0.0 if array is None else float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array)))
