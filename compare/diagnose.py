"""Where a port goes wrong, and what the mistake is.

A hypothesis is an edit of the torch computation. The one under which torch reproduces Flax's values at the place of the
first divergence, to rounding, is the cause. It is then left in force and the search goes on, since one mistake hides
those behind it.
"""

import dataclasses
from collections.abc import Sequence

from compare.checks.outputs import check_outputs
from compare.evidence import Evidence, Legs
from compare.examiner import Examiner, State
from compare.hypotheses.edit import Hypothesis
from compare.mapping.weight_mapping import WeightMapping
from compare.observations import observe
from compare.places import Place
from compare.result import Cause, Divergence
from compare.search import Search

__all__ = ["Diagnosis", "diagnose", "trace_places"]

# A port with more mistakes than this is better read than measured.
_MOST_CAUSES = 8

# Places that nothing explains and that are passed with Flax's values.
_MOST_UNEXPLAINED = 2


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Where and what.

    Args:
        divergence: the first place where the computations part, None if none was found.
        causes: mistakes that reproduce it, each with those behind it.
        note: what was seen where nothing fits, or why there is nothing to say.
        places: all places of the case that was searched, without any hypothesis.
    """

    divergence: Divergence | None
    causes: tuple[Cause, ...] = ()
    note: str = ""
    places: tuple[Place, ...] = ()


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
    examiner, *others = [Examiner(legs, mapping, _searched(legs, evidence)) for evidence in _diverse(failing)]
    # An edit names a call by its number: of another length, a loop makes other calls, and the case says nothing of it.
    others = [other for other in others if other.functions == examiner.functions]
    state = examiner.state([])
    if state is None or state.divergence is None:
        return Diagnosis(None, places=() if state is None else state.places)
    first, places = state.divergence, state.places
    accepted: list[Hypothesis] = []
    causes: list[Cause] = []
    notes: list[str] = []
    while state.divergence is not None and len(causes) < _MOST_CAUSES:
        search = Search(examiner, others, accepted, state)
        fits = search.fits()
        if not fits:
            tried = "the search was cut short" if examiner.reruns >= search.limit else "nothing in the bank explains it"
            notes.append(f"{_place(state)}: {tried}; {observe(examiner.arrays(state))}")
            beyond = _beyond(examiner, others, accepted, state) if len(notes) <= _MOST_UNEXPLAINED else None
            if beyond is None:
                break
            state, others = beyond
            continue
        causes += [cause for hypothesis, after in fits for cause in hypothesis.causes(_words(state, after))]
        accepted.append(fits[0][0])
        state = fits[0][1]
    return Diagnosis(first, tuple(causes), "; ".join(notes), places)


def _searched(legs: Legs, item: Evidence) -> Evidence:
    """``item``; of a large model, without gradients if the outputs differ already: each set is as large as it."""
    if not legs.torch64.large or check_outputs([item], strict=True).status != "failed":
        return item
    without = dataclasses.replace(item.case, cotangents={})
    return dataclasses.replace(item, case=without, condensed=False)


def _beyond(
    examiner: Examiner, others: Sequence[Examiner], accepted: Sequence[Hypothesis], state: State
) -> tuple[State, list[Examiner]] | None:
    """Past a place that nothing explains: torch goes on with Flax's values, so that mistakes behind it are seen.

    Gradients say nothing any more then. Cases that part elsewhere are left out.
    """
    after = examiner.feed(state, accepted)
    if after is None or after.divergence is None or after.divergence.direction == "backward":
        return None
    kept = []
    for other in others:
        before = other.state(accepted)
        if before is not None and _number(before) == _number(state) and other.feed(before, accepted) is not None:
            kept.append(other)
    return after, kept


def _number(state: State) -> int:
    return -1 if state.target is None else state.target.number


def trace_places(legs: Legs, mapping: WeightMapping, evidence: Evidence) -> tuple[Place, ...]:
    """The error at every place of one case, where nothing differs and nothing has to be searched."""
    state = Examiner(legs, mapping, evidence).state([])
    return () if state is None else state.places


def _diverse(failing: Sequence[Evidence]) -> list[Evidence]:
    """The first, the last and the middle one: probes grow more extreme along the list."""
    chosen = {0, len(failing) // 2, len(failing) - 1}
    return [failing[i] for i in sorted(chosen)]


def _place(state: State) -> str:
    assert state.divergence is not None
    return f"{state.divergence.where} {state.divergence.module or 'the model'}"


def _words(before: State, after: State) -> str:
    assert before.divergence is not None
    rest = "nothing else differs" if after.divergence is None else "another difference comes later"
    apart = f"(else {before.divergence.error:.1e} apart)"
    return f"edited so, torch gives Flax's result {_place(before)} to rounding {apart}; {rest}"
