"""The search for hypotheses under which two computations agree farther than before."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from compare.examiner import Examiner, State
from compare.hypotheses.bank import general_variants, knobs, scales, variants
from compare.hypotheses.edit import CallSite, Edit, Hypothesis
from compare.hypotheses.gradients import gradient_changes
from compare.hypotheses.loops import again, nesting, phases
from compare.hypotheses.operands import relation
from compare.hypotheses.partial import partial
from compare.hypotheses.parts import taken_apart
from compare.hypotheses.rewiring import exchanges, moves, other_arrays, recomputed, rotary
from compare.hypotheses.shared import same_axes, same_numbers
from compare.hypotheses.variant import Knob, Variant
from compare.places import entrance
from compare.solving import round_numbers, solve

__all__ = ["Search"]

# Runs of the torch model that one search may take: a count, so that the result does not depend on the machine, and
# fewer where each run has more to compute.
_MOST_RERUNS = 3000
_LEAST_RERUNS = 300
_WEIGHTS_FOR_MOST = 100_000
_CALLS_FOR_MOST = 40

# Of mistakes that are both made between two edges; and what they may take of the runs of a search.
_MOST_PAIRS = 2000
_SHARE_FOR_PAIRS = 0.1

Fit = tuple[Hypothesis, State]


class Search:
    """For hypotheses under which the computations agree farther than before.

    Args:
        examiner: of the case that is searched.
        others: of cases that must agree farther too.
        accepted: mistakes found before.
        state: with these.
    """

    def __init__(
        self, examiner: Examiner, others: Sequence[Examiner], accepted: Sequence[Hypothesis], state: State
    ) -> None:
        self.examiner = examiner
        self.others = others
        self.accepted = list(accepted)
        self.state = state
        heavy = max(examiner.leg.size / _WEIGHTS_FOR_MOST, len(examiner.sites) / _CALLS_FOR_MOST, 1.0)
        self.allowed = max(int(_MOST_RERUNS / heavy), _LEAST_RERUNS)
        self.screened: dict[tuple[int, bytes], bool] = {}
        self.limit = examiner.reruns + self.allowed
        examiner.record(accepted, state)

    def fits(self) -> list[Fit]:
        """Those that explain the most, one for each name, likeliest first."""
        best: list[Fit] = []
        turning = {s.number for turns in phases(self.examiner.sites) if len(turns) > 2 for s in turns}
        for region, sites, final in self._regions():
            for family in self._families(region, sites, final):
                widened = [self._widest(fit) for fit in self._confirmed(family)]
                farthest = max((after.progress for _, after in widened), default=self.state.progress)
                if farthest > (best[0][1].progress if best else self.state.progress):
                    best = sorted((fit for fit in widened if fit[1].progress == farthest), key=_odd)
                # The first turn of a loop, whose state is zero, can't tell some mistakes apart: the others can.
                unsure = best and best[0][1].divergence is not None and any(s.number in turning for s in region)
                if self.examiner.reruns >= self.limit or (best and not unsure):
                    break
            if best or self.examiner.reruns >= self.limit:
                break
        return list({hypothesis.name: (hypothesis, after) for hypothesis, after in reversed(best)}.values())[::-1]

    def _families(
        self, near: Sequence[CallSite], sites: Sequence[CallSite], final: bool
    ) -> Iterator[Iterable[Hypothesis]]:
        """Kinds of mistakes, the commonest first; a kind is tried only if none before it fits.

        Args:
            near: calls that may be the wrong ones.
            sites: all calls of the model, whose arrays may stand there by mistake.
            final: whether nothing is taken apart any further; what takes many runs is tried only then.
        """
        examiner = self.examiner
        assert self.state.divergence is not None
        if self.state.divergence.direction == "backward":
            yield _everywhere(near, gradient_changes)
            yield _everywhere(near, variants)
            return
        yield rotary(sites)
        known = {hypothesis.name for hypothesis in self.accepted}  # one mistake is often made more than once
        if known:
            again = itertools.chain(_everywhere(near, variants), _everywhere(near, general_variants))
            yield (hypothesis for hypothesis in again if hypothesis.name in known)
        yield _everywhere(near, variants)
        yield exchanges(examiner.leg.model, near)
        yield taken_apart(near)
        yield self._solved(near, knobs)
        yield same_axes(near)
        yield self._repeated(itertools.chain(moves(sites, near), other_arrays(sites, near)))
        yield self._solved(near, scales)
        yield recomputed(sites, near)
        if final:
            yield _everywhere(near, general_variants)
            apart = examiner.arrays(self.state)[:1]
            yield itertools.chain.from_iterable(partial(near, *pair, self._allowed) for pair in apart)
            yield self._pairs(near)

    def _pairs(self, near: Sequence[CallSite]) -> Iterator[Hypothesis]:
        """Two of the known mistakes at once, in two calls with no edge between them that would tell them apart."""
        if self.state.divergence is None or self.state.divergence.direction == "backward":
            return
        known = [hypothesis for hypothesis in _everywhere(near, variants) if len(hypothesis.edits) == 1]
        effects: dict[tuple[int, bytes], Hypothesis] = {}
        for hypothesis in known:
            effect = self.examiner.effect(hypothesis.edits[0])
            if effect:
                effects.setdefault((hypothesis.edits[0].site.number, effect), hypothesis)
        enough = self.examiner.reruns + _SHARE_FOR_PAIRS * self.allowed
        for one, other in itertools.islice(itertools.combinations(effects.values(), 2), _MOST_PAIRS):
            if self.examiner.reruns > enough:
                return
            if one.edits[0].site is not other.edits[0].site:
                words = f"{one.summary}; {other.summary}"
                yield Hypothesis(one.name, words, one.fix, (*one.edits, *other.edits), made_of=(one, other))

    def _repeated(self, family: Iterable[Hypothesis]) -> Iterator[Hypothesis]:
        """Each, and the same at every place where the code is alike: a function that is called for q and for k."""
        for hypothesis in family:
            yield hypothesis
            edits = again(hypothesis.edits, self.examiner.sites)
            if len(edits) > len(hypothesis.edits):
                words = f"{hypothesis.summary}, and so at {len(edits) // len(hypothesis.edits)} places"
                yield dataclasses.replace(hypothesis, summary=words, edits=edits)

    @property
    def _allowed(self) -> float:
        return self.state.target.allowed if self.state.target is not None else 0.0

    def _confirmed(self, family: Iterable[Hypothesis]) -> Iterator[Fit]:
        forward = self.state.divergence is not None and self.state.divergence.direction == "forward"
        for hypothesis in family:
            if self.examiner.reruns >= self.limit:
                return
            edits = [*self.accepted, hypothesis]
            if forward and not hypothesis.rearranges and not self._fits_first(hypothesis):
                continue
            after = self.examiner.state(edits)
            if after is not None and after.progress > self._before(hypothesis) and self._elsewhere(hypothesis):
                yield hypothesis, after

    def _fits_first(self, hypothesis: Hypothesis) -> bool:
        """Whether the first place that differs agrees then; what another edit made a call return is not rerun."""
        edits = [*self.accepted, hypothesis]
        if len(hypothesis.edits) != 1 or hypothesis.reads:
            return self.examiner.screen(edits, self.state)
        effect = self.examiner.effect(hypothesis.edits[0])
        if effect is None:
            return self.examiner.screen(edits, self.state)
        key = hypothesis.edits[0].site.number, effect
        if key not in self.screened:
            self.screened[key] = bool(effect) and self.examiner.screen(edits, self.state)
        return self.screened[key]

    def _before(self, hypothesis: Hypothesis) -> tuple[int, int, int]:
        if not hypothesis.rearranges:
            return self.state.progress
        seen_so = self.examiner.without_edits(self.state, [*self.accepted, hypothesis])
        return max(seen_so, self.state.progress)

    def _elsewhere(self, hypothesis: Hypothesis) -> bool:
        """Whether the other cases agree farther too."""
        for other in self.others:
            before, after = other.state(self.accepted), other.state([*self.accepted, hypothesis])
            if before is None or before.divergence is None:
                continue
            if other.fed and before.divergence.direction == "backward":
                continue  # past a place that nothing explains, gradients say nothing
            if after is None or not after.progress > before.progress:
                return False
        return True

    def _widest(self, fit: Fit) -> Fit:
        """The same mistake at every call of that function, or in every turn of a loop, if that explains more."""
        hypothesis, after = fit
        if not hypothesis.edits or hypothesis.made_of or after.divergence is None or hypothesis.rearranges:
            return fit
        site, sites = hypothesis.edits[0].site, self.examiner.sites
        alike = [s for s in sites if s.function == site.function and len(s.shapes) == len(site.shapes)]
        bare = hypothesis.summary.removeprefix(f"{site.place}: ")
        named = tuple(
            Edit(s, replace)
            for s in (alike if len(hypothesis.edits) == 1 else ())
            for name, summary, _, replace in itertools.chain(variants(s), general_variants(s), gradient_changes(s))
            if name == hypothesis.name and summary == bare
        )
        repeated = again(hypothesis.edits, sites)
        turns = f"in all {len(repeated) // len(hypothesis.edits)} turns"
        for edits, where in ((named, f"at every one of {len(named)} calls"), (repeated, turns)):
            if len(edits) > len(hypothesis.edits):
                wider = dataclasses.replace(hypothesis, summary=f"{bare}, {where}", edits=edits)
                state = self.examiner.state([*self.accepted, wider])
                if state is not None and state.progress > fit[1].progress:
                    fit = wider, state
        return fit

    def _solved(self, near: Sequence[CallSite], family: Callable[[CallSite], Iterator[Knob]]) -> Iterator[Hypothesis]:
        """Mistakes with one unknown number, which is solved for: at one call, and at all alike."""
        forms = [([site], list(family(site))) for site in near]
        groups = [*phases(near)]
        for function in dict.fromkeys(site.function for site in near):
            alike = [site for site in near if site.function == function]
            groups += [
                [s for s in alike if s.scalars == scalars] for scalars in dict.fromkeys(s.scalars for s in alike)
            ]
        forms += [(group, list(family(group[0]))) for group in groups if len(group) > 1]
        shared = list(same_numbers([(site, list(family(site))) for site in near])) if family is knobs else []
        # A base of 1000 for 10000 is more likely typed than the exponent's divisor that gives the same numbers.
        ordered = [(*form, first) for first in (True, False) for form in forms]
        for group, found, first in ordered:
            for place, knob in enumerate(found):
                if knob.logarithmic is not first:
                    continue
                yield from self._values(group, knob, [list(family(site))[place : place + 1] for site in group])
        for group, found in shared:
            yield from self._values(group, found[0], [[knob] for knob in found])

    def _values(self, group: Sequence[CallSite], knob: Knob, alike: Sequence[Sequence[Knob]]) -> Iterator[Hypothesis]:
        def hypothesis(value: float) -> Hypothesis:
            edits = tuple(Edit(s, k.replace(value)) for s, ks in zip(group, alike, strict=True) for k in ks)
            origin = relation(abs(value), knob.sizes)
            words = _digits(value, knob.start) + (f" = {'-' if value < 0 else ''}{origin}" if origin else "")
            where = f"{group[0].place}: " if len(group) == 1 else ""
            number = "" if len(group) == 1 else f", at every one of {len(group)} calls"
            return Hypothesis(knob.name(value), f"{where}{knob.summary(words)}{number}", knob.fix, edits)

        def difference(value: float) -> np.ndarray | None:
            if self.examiner.reruns >= self.limit:
                return None
            found = self.examiner.difference([*self.accepted, hypothesis(value)], self.state)
            return None if found is None else found[0]

        to, back = (math.log, math.exp) if knob.logarithmic else (float, float)
        solved = solve(lambda x: difference(back(x)), to(knob.start), knob.step, self._allowed)
        if solved is None or solved == to(knob.start):
            return
        value = back(solved)
        for number in dict.fromkeys(round_numbers(value)):
            if number != knob.start and abs(number - value) <= 0.02 * abs(value) + abs(knob.step):
                edited = hypothesis(number)
                if self.examiner.screen([*self.accepted, edited], self.state):
                    yield edited
                    return

    def _regions(self) -> Iterator[tuple[list[CallSite], list[CallSite], bool]]:
        """Where to look, all calls of the model, and whether that is final.

        First the calls right before the divergence: as the model makes them, then taken apart, since the parts of one
        recurrent layer can be hundreds. Then all others, the nearest first.
        """
        state, sites = self.state, self.examiner.sites
        assert state.divergence is not None
        checkpoints = self.examiner.reference.checkpoints
        low, high = 0, sites[-1].number + 1 if sites else 0
        if state.divergence.direction == "forward":
            bad = next((i for i, place in enumerate(state.places) if not place.agrees), len(state.places))
            if bad < len(state.places):
                bad = state.places.index(entrance(state.places, state.places[bad]))
            low = checkpoints[state.places[bad - 1].number].clock if bad else 0
            high = checkpoints[state.places[bad].number].clock if bad < len(state.places) else high
        else:
            bad = next((i for i in reversed(range(len(state.places))) if not state.places[i].gradient_agrees), -1)
            if bad >= 0:
                low = checkpoints[state.places[bad].number].clock
                following = state.places[bad + 1] if bad + 1 < len(state.places) else None
                high = checkpoints[following.number].clock if following else high
        near = [site for site in sites if low <= site.number < high]
        inside = nesting(sites)
        deepest = max((inside[site.number] for site in near), default=0)
        for depth in range(deepest + 1):
            shown = [site for site in sites if inside[site.number] <= depth]
            yield [site for site in near if inside[site.number] <= depth], shown, depth == deepest
        others = sorted((site for site in sites if site not in near), key=lambda site: abs(site.number - low))
        yield others, sites, True


def _odd(fit: Fit) -> bool:
    """Whether it says less than another that fits: a number that nobody would type, or a name that holds for much."""
    return fit[0].name == "wrong_axis" or any(
        len(number) > 6 for number in re.findall(r"\d*\.\d+", fit[0].summary.partition("torch's")[0])
    )


def _digits(value: float, start: float) -> str:
    """Six digits, or as many as tell it from torch's number."""
    return f"{value:.6g}" if f"{value:.6g}" != f"{start:.6g}" else f"{value:.12g}"


def _of_one_function(near: Sequence[CallSite]) -> Iterator[list[CallSite]]:
    """All calls of a function, and where some of them are parts of one larger call, those: one layer of several."""
    for function in dict.fromkeys(site.function for site in near):
        alike = [site for site in near if site.function == function]
        groups = [alike]
        for whole in (site for site in near if site.span):
            parts = [site for site in alike if whole.number < site.number <= whole.number + whole.span]
            groups += [parts] if parts not in groups else []
        yield from (group for group in groups if len(group) > 1)


def _everywhere(near: Sequence[CallSite], family: Callable[[CallSite], Iterator[Variant]]) -> Iterator[Hypothesis]:
    """A family's variants at each call, at all calls of one function together, and at one call in all turns of a loop.

    Where every turn is in sight, a mistake in one of them alone is none that people make.
    """
    loop = phases(near)
    turning = {site.number for turns in loop if len(turns) > 2 for site in turns}
    for alike in (*loop, *_of_one_function(near)):
        where = f"at every one of {len(alike)} calls" if alike not in loop else f"in all {len(alike)} turns"
        together: dict[tuple[str, str, str], list[Edit]] = {}
        for site in alike:
            for name, summary, fix, replace in family(site):
                together.setdefault((name, summary, fix), []).append(Edit(site, replace))
        for (name, summary, fix), edits in together.items():
            if len(edits) == len(alike):
                words = f"{alike[0].place}: {summary}, {where}" if alike in loop else f"{summary}, {where}"
                yield Hypothesis(name, words, fix, tuple(edits))
    for site in near:
        if site.number not in turning:
            for name, summary, fix, replace in family(site):
                words = f"{site.place}: {summary}" if site.place else summary
                yield Hypothesis(name, words, fix, (Edit(site, replace),))
