"""torch under hypotheses, compared with the recorded Flax computation of one case."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from compare.carries import in_torch_order, recurrent_modules
from compare.case_weights import shape_of
from compare.evidence import Evidence, Legs
from compare.hypotheses.call_arguments import tensors_of
from compare.hypotheses.edit import BOUNDARIES, Calls, CallSite, Edit, Hypothesis
from compare.hypotheses.tape import Tape, UnsureError
from compare.legs.memory import give_back
from compare.legs.run import Case, Reduce, Run, zeros_for_none
from compare.legs.watch import Checkpoint
from compare.mapping.weight_mapping import WeightMapping
from compare.places import Place, Room, alignment, compare_places, first_divergence, pair_modules, rooms
from compare.result import Divergence
from compare.rounding import PERTURBED_RUNS, spreads
from compare.structure import to_numpy
from compare.verdict import SAMENESS_FACTOR, compare_arrays, unit_roundoff

__all__ = ["Examiner", "Progress", "State"]

# A constant rounded to float32 is off by 6e-8; a few of them, and what they pass through, by a few times that.
_CONSTANTS_SLACK = 64 * unit_roundoff("float32")

# What the calls behind an edit cost, of a run of the whole model with all its hooks; seldom more.
_SHARE_OF_A_RUN = 0.1

Progress = tuple[int, int, int]
"""How far two computations agree: forward (0), backward (1) or wholly (2); up to which place; minus what still differs
of the arrays that come after all places."""


@dataclasses.dataclass(frozen=True)
class State:
    """How far the two computations agree under some hypotheses.

    Args:
        run: torch's.
        places: compared.
        divergence: the first, None if they agree.
        progress: how far they agree.
        wrong_outputs: paths of the outputs that differ.
    """

    run: Run
    places: tuple[Place, ...]
    divergence: Divergence | None
    progress: Progress
    wrong_outputs: tuple[str, ...]

    @property
    def target(self) -> Place | None:
        """The first place whose values differ; None where only outputs or gradients do."""
        return next((place for place in self.places if not place.agrees), None)


class Examiner:
    """Compares torch under hypotheses with the recorded Flax computation of one case.

    Args:
        legs, mapping: of the port.
        evidence: the case.
    """

    def __init__(self, legs: Legs, mapping: WeightMapping, evidence: Evidence) -> None:
        self.leg = legs.torch64
        self.case: Case = evidence.case
        self.flax_run = legs.flax64.run(self.case) if evidence.condensed else evidence.flax
        self.found: tuple[Checkpoint, ...] = legs.flax64.trace(self.case)
        give_back()
        self.reruns = 0.0
        self.fed: dict[int, list[np.ndarray]] = {}
        calls = Calls(self.leg.model, recording=True)
        self.reference = self.leg.run(self.case, trace=True, edit=calls, clock=calls.count)
        self.sites: list[CallSite] = sorted(calls.sites, key=lambda site: site.number)
        seen: list[tuple[Checkpoint, ...]] = []

        def perturbed(k: int, reduce: Reduce) -> Run:
            run = self.leg.run(self.case, perturbation=k, trace=True, reduce=reduce)
            seen.append(run.checkpoints)
            return run

        # In place of each array how far one rounding moves it.
        runs = (functools.partial(perturbed, k) for k in range(PERTURBED_RUNS))
        self.moved = spreads(self.reference, runs, "float64")
        # Constants that the port holds in a lower precision are another check's finding, and hide nothing here.
        self.slack = _CONSTANTS_SLACK if legs.flax64.constants else 0.0
        self.room: list[Room] = rooms(self.reference.checkpoints, seen, self.slack)
        self.names = [name for name, _ in self.leg.model.named_modules() if name]
        self.pairs = pair_modules(mapping, self.names, [checkpoint.module for checkpoint in self.found])
        recurrent = recurrent_modules(self.leg.model)
        self.found = in_torch_order(self.reference.checkpoints, self.found, self.pairs, recurrent)
        self._forward = dataclasses.replace(self.case, cotangents={})
        self._tape: Tape | None = None
        self._taped: list[Hypothesis] = []

    @property
    def functions(self) -> list[tuple[int, str]]:
        """Number and function of every call."""
        return [(site.number, site.function) for site in self.sites]

    def state(self, hypotheses: Sequence[Hypothesis]) -> State | None:
        """How far both agree if torch contained these mistakes; None where it then can't run."""
        run = self._run(self.case, hypotheses)
        return None if run is None else self._state(run, hypotheses)

    def without_edits(self, state: State, hypotheses: Sequence[Hypothesis]) -> Progress:
        """How far both agreed before, seen as ``hypotheses`` pair the modules."""
        return self._state(state.run, hypotheses).progress

    def screen(self, hypotheses: Sequence[Hypothesis], before: State) -> bool:
        """Whether the first place that differs agrees now, at the cost of a part of the forward pass."""
        difference = self.difference(hypotheses, before)
        return difference is not None and difference[1]

    def difference(self, hypotheses: Sequence[Hypothesis], before: State) -> tuple[np.ndarray, bool] | None:
        """torch minus Flax at the first place that differs, and whether it agrees; None where shapes don't."""
        target = before.target
        number = None if target is None else target.number
        run = self._again(hypotheses, before) or self._run(self._forward, hypotheses, number)
        if run is None or (number is not None and len(run.checkpoints) <= number):
            return None
        pairs = _arrays_at(self, run, target, before.wrong_outputs)
        if any(ours.shape != theirs.shape for ours, theirs in pairs):
            return None
        if target is None:
            agrees = len(self._wrong_outputs(run)) < len(before.wrong_outputs)
        else:
            places = compare_places(run.checkpoints, self.room, self.found, self.pairs, start=target.number)
            agrees = bool(places) and places[0].agrees
        apart = [(ours - theirs).ravel() for ours, theirs in pairs]
        return np.concatenate(apart) if apart else np.zeros(0), agrees

    def record(self, hypotheses: Sequence[Hypothesis], before: State) -> None:
        """Notes the calls up to the first place that differs, from which ``difference`` then tells most edits."""
        tape = Tape(self.leg.mode == "train")
        calls = Calls(self.leg.model, hypotheses, fed=self.fed, tape=tape)
        self.leg.run(self._forward, trace=True, edit=calls, until=before.target.number if before.target else None)
        self._tape, self._taped = tape, list(hypotheses)
        noted = self._again(hypotheses, before)
        if noted is None or not self._same_arrays(noted, before):
            self._tape = None

    def _same_arrays(self, run: Run, before: State) -> bool:
        pairs = zip(*(_arrays_at(self, r, before.target, before.wrong_outputs) for r in (run, before.run)), strict=True)
        return all(np.array_equal(one[0], other[0], equal_nan=True) for one, other in pairs)

    def _again(self, hypotheses: Sequence[Hypothesis], before: State) -> Run | None:
        """The run up to the first place that differs, by the tape; None where that can't tell."""
        new = hypotheses[len(self._taped) :]
        same = all(a is b for a, b in zip(self._taped, hypotheses, strict=False))
        if self._tape is None or not same or len(hypotheses) < len(self._taped):
            return None
        edits: dict[int, list[tuple[str, Any]]] = {}
        for edit in (edit for hypothesis in new for edit in hypothesis.edits):
            if edit.site.function in BOUNDARIES:
                return None
            edits.setdefault(edit.site.number, []).append((edit.site.function, edit.replace))
        tensors = {**dict(self.leg.model.named_parameters()), **dict(self.leg.model.named_buffers())}
        reads = {id(tensors[a]): tensors[b] for hypothesis in new for a, b in hypothesis.reads.items()}
        kept = [
            edit.site.number for hypothesis in self._taped if len(hypothesis.edits) > 1 for edit in hypothesis.edits
        ]
        number = -1 if before.target is None else before.target.number
        self.reruns += _SHARE_OF_A_RUN
        try:
            with self.leg.calling(self.case):
                found = self._tape.again(edits, reads, frozenset(kept), number)
                if before.target is None:
                    return Run(outputs=self.leg.selected(self._tape.output(found)))
        except UnsureError:
            return None
        except Exception:  # as in a whole run: the edit does not fit the call
            return Run(outputs={})
        there = before.run.checkpoints[number]
        if len(found) != len(there.arrays):
            return None
        checkpoint = dataclasses.replace(there, arrays=tuple(to_numpy(t) for t in found), gradients=())
        return Run(outputs={}, checkpoints=(*before.run.checkpoints[:number], checkpoint))

    def feed(self, state: State, hypotheses: Sequence[Hypothesis]) -> State | None:
        """The state if torch went on with Flax's arrays at the first place that differs; None where that is not so."""
        target = state.target
        pairs = self.arrays(state)
        if target is None or not pairs or any(ours.shape != theirs.shape for ours, theirs in pairs):
            return None
        self.fed[target.number] = [theirs for _, theirs in pairs]
        after = self.state(hypotheses)
        return after if after is not None and after.progress > state.progress else None

    def effect(self, edit: Edit) -> bytes | None:
        """A digest of what the edited call alone returns; empty if that is what it returned; None if it can't be."""
        redo = edit.site.redo
        if redo is None:
            return None
        try:
            with self.leg.calling(self.case):
                before, after = _digest(redo(None)), _digest(redo(edit.replace))
        except Exception:
            return b""
        return b"" if before == after else after

    def arrays(self, state: State) -> list[tuple[np.ndarray, np.ndarray]]:
        """torch's and Flax's arrays at the first place that differs, in torch's layout."""
        return _arrays_at(self, state.run, state.target, state.wrong_outputs)

    def _run(self, case: Case, hypotheses: Sequence[Hypothesis], until: int | None = None) -> Run | None:
        self.reruns += 1
        try:
            return self.leg.run(case, trace=True, edit=Calls(self.leg.model, hypotheses, fed=self.fed), until=until)
        except Exception:  # an edit that does not fit the call's shapes says only that this is not the mistake
            return None

    def _state(self, run: Run, hypotheses: Sequence[Hypothesis]) -> State:
        pairs, moved = dict(self.pairs), {name for hypothesis in hypotheses for name in hypothesis.moved}
        for hypothesis in hypotheses:
            pairs = _exchanged(pairs, hypothesis.exchanged)
        pairs = {name: path for name, path in pairs.items() if not _inside(name, moved)}
        places = compare_places(run.checkpoints, self.room, self.found, pairs)
        wrong = self._wrong_outputs(run)
        # A Flax call of its own has no gradients for torch's inputs.
        known = {
            path: run.input_gradients[path] for path in self.flax_run.input_gradients if path in run.input_gradients
        }
        shapes = _shapes({**known, **self.flax_run.input_gradients})
        inputs = self._worst(run, lambda r: zeros_for_none(r.input_gradients, shapes))
        parameters = [name for name in self.reference.parameter_gradients if not self._same_gradient(run, name)]
        output = max(wrong.values(), default=(0.0, 0.0))
        divergence = first_divergence(places, output, parameters, inputs)
        late = len(parameters) + (not inputs[0] <= inputs[1])
        progress = _progress(places, divergence, len(wrong), late)
        return State(run, tuple(places), divergence, progress, tuple(wrong))

    def _wrong_outputs(self, run: Run) -> dict[str, tuple[float, float]]:
        """Path -> error and allowance of the outputs that differ."""
        return {
            path: self._worst(run, lambda r, path=path: {path: r.outputs[path]})  # type: ignore[misc]
            for path in run.outputs
            if not self._agrees(run, path)
        }

    def _agrees(self, run: Run, path: str) -> bool:
        error, room = self._worst(run, lambda r: {path: r.outputs[path]} if path in r.outputs else {})
        return error <= room

    def _worst(self, run: Run, select: Callable[[Run], Mapping[str, np.ndarray]]) -> tuple[float, float]:
        mine, theirs = select(run), select(self.flax_run)
        reference, moved = select(self.reference), select(self.moved)
        worst = (0.0, 0.0)
        for path, array in mine.items():
            if not np.issubdtype(array.dtype, np.floating) or path not in reference:
                continue
            room = SAMENESS_FACTOR * float(np.max(moved.get(path, 0.0), initial=0.0))
            room += self.slack * float(np.abs(reference[path]).max(initial=0.0))
            leaf = compare_arrays(path, array, theirs[path], room) if path in theirs else None
            if leaf is None or not leaf.agrees:
                error = np.inf if leaf is None or leaf.detail else leaf.error
                worst = max(worst, (error, room))
        return worst

    def _same_gradient(self, run: Run, name: str) -> bool:
        shape = {name: shape_of(self.case.weights, name)}

        def of(r: Run) -> np.ndarray:
            return zeros_for_none(r.parameter_gradients, shape)[name]

        room = SAMENESS_FACTOR * float(self.moved.parameter_gradients.get(name) or 0.0)
        room += self.slack * float(np.abs(of(self.reference)).max(initial=0.0))
        return compare_arrays(name, of(run), of(self.flax_run), room).agrees


def _digest(result: Any) -> bytes:
    arrays = [tensor.detach().numpy() for tensor in tensors_of(result)]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _shapes(arrays: Mapping[str, np.ndarray | None]) -> dict[str, tuple[int, ...]]:
    return {path: array.shape for path, array in arrays.items() if array is not None}


def _arrays_at(
    examiner: Examiner, run: Run, target: Place | None, outputs: Iterable[str]
) -> list[tuple[np.ndarray, np.ndarray]]:
    if target is None:
        theirs = examiner.flax_run.outputs
        return [(run.outputs[path], theirs[path]) for path in outputs if path in theirs and path in run.outputs]
    ours = run.checkpoints[target.number]
    same = [c for c in run.checkpoints[: target.number] if (c.module, c.edge) == (ours.module, ours.edge)]
    partners = [c for c in examiner.found if (c.module, c.edge) == (target.flax_path, target.edge)]
    found = []
    for array, other in zip(ours.arrays, partners[len(same)].arrays, strict=False):
        permutation = alignment(array, other)
        found.append((array, other if permutation is None else np.transpose(other, permutation)))
    return found


def _exchanged(pairs: Mapping[str, str], modules: Sequence[str]) -> dict[str, str]:
    """The pairs with the partners of two modules, and of all that is in them, exchanged."""
    if not modules:
        return dict(pairs)
    one, other = modules
    changed = dict(pairs)
    for name in pairs:
        for this, that in ((one, other), (other, one)):
            if name == this or name.startswith(f"{this}."):
                twin = that + name.removeprefix(this)
                changed.pop(name)
                if twin in pairs:
                    changed[name] = pairs[twin]
    return changed


def _inside(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _progress(places: Sequence[Place], divergence: Divergence | None, wrong: int, late: int) -> Progress:
    if divergence is None:
        return 2, 0, 0
    if divergence.direction == "forward":
        after = places[-1].number + 1 if places else 0
        return 0, next((place.number for place in places if not place.agrees), after), -wrong
    differing = next((place.number for place in reversed(places) if not place.gradient_agrees), -1)
    return 1, -differing, -late
