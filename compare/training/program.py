"""The part of a torch loop between gradients and update, as plain data; and whether it explains what Flax did."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from compare.training.recipe import Recipe, step
from compare.training.trajectory import Clip
from compare.verdict import SAMENESS_FACTOR, spread, unit_roundoff

__all__ = ["Observed", "Program", "rates_that_explain"]

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Program:
    """Accumulation, clipping and one recipe per parameter.

    Args:
        recipes: by Flax path.
        ratios: learning rate of each parameter's group over that of the first group.
        rates: learning rate of the first group at each optimiser step.
        clip: as in the torch loop: None, a ``Clip``, or the user's callable.
        clip_epsilon: added to the norm before the division.
        clip_place: "whole" gradient after accumulation; "batch": each batch's before it; "parameter": each parameter by
            its own norm; "update": the finished update without its rate; "always": also scaled up to the norm.
        accumulate: batches per optimiser step.
        reduce: what accumulation does.
        skipped: parameters that torch's optimiser leaves alone, since they have no gradient.
        frozen: parameters that are not moved at all.
    """

    recipes: Mapping[str, Recipe]
    ratios: Mapping[str, float]
    rates: tuple[float, ...]
    clip: Any = None
    clip_epsilon: float = 1e-6
    clip_place: Literal["whole", "batch", "parameter", "update", "always"] = "whole"
    accumulate: int = 1
    reduce: Literal["sum", "mean"] = "sum"
    skipped: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()

    def change(self, **fields: Any) -> "Program":
        """The program with some fields of its own replaced."""
        return dataclasses.replace(self, **fields)

    def every(self, **fields: Any) -> "Program":
        """The program with some fields of every recipe replaced."""
        return self.change(recipes={p: dataclasses.replace(r, **fields) for p, r in self.recipes.items()})


@dataclasses.dataclass(frozen=True)
class Observed:
    """What one loop did, in Flax's names and layout.

    Args:
        gradients, parameters, updates: per step; gradients of the batch, parameters before the step.
    """

    gradients: Sequence[Arrays]
    parameters: Sequence[Arrays]
    updates: Sequence[Arrays]

    def perturbed(self, seed: int) -> "Observed":
        """The same with its gradients moved by one rounding."""
        random, size = np.random.default_rng(seed), 2 * unit_roundoff("float64")
        moved = [{p: g * (1 + size * random.uniform(-1, 1, g.shape)) for p, g in s.items()} for s in self.gradients]
        return dataclasses.replace(self, gradients=moved)


def rates_that_explain(program: Program, seen: Observed, room: Sequence[Mapping[str, float]]) -> list[float] | None:
    """The learning rate at each optimiser step with which ``program`` gives the updates that were seen.

    Args:
        program: a loop, right or with mistakes.
        seen: its gradients, parameters and updates.
        room: per step, the relative error of each update that rounding explains (of ``rounding_room``).

    Returns:
        The rates, or None if no rates do.
    """
    rates: list[float] = []
    for number, moves in enumerate(_replay(program, seen)):
        updates = seen.updates[number]
        if moves is None:
            if any(np.any(update) for path, update in updates.items() if path in program.recipes):
                return None
            continue
        own = program.rates[len(rates)]
        rate = _fit(moves, updates, own)
        for path, (direction, extra) in moves.items():
            update = updates[path]
            scale = max(_largest(update), _largest(extra))
            allowed = SAMENESS_FACTOR * room[number][path] * scale
            if not _largest(update - extra + rate * direction) <= allowed:
                return None
        rates.append(rate)
    return rates


def rounding_room(program: Program, seen: Observed) -> list[dict[str, float]]:
    """Relative to each update, what one rounding of the gradients does to it, at least a few roundings."""
    runs = [list(_replay(program, observed)) for observed in (seen, seen.perturbed(1), seen.perturbed(2))]
    room = []
    for number, moves in enumerate(runs[0]):
        at: dict[str, float] = dict.fromkeys(program.recipes, 0.0)
        for path, (direction, _) in (moves or {}).items():
            moved = [(run[number] or {})[path][0] for run in runs[1:]]
            at[path] = spread(direction, moved, "float64") / (_largest(direction) or 1.0)
        floor = 4 * unit_roundoff("float64")
        room.append({path: max(value, floor) for path, value in at.items()})
    return room


def _fit(moves: Mapping[str, tuple[np.ndarray, np.ndarray]], updates: Arrays, own: float) -> float:
    top = bottom = 0.0
    for path, (direction, extra) in moves.items():
        top -= float(np.sum((updates[path] - extra) * direction))
        bottom += float(np.sum(direction * direction))
    return top / bottom if bottom > 0 and np.isfinite(top) else own


def _replay(program: Program, seen: Observed) -> Any:
    """Per batch None while gradients accumulate, else {path: (direction, extra)}."""
    states: dict[str, dict[str, np.ndarray]] = {path: {} for path in program.recipes}
    total: dict[str, np.ndarray] = {}
    count = 0
    for number, gradients in enumerate(seen.gradients):
        batch = {path: gradients[path] for path in program.recipes}
        if program.clip_place == "batch":
            batch = _clipped(program, batch)
        total = batch if not total else {path: total[path] + batch[path] for path in batch}
        if (number + 1) % program.accumulate:
            yield None
            continue
        if program.reduce == "mean":
            total = {path: gradient / program.accumulate for path, gradient in total.items()}
        clipped = total if program.clip_place in ("batch", "update") else _clipped(program, total)
        moves = {}
        rate = program.rates[count]
        count += 1
        for path, recipe in program.recipes.items():
            parameter = seen.parameters[number][path]
            zeros = np.zeros_like(parameter)
            if path in program.skipped or path in program.frozen:
                moves[path] = (zeros, zeros)
                continue
            direction, extra, states[path] = step(recipe, states[path], clipped[path], parameter, count, rate)
            moves[path] = (program.ratios[path] * direction, extra)
        if program.clip_place == "update":
            finished = _clipped(program, {path: direction for path, (direction, _) in moves.items()})
            moves = {path: (finished[path], extra) for path, (_, extra) in moves.items()}
        total = {}
        yield moves


def _clipped(program: Program, gradients: Arrays) -> dict[str, np.ndarray]:
    active = {path: g for path, g in gradients.items() if path not in program.skipped}
    clip = program.clip
    if clip is None:
        return dict(gradients)
    if not isinstance(clip, Clip):
        return {**gradients, **_clipped_by(clip, active)}
    if clip.kind == "value":
        return {**gradients, **{path: np.clip(g, -clip.value, clip.value) for path, g in active.items()}}
    if program.clip_place == "parameter":
        return {**gradients, **{path: g * _factor(program, clip, [g]) for path, g in active.items()}}
    factor = _factor(program, clip, list(active.values()))
    return {**gradients, **{path: g * factor for path, g in active.items()}}


def _factor(program: Program, clip: Clip, gradients: Sequence[np.ndarray]) -> float:
    norm = float(np.sqrt(sum(float(np.sum(g * g)) for g in gradients)))
    if norm + program.clip_epsilon == 0:
        return 1.0
    factor = clip.value / (norm + program.clip_epsilon)
    return factor if program.clip_place == "always" else min(1.0, factor)


def _clipped_by(clip: Any, gradients: Arrays) -> dict[str, np.ndarray]:
    parameters = {path: torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for path, g in gradients.items()}
    for path, parameter in parameters.items():
        parameter.grad = torch.from_numpy(np.array(gradients[path]))
    clip(list(parameters.values()))
    return {path: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for path, p in parameters.items()}


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max()) if array.size else 0.0
