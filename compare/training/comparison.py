"""Two trajectories against each other: the first step and quantity that differ by more than rounding explains."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from compare.mapping.weight_mapping import WeightMapping
from compare.result import CheckResult, CheckStatus, Divergence, Leaf
from compare.training.trajectory import QUANTITIES, Snapshot
from compare.verdict import SAMENESS_FACTOR, compare_arrays, largest_relative, spread, worst

__all__ = ["Compared", "compare_trajectories", "first_difference", "rearranged", "results", "zeros_for_none"]

Arrays = dict[str, np.ndarray]

# What torch's optimisers call their state, in optax's words.
ROLES = {
    "exp_avg": ("mu",),
    "exp_avg_sq": ("nu",),
    "momentum_buffer": ("trace", "ema"),
    "square_avg": ("nu",),
    "grad_avg": ("mu",),
    "sum": ("sum_of_squares",),
}


@dataclasses.dataclass(frozen=True)
class Compared:
    """One array of one quantity at one step.

    Args:
        step: from 1.
        quantity: of ``QUANTITIES``.
        leaf: what the comparison gave.
    """

    step: int
    quantity: str
    leaf: Leaf


def rearranged(mapping: WeightMapping) -> dict[str, str]:
    """Flax path -> torch name, for the leaves that hold a torch array's own numbers in some order."""
    whole = {rule.target: rule.source for rule in mapping.rules if rule.transform is None}
    parts = {rule.target for rule in mapping.rules if rule.part or rule.place or rule.added}
    return {path: name for path, name in whole.items() if path not in parts}


def compare_trajectories(
    reference: Sequence[Snapshot],
    perturbed: Sequence[Sequence[Snapshot]],
    found: Sequence[Snapshot],
    mapping: WeightMapping,
) -> list[Compared]:
    """Every array of every quantity at every step, allowed what one rounding at each step does to torch's loop.

    A parameter that torch leaves alone may have a gradient in Flax, as long as its optimiser never moves it either.
    """
    names = rearranged(mapping)
    views = [_in_common(snapshots, mapping, names) for snapshots in (reference, *perturbed)]
    theirs = _flax_in_common(found, mapping, names)
    left_alone = {
        name
        for name in reference[0].gradients
        if all(snapshot.gradients[name] is None for snapshot in reference)
        and not any(np.any(step["update"].get(name, 1.0)) for step in theirs)
    }
    compared = []
    for number in range(len(reference)):
        mine, moved, other = views[0][number], [view[number] for view in views[1:]], theirs[number]
        for quantity in QUANTITIES:
            for path, array in mine[quantity].items():
                if path not in other[quantity] or (quantity == "gradients" and path in left_alone):
                    continue
                allowed = SAMENESS_FACTOR * max(
                    spread(array, [m[quantity].get(path, array) for m in moved], "float64"),
                    _floor(quantity, path, views[0]),
                )
                leaf = compare_arrays(f"{path} at step {number + 1}", array, other[quantity][path], allowed)
                compared.append(Compared(number + 1, quantity, leaf))
    return compared


def _floor(quantity: str, path: str, steps: Sequence[Mapping[str, Arrays]]) -> float:
    """A learning rate is rounded at its largest, though the schedule may have led it to zero."""
    if quantity != "learning_rate":
        return 0.0
    return spread(np.array([step[quantity][path] for step in steps]), [], "float64")


def _in_common(
    snapshots: Sequence[Snapshot], mapping: WeightMapping, names: Mapping[str, str]
) -> list[dict[str, Arrays]]:
    return [
        {
            **_scalars(snapshot),
            "gradients": {
                name: np.zeros(snapshot.parameters[name].shape) if gradient is None else gradient
                for name, gradient in snapshot.gradients.items()
            },
            "moments": _torch_moments(snapshot, mapping, names),
            "update": _forward(snapshot.update, mapping, names),
            "parameters": _forward(snapshot.parameters, mapping, names),
        }
        for snapshot in snapshots
    ]


def _forward(arrays: Mapping[str, np.ndarray], mapping: WeightMapping, names: Mapping[str, str]) -> Arrays:
    return {names.get(path, path): array for path, array in mapping.to_flax(arrays).items()}


def _torch_moments(snapshot: Snapshot, mapping: WeightMapping, names: Mapping[str, str]) -> Arrays:
    found: Arrays = {}
    for role in {role for role, _ in snapshot.moments}:
        arrays = {name: array for (r, name), array in snapshot.moments.items() if r == role}
        for path, array in mapping.to_flax(arrays).items():
            if path in names:
                found[f"{role} of {names[path]}"] = array
    return found


def _flax_in_common(
    snapshots: Sequence[Snapshot], mapping: WeightMapping, names: Mapping[str, str]
) -> list[dict[str, Arrays]]:
    found = []
    for snapshot in snapshots:
        gradients = {
            name: np.zeros(()) if gradient is None else gradient
            for name, gradient in mapping.gradients_to_torch(zeros_for_none(snapshot)).items()
        }
        moments = {
            f"{torch_role} of {names[path]}": array
            for (role, path), array in snapshot.moments.items()
            for torch_role, roles in ROLES.items()
            if path in names and role in roles
        }
        found.append(
            {
                **_scalars(snapshot),
                "gradients": gradients,
                "moments": moments,
                "update": {names.get(path, path): array for path, array in snapshot.update.items()},
                "parameters": {names.get(path, path): array for path, array in snapshot.parameters.items()},
            }
        )
    return found


def zeros_for_none(snapshot: Snapshot) -> dict[str, np.ndarray | None]:
    """A step's gradients, where none flows as zeros."""
    return {
        path: np.zeros(snapshot.parameters[path].shape) if gradient is None else gradient
        for path, gradient in snapshot.gradients.items()
    }


def _scalars(snapshot: Snapshot) -> dict[str, Arrays]:
    def one(name: str, value: float | None) -> Arrays:
        return {} if value is None else {name: np.asarray(value, np.float64)}

    return {
        "loss": {"loss": snapshot.loss},
        "learning_rate": one("learning rate", snapshot.learning_rate),
        "loss_scale": one("loss scale", snapshot.loss_scale),
    }


def first_difference(compared: Sequence[Compared]) -> Divergence | None:
    """Where the loops part: the first step, and in it the first quantity."""
    differing = [c for c in compared if not c.leaf.agrees]
    if not differing:
        return None
    first = min(differing, key=lambda c: (c.step, QUANTITIES.index(c.quantity)))
    same = [c.leaf for c in differing if (c.step, c.quantity) == (first.step, first.quantity)]
    leaf = max(same, key=lambda leaf: leaf.error if np.isfinite(leaf.error) else np.inf)
    array = leaf.path.rpartition(" at step ")[0].rpartition(" of ")[2]
    return Divergence(
        direction="forward" if first.quantity == "loss" else "backward",
        where="inside",
        module=array.rpartition(".")[0],
        flax_path="",
        error=leaf.error,
        allowed=leaf.allowed,
        step=first.step,
        quantity=first.quantity,
    )


def results(compared: Sequence[Compared], notes: Mapping[str, CheckStatus]) -> list[CheckResult]:
    """One result per quantity.

    Args:
        compared: of ``compare_trajectories``.
        notes: quantities whose differences do not fail, with the status that they have instead.
    """
    found = []
    for quantity in QUANTITIES:
        mine = [c for c in compared if c.quantity == quantity]
        if not mine:
            continue
        steps = len({c.step for c in mine})
        differing = [c for c in mine if not c.leaf.agrees]
        leaves = tuple(worst([c.leaf for c in mine]).values())
        shown = tuple(leaf for leaf in leaves if not leaf.agrees) or leaves
        noun = quantity.replace("_", " ")
        if not differing:
            largest = largest_relative([c.leaf for c in mine])
            detail = f"{noun}: {steps} steps agree, largest relative difference {largest:.1e}"
            found.append(CheckResult(quantity, "passed", detail, shown))
            continue
        first = min(c.step for c in differing)
        detail = f"{noun}: first differs at step {first} of {steps}, by more than rounding explains"
        status = notes.get(quantity, "failed")
        if status == "noted":
            detail = f"{noun}: kept in another form from step {first} on, while the parameters agree throughout"
        if status == "constants":
            detail = f"{noun}: differs from step {first} on by a learning rate that is rounded to float32"
        found.append(CheckResult(quantity, status, detail, shown))
    return found
