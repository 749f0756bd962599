"""Where a port that computes the same function loses accuracy in float32."""

import dataclasses
from collections.abc import Sequence

from compare.carries import in_torch_order, recurrent_modules
from compare.evidence import Evidence, Legs
from compare.mapping.weight_mapping import WeightMapping
from compare.places import compare_places, first_divergence, pair_modules, rooms
from compare.result import Divergence
from compare.rounding import PERTURBED_RUNS

__all__ = ["precision_place"]


def precision_place(legs: Legs, mapping: WeightMapping, failing: Sequence[Evidence]) -> Divergence | None:
    """Where the two float32 computations first part by more than rounding explains.

    Args:
        legs, mapping: of the port.
        failing: the cases that are less accurate in float32; the first is traced.
    """
    if not failing:
        return None
    leg, case = legs.torch32, dataclasses.replace(failing[0].case, cotangents={})
    try:
        reference = leg.run(case, trace=True).checkpoints
        moved = [leg.run(case, perturbation=k, trace=True).checkpoints for k in range(PERTURBED_RUNS)]
        found = legs.flax32.trace(failing[0].case)
    except Exception:  # the verdict stands, whatever a model does while it is watched
        return None
    names = [name for name, _ in leg.model.named_modules() if name]
    pairs = pair_modules(mapping, names, [checkpoint.module for checkpoint in found])
    found = in_torch_order(reference, found, pairs, recurrent_modules(leg.model))
    places = compare_places(reference, rooms(reference, moved, dtype="float32"), found, pairs)
    return first_divergence(places, (0.0, 0.0), [], (0.0, 0.0))
