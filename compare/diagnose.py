"""Where a port goes wrong, and what the mistake is.

A hypothesis is an edit of the torch computation. The one under which torch reproduces Flax's values at the place of the
first divergence, to rounding, is the cause. It is then left in force and the search goes on, since one mistake hides
those behind it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from compare.evidence import PERTURBED_RUNS, Evidence, Legs
from compare.hypotheses.bank import variants
from compare.hypotheses.edit import Calls, CallSite, Edit, Hypothesis, editing
from compare.legs.run import Case, Run
from compare.legs.watch import Checkpoint
from compare.places import Place, Room, compare_places, first_divergence, pair_modules, rooms
from compare.result import Cause, Divergence
from compare.verdict import SAMENESS_FACTOR, compare_arrays, spread
from compare.weights import WeightMapping

__all__ = ["Diagnosis", "diagnose", "trace_places"]

Gradients = Mapping[str, np.ndarray | None]

# A port with more mistakes than this is better read than measured.
_MOST_CAUSES = 8


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Where and what.

    Args:
        divergence: the first place where the computations part, None if none was found.
        causes: mistakes that reproduce it, each with those behind it.
        note: why there is nothing to say, where something went wrong.
        places: all places of the case that was searched, without any hypothesis.
    """

    divergence: Divergence | None
    causes: tuple[Cause, ...] = ()
    note: str = ""
    places: tuple[Place, ...] = ()


@dataclasses.dataclass(frozen=True)
class _State:
    """How far the two computations agree under some hypotheses."""

    places: tuple[Place, ...]
    divergence: Divergence | None
    progress: tuple[int, int]
    error: float


class _Examiner:
    """Compares torch under hypotheses with the recorded Flax computation of one case."""

    def __init__(self, legs: Legs, mapping: WeightMapping, evidence: Evidence) -> None:
        self.leg = legs.torch64
        self.case: Case = evidence.case
        self.flax_run = evidence.flax
        self.found: tuple[Checkpoint, ...] = legs.flax64.trace(self.case)
        self.sites: list[CallSite] = []
        self.reference = self._record()
        moved = [self.leg.run(self.case, perturbation=k, trace=True) for k in range(PERTURBED_RUNS)]
        self.room: list[Room] = rooms(self.reference.checkpoints, [run.checkpoints for run in moved])
        self.moved: list[Run] = moved
        names = [name for name, _ in self.leg.model.named_modules() if name]
        self.pairs = pair_modules(mapping, names, [checkpoint.module for checkpoint in self.found])

    def _record(self) -> Run:
        calls = Calls(model=self.leg.model)
        run = self.leg.run(self.case, trace=True, edit=calls, clock=calls.count)
        self.sites = calls.sites
        return run

    def state(self, hypotheses: Sequence[Hypothesis]) -> _State | None:
        """How far both agree if torch contained these mistakes; None where it then can't run."""
        try:
            run = self.leg.run(self.case, trace=True, edit=editing(hypotheses))
        except Exception:  # an edit that does not fit the call's shapes says only that this is not the mistake
            return None
        places = compare_places(run.checkpoints, self.room, self.found, self.pairs)
        output = self._worst(run, lambda r: dict(r.outputs))
        inputs = self._worst(run, lambda r: _filled(r.input_gradients, self.reference.input_gradients))
        parameters = [name for name in self.reference.parameter_gradients if not self._same_gradient(run, name)]
        divergence = first_divergence(places, output, parameters, inputs)
        error = 0.0 if divergence is None else divergence.error
        return _State(tuple(places), divergence, _progress(places, divergence), error)

    def _worst(self, run: Run, select: Callable[[Run], Mapping[str, np.ndarray]]) -> tuple[float, float]:
        mine, theirs = select(run), select(self.flax_run)
        reference, moved = select(self.reference), [select(m) for m in self.moved]
        worst = (0.0, 0.0)
        for path, array in mine.items():
            if not np.issubdtype(array.dtype, np.floating):
                continue
            room = SAMENESS_FACTOR * spread(reference[path], [m[path] for m in moved], "float64")
            leaf = compare_arrays(path, array, theirs[path], room) if path in theirs else None
            if leaf is None or not leaf.agrees:
                error = np.inf if leaf is None or leaf.detail else leaf.error
                worst = max(worst, (error, room))
        return worst

    def _same_gradient(self, run: Run, name: str) -> bool:
        shape = self.case.weights[name].shape
        zeros = np.zeros(shape)

        def of(r: Run) -> np.ndarray:
            gradient = r.parameter_gradients.get(name)
            return zeros if gradient is None else gradient

        room = SAMENESS_FACTOR * spread(of(self.reference), [of(m) for m in self.moved], "float64")
        return compare_arrays(name, of(run), of(self.flax_run), room).agrees


def _filled(gradients: Gradients, like: Gradients) -> dict[str, np.ndarray]:
    """Zeros where no gradient flows: "none" and zero are equal here."""
    filled = {}
    for path, reference in like.items():
        gradient = gradients.get(path)
        if gradient is not None:
            filled[path] = gradient
        elif reference is not None:
            filled[path] = np.zeros(reference.shape)
    return filled


def _progress(places: Sequence[Place], divergence: Divergence | None) -> tuple[int, int]:
    """How far the computations agree: forward, then backward, in number of places."""
    if divergence is None:
        return 2, 0
    if divergence.direction == "forward":
        agreeing = next((i for i, place in enumerate(places) if not place.agrees), len(places))
        return 0, agreeing
    differing = next((i for i in reversed(range(len(places))) if not places[i].gradient_agrees), -1)
    return 1, len(places) - differing


def diagnose(legs: Legs, mapping: WeightMapping, failing: Sequence[Evidence]) -> Diagnosis:
    """Finds the first divergence and its causes.

    Args:
        legs: of the port.
        mapping: between its weights.
        failing: the cases whose outputs or gradients differ. The first is searched; a hypothesis must explain up to
            two others as well, since on one alone another mistake may look the same.
    """
    if not failing:
        return Diagnosis(None)
    examiner, *others = [_Examiner(legs, mapping, evidence) for evidence in _diverse(failing)]
    state = examiner.state([])
    if state is None or state.divergence is None:
        return Diagnosis(None, places=() if state is None else state.places)
    first, places = state.divergence, state.places
    accepted: list[Hypothesis] = []
    causes: list[Cause] = []
    while state.divergence is not None and len(causes) < _MOST_CAUSES:
        fits = _confirmed(_fitting(examiner, accepted, state), others, accepted)
        if not fits:
            break
        causes += [hypothesis.cause(_words(state, after)) for hypothesis, after in fits]
        accepted.append(fits[0][0])
        state = fits[0][1]
    return Diagnosis(first, tuple(causes), places=places)


def trace_places(legs: Legs, mapping: WeightMapping, evidence: Evidence) -> tuple[Place, ...]:
    """The error at every place of one case, where nothing differs and nothing has to be searched."""
    state = _Examiner(legs, mapping, evidence).state([])
    return () if state is None else state.places


def _diverse(failing: Sequence[Evidence]) -> list[Evidence]:
    """The first, the last and the middle one: probes grow more extreme along the list."""
    chosen = {0, len(failing) // 2, len(failing) - 1}
    return [failing[i] for i in sorted(chosen)]


Fits = list[tuple[Hypothesis, _State]]


def _confirmed(fits: Fits, others: Sequence[_Examiner], accepted: Sequence[Hypothesis]) -> Fits:
    """Those that get farther in the other cases too."""
    for other in others:
        before = other.state(accepted)
        if before is None or before.divergence is None:
            continue
        after = {id(hypothesis): other.state([*accepted, hypothesis]) for hypothesis, _ in fits}
        fits = [fit for fit in fits if (found := after[id(fit[0])]) is not None and found.progress > before.progress]
    return fits


def _words(before: _State, after: _State) -> str:
    assert before.divergence is not None
    place = f"{before.divergence.where} {before.divergence.module or 'the model'}"
    rest = "nothing else differs" if after.divergence is None else "another difference comes later"
    return f"edited so, torch gives Flax's result {place} to rounding (else {before.error:.1e} apart); {rest}"


def _fitting(examiner: _Examiner, accepted: Sequence[Hypothesis], state: _State) -> list[tuple[Hypothesis, _State]]:
    """The hypotheses under which the computations agree farther than before, the farthest first."""
    for sites in _regions(examiner, state):
        fits: list[tuple[Hypothesis, _State]] = []
        for site in sites:
            for hypothesis in _hypotheses(site):
                after = examiner.state([*accepted, hypothesis])
                if after is None or not after.progress > state.progress:
                    continue
                fits.append((hypothesis, after))
        if fits:
            widened = [_widest(examiner, accepted, hypothesis, after) for hypothesis, after in fits]
            farthest = max(after.progress for _, after in widened)
            return [fit for fit in widened if fit[1].progress == farthest]
    return []


def _hypotheses(site: CallSite) -> Iterator[Hypothesis]:
    for name, summary, fix, replace in variants(site):
        where = f"in {site.module}: " if site.module else ""
        yield Hypothesis(name, f"{where}{summary}", fix, (Edit(site, replace),))


def _widest(
    examiner: _Examiner, accepted: Sequence[Hypothesis], hypothesis: Hypothesis, after: _State
) -> tuple[Hypothesis, _State]:
    """The same mistake at every call of that function, if that explains more."""
    site = hypothesis.edits[0].site
    alike = [s for s in examiner.sites if s.function == site.function and len(s.shapes) == len(site.shapes)]
    if len(alike) < 2 or after.divergence is None:
        return hypothesis, after
    bare = hypothesis.summary.removeprefix(f"in {site.module}: ")
    edits = tuple(
        Edit(s, replace)
        for s in alike
        for name, summary, _, replace in variants(s)
        if name == hypothesis.name and summary == bare
    )
    everywhere = dataclasses.replace(hypothesis, summary=f"{bare}, at every one of {len(edits)} calls", edits=edits)
    wider = examiner.state([*accepted, everywhere])
    return (everywhere, wider) if wider is not None and wider.progress > after.progress else (hypothesis, after)


def _regions(examiner: _Examiner, state: _State) -> Iterator[list[CallSite]]:
    """Where to look: the calls right before the divergence, then all others."""
    assert state.divergence is not None
    checkpoints = examiner.reference.checkpoints
    low, high = 0, len(examiner.sites)
    if state.divergence.direction == "forward":
        numbers = [place.number for place in state.places]
        bad = next((i for i, place in enumerate(state.places) if not place.agrees), len(state.places))
        low = checkpoints[numbers[bad - 1]].clock if bad else 0
        high = checkpoints[numbers[bad]].clock if bad < len(numbers) else high
    else:
        bad = next((i for i in reversed(range(len(state.places))) if not state.places[i].gradient_agrees), -1)
        if bad >= 0:
            low = checkpoints[state.places[bad].number].clock
            following = state.places[bad + 1] if bad + 1 < len(state.places) else None
            high = checkpoints[following.number].clock if following else high
    near = [site for site in examiner.sites if low <= site.number < high]
    yield near
    yield [site for site in examiner.sites if site not in near]
