"""What is wrong with a training loop: mistakes that reproduce the updates of the Flax loop to rounding."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compare.mapping.weight_mapping import WeightMapping
from compare.result import Cause
from compare.training.comparison import rearranged
from compare.training.hypotheses import mistakes
from compare.training.mistake import Mistake
from compare.training.program import Observed, Program, rates_that_explain, rounding_room
from compare.training.rates import rate_causes, same_rates
from compare.training.recipe import recipe_of
from compare.training.torch_loop import TorchRun
from compare.training.trajectory import Snapshot, Training, as_clip

__all__ = ["OptimizerFinding", "examine_optimizer", "unnoticed"]

Weights = Mapping[str, np.ndarray]

# Pairs are tried on the first steps only until they fail; more of them than this take too long.
_MOST_PAIRS = 20_000


@dataclasses.dataclass(frozen=True)
class OptimizerFinding:
    """What the search found.

    Args:
        causes: that explain the updates; several that fit are all listed.
        rounded_rate: the updates are torch's but for a learning rate that is rounded to float32.
        searched: how many programs were tried; 0 where the torch optimiser is not one that is known.
    """

    causes: tuple[Cause, ...]
    rounded_rate: bool = False
    searched: int = 0


def examine_optimizer(
    training: Training,
    torch_run: TorchRun,
    flax: Sequence[Snapshot],
    mapping: WeightMapping,
    start: Weights,
) -> OptimizerFinding:
    """Looks for edits of the torch loop under which the gradients that Flax saw give the updates that it made.

    Args:
        training: the pair of loops.
        torch_run: what torch's loop did.
        flax: what the Flax loop did.
        mapping: between the weights.
        start: torch's weights before the first step.
    """
    names = rearranged(mapping)
    program = _program(training, torch_run, names)
    if program is None:
        return OptimizerFinding(())
    own = _observed_torch(torch_run.snapshots, mapping, program, start)
    room = rounding_room(program, own)
    # Torch's update is a difference of parameters, which are rounded: only whether the recipe is torch's is asked here.
    loose = [dict.fromkeys(at, 1e-10) for at in room]
    rates = rates_that_explain(program, own, loose)
    if rates is None:
        return OptimizerFinding(())
    seen = _observed_flax(flax, program, mapping.to_flax(start))
    # Frozen in torch alone: the gradients tell that. With this mended the search goes on.
    thawed = {p for p in program.skipped if any(np.any(g[p]) for g in seen.gradients)}
    thawed -= {p for p in thawed if not any(np.any(update[p]) for update in seen.updates)}
    return _Search(program.change(skipped=program.skipped - thawed), seen).run()


def unnoticed(training: Training, torch_run: TorchRun, mapping: WeightMapping, start: Weights) -> tuple[int, list[str]]:
    """How many mistakes of the bank there are, and the kinds of which these batches would have shown none.

    Every mistake is put into torch's own loop, on torch's own gradients; one that changes no update is not exercised (a
    clipping that is never reached, a momentum after one step).
    """
    program = _program(training, torch_run, rearranged(mapping))
    if program is None:
        return 0, []
    own = _observed_torch(torch_run.snapshots, mapping, program, start)
    search = _Search(program, own)
    # Torch's updates are differences of parameters, rounded at the parameters' size.
    search.room = [dict.fromkeys(at, 1e-11) for at in search.room]
    hidden: set[str] = set()
    shown: set[str] = set()
    for mistake in search.bank:
        edited = mistake.edit(program)
        rates = search.rates(edited)
        same = rates is not None and len(rates) == len(edited.rates)
        same = same and bool(np.allclose(rates or [], edited.rates, rtol=1e-9, atol=0))
        (hidden if same else shown).add(mistake.name)
    return len(search.bank), sorted(hidden - shown)


class _Search:
    """Single mistakes first, then pairs, each with torch's learning rates or with others of a known kind."""

    def __init__(self, program: Program, seen: Observed) -> None:
        self.program = program
        self.seen = seen
        self.room = rounding_room(program, seen)
        first = seen.parameters[0]
        matrices = frozenset(path for path in program.recipes if first[path].ndim > 1)
        idle = frozenset(path for path in program.recipes if not any(np.any(u[path]) for u in seen.updates))
        self.bank = list(mistakes(program, matrices, idle))
        self.searched = 0

    def run(self) -> OptimizerFinding:
        plain = self.rates(self.program)
        if plain is not None:
            if same_rates(plain, self.program.rates):
                return OptimizerFinding((), searched=self.searched)
            if same_rates(plain, self.program.rates, single=True):
                return OptimizerFinding((), rounded_rate=True, searched=self.searched)
        causes, with_rates = self._singles()
        if plain is not None:
            causes += rate_causes(plain, self.program.rates) or (
                [] if causes else [_unnamed(plain, self.program.rates)]
            )
        causes = causes or with_rates or self._pairs()
        return OptimizerFinding(tuple(_distinct(causes)), searched=self.searched)

    def rates(self, program: Program) -> list[float] | None:
        """The rates with which ``program`` gives the updates, None if none do."""
        self.searched += 1
        with np.errstate(all="ignore"):
            return rates_that_explain(program, self.seen, self.room)

    def _singles(self) -> tuple[list[Cause], list[Cause]]:
        """Mistakes that explain everything alone; and the first that does together with other learning rates."""
        exact, mixed = [], []
        for mistake in self.bank:
            program = mistake.edit(self.program)
            rates = self.rates(program)
            if rates is None:
                continue
            wrong = rate_causes(rates, program.rates)
            if not wrong and same_rates(rates, program.rates):
                exact.append(self._cause(mistake))
            elif wrong:
                mixed.append([self._cause(mistake), wrong[0]])
        return exact, mixed[0] if mixed else []

    def _pairs(self) -> list[Cause]:
        one = self._shortened(1)
        for first, second in itertools.islice(itertools.combinations(self.bank, 2), _MOST_PAIRS):
            if first.slot == second.slot:
                continue
            program = second.edit(first.edit(self.program))
            if not one.fits(program):
                continue
            rates = self.rates(program)
            if rates is None:
                continue
            wrong = rate_causes(rates, program.rates)
            if wrong or same_rates(rates, program.rates):
                return [self._cause(first), self._cause(second), *wrong[:1]]
        return []

    def _shortened(self, steps: int) -> "_Search":
        """The same search over the first optimiser steps, which turns most pairs away."""
        batches = steps * self.program.accumulate
        short = _Search.__new__(_Search)
        short.program, short.searched, short.bank = self.program, 0, []
        short.seen = Observed(
            self.seen.gradients[:batches], self.seen.parameters[:batches], self.seen.updates[:batches]
        )
        short.room = self.room
        return short

    def fits(self, program: Program) -> bool:
        """Whether ``program`` gives the updates."""
        return self.rates(program) is not None

    def _cause(self, mistake: Mistake) -> Cause:
        steps = len(self.seen.updates)
        evidence = f"with this mistake torch's loop gives the updates of all {steps} steps to rounding"
        return Cause(mistake.name, mistake.summary, mistake.fix, evidence)


def _unnamed(found: Sequence[float], expected: Sequence[float]) -> Cause:
    shown = [", ".join(f"{rate:.6g}" for rate in rates[:6]) for rates in (found, expected)]
    return Cause(
        "learning_rate_schedule",
        "the learning rate follows another schedule",
        "compare the two schedules step by step (learning_rate=)",
        f"rates {shown[0]}; torch's are {shown[1]}",
    )


def _distinct(causes: Sequence[Cause]) -> list[Cause]:
    """One cause per name and summary."""
    return list({(cause.name, cause.summary): cause for cause in causes}.values())


def _program(training: Training, torch_run: TorchRun, names: Mapping[str, str]) -> Program | None:
    recipes, ratios, skipped = {}, {}, set()
    base: list[float] = []
    trained = {
        name
        for name in torch_run.settings
        if any(snapshot.gradients.get(name) is not None for snapshot in torch_run.snapshots)
    }
    parameters = torch_run.snapshots[0].parameters
    for path, name in names.items():
        if name not in parameters:
            continue
        settings = torch_run.settings.get(name, next(iter(torch_run.settings.values())))
        recipe = recipe_of(torch_run.optimizer, settings)
        if recipe is None or not settings["rates"]:
            return None
        base = base or settings["rates"]
        recipes[path] = recipe
        ratios[path] = settings["rates"][0] / base[0] if base[0] else 1.0
        if name not in trained:
            skipped.add(path)
    if not recipes:
        return None
    clip: Any = training.clip if callable(training.clip) else as_clip(training.clip)
    return Program(recipes, ratios, tuple(base), clip=clip, accumulate=training.accumulate, skipped=frozenset(skipped))


def _observed_flax(flax: Sequence[Snapshot], program: Program, start: Weights) -> Observed:
    def filled(snapshot: Snapshot) -> dict[str, np.ndarray]:
        gradients = snapshot.gradients
        found = {path: gradients.get(path) for path in program.recipes}
        return {p: np.zeros(snapshot.parameters[p].shape) if g is None else g for p, g in found.items()}

    before = [start, *(snapshot.parameters for snapshot in flax[:-1])]
    return Observed([filled(s) for s in flax], before, [s.update for s in flax])


def _observed_torch(
    snapshots: Sequence[Snapshot], mapping: WeightMapping, program: Program, start: Weights
) -> Observed:
    def filled(snapshot: Snapshot) -> dict[str, np.ndarray]:
        shapes = {name: array.shape for name, array in snapshot.parameters.items()}
        gradients = {n: np.zeros(shapes[n]) if g is None else g for n, g in snapshot.gradients.items()}
        return mapping.to_flax(gradients)

    before = [mapping.to_flax(start), *(mapping.to_flax(s.parameters) for s in snapshots[:-1])]
    return Observed([filled(s) for s in snapshots], before, [mapping.to_flax(s.update) for s in snapshots])
