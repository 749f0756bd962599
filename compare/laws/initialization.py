"""``compare.check_initialization``: are fresh parameters drawn from torch's laws?"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from compare.laws.draws import Draws, draw
from compare.laws.families import fans_of, recognise
from compare.laws.statistics import (
    FALSE_ALARMS,
    Alarm,
    correlation,
    critical_distance,
    distance,
    exceedance,
    ks_two_samples,
)
from compare.result import Cause, CheckResult, Leaf, Report, UsageError

__all__ = ["check_initialization"]

# Of each parameter this many values are compared, evenly over the draws: enough to tell a cut-off normal from a plain
# one, and a standard deviation 3 % off.
_VALUES = 20_000
# A key shows in the first values already.
_PREFIX = 64
_PAIRS = 2_000
_FEWEST = 24


def check_initialization(
    torch_factory: Callable[[], torch.nn.Module],
    flax_factory: Callable[..., Any],
    *,
    draws: int = 64,
    mapping: Mapping[str, Any] | None = None,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> Report:
    """Whether fresh parameters of a Flax model follow the laws of torch's.

    Both models are made ``draws`` times. Per parameter: two-sample Kolmogorov-Smirnov tests of the values and of their
    absolute values, and how far the tails reach; constants must be equal. Jointly: entries that are always the same,
    orthogonality, and parameters that are drawn alike because a key was used twice. All tests together fail a right
    port at most once in a thousand reports.

    Args:
        torch_factory: makes the torch model; torch is seeded anew before each call.
        flax_factory: makes the Flax model (or Linen variables) from ``rngs``, ``key`` or ``seed``, whichever argument
            it has; or from nothing.
        draws: how often, at least 2.
        mapping: as in ``check``.
        seed: of the first draw.
        expected_failures: check name -> reason.

    Returns:
        A report with the checks "weights", "initialization" and "joint"; causes name the law that is seen.

    Raises:
        UsageError: a factory raises or returns no model.
    """
    if draws < 2:
        raise UsageError(f"draws: expected at least 2, found {draws}")
    drawn = draw(torch_factory, flax_factory, draws, mapping, seed)
    checks = [_weights(drawn)]
    single, causes = _single_laws(drawn)
    joint, more = _joint_laws(drawn)
    checks += [single, joint]
    excused = expected_failures or {}
    return Report(
        name="initialization",
        checks=tuple(_expected(check, excused) for check in checks),
        causes=(*causes, *more),
        numbers={"draws": draws, "false alarms": FALSE_ALARMS},
        settings={"draws": draws, "seed": seed, "false-alarm rate": FALSE_ALARMS},
    )


def _expected(check: CheckResult, excused: Mapping[str, str]) -> CheckResult:
    if check.status != "failed" or check.name not in excused:
        return check
    return dataclasses.replace(check, status="noted", detail=f"{check.detail}; expected: {excused[check.name]}")


def _weights(drawn: Draws) -> CheckResult:
    problems = drawn.mapping.problems
    if problems:
        leaves = tuple(Leaf(p.name, np.nan, 0.0, detail=p.detail) for p in problems)
        return CheckResult("weights", "failed", f"{len(problems)} arrays have no counterpart that fits", leaves)
    return CheckResult("weights", "passed", f"{len(drawn.torch)} parameters of torch's found in the Flax model")


def _pool(array: np.ndarray, fixed: bool = False) -> np.ndarray:
    """Values of a parameter over all draws, at most ``_VALUES``, as many of each draw.

    Single entries that are always the same (a padding row) are left out: they are compared jointly.
    """
    rows = array[:1].reshape(1, -1) if fixed else array.reshape(len(array), -1)
    moving = (rows != rows[:1]).any(0)
    rows = rows[:, moving] if moving.any() else rows
    share = max(1, _VALUES // len(rows))
    if rows.shape[1] > share:
        rows = rows[:, np.random.default_rng(0).choice(rows.shape[1], share, replace=False)]
    return rows.reshape(-1)


def _single_laws(drawn: Draws) -> tuple[CheckResult, list[Cause]]:
    names = list(drawn.flax)
    alarm = Alarm(3 * len(names))
    leaves, few = [], []
    wrong: dict[tuple[str, str, str, str], list[str]] = {}
    shapes = {name: array.shape[1:] for name, array in drawn.torch.items()}
    for name in names:
        ours, theirs = _pool(drawn.torch[name]), _pool(drawn.flax[name], drawn.fixed)
        if not ours.size:
            continue
        leaf, agrees = _compare(name, ours, theirs, alarm)
        leaves.append(leaf)
        if min(ours.size, theirs.size) < _FEWEST and ours.std() > 0:
            few.append(name)
        if not agrees:
            fans = fans_of(name, shapes)
            seen, right = recognise(theirs, fans), recognise(ours, fans)
            law, words = (seen.name, seen.words) if seen else ("unknown", f"a law of σ {theirs.std():.3g}")
            expected = right.words if right else f"a law of σ {ours.std():.3g}"
            fix = right.fix if right else "draw from torch's law"
            wrong.setdefault((law, words, expected, fix), []).append(name)
    causes = [
        Cause(
            f"init_{law}", f"{', '.join(where)}: drawn from {words}; torch draws from {expected}", fix, _evidence(drawn)
        )
        for (law, words, expected, fix), where in wrong.items()
    ]
    failed = [leaf for leaf in leaves if not leaf.agrees]
    if failed:
        detail = f"{len(failed)} of {len(leaves)} parameters follow another law than torch's"
        return CheckResult("initialization", "failed", detail, tuple(leaves)), causes
    if few or not leaves:
        detail = f"too few values to tell a law: {', '.join(few) or 'no parameters'}; give more draws"
        return CheckResult("initialization", "inconclusive", detail, tuple(leaves)), causes
    return CheckResult(
        "initialization", "passed", f"{len(leaves)} parameters follow torch's laws", tuple(leaves)
    ), causes


def _evidence(drawn: Draws) -> str:
    draws = len(next(iter(drawn.torch.values())))
    return f"{'one draw' if drawn.fixed else f'{draws} draws'}, Kolmogorov-Smirnov and tail tests"


def _compare(name: str, ours: np.ndarray, theirs: np.ndarray, alarm: Alarm) -> tuple[Leaf, bool]:
    """The distance of the two laws, and what chance explains."""
    size = ours.size * theirs.size / (ours.size + theirs.size)
    allowed = critical_distance(alarm.threshold, size)
    scale = float(np.abs(ours).max())
    gap = distance(ours, theirs)
    if ours.std() == 0 or theirs.std() == 0:
        # Constants are rounded once, to float32.
        same = ours.std() == theirs.std() == 0 and bool(np.isclose(ours[0], theirs[0], rtol=2.0**-23, atol=0))
        words = "" if same else f"expected {_words(ours)}, found {_words(theirs)}"
        return Leaf(name, 0.0 if same else gap, 0.0, scale, detail=words), same
    chances = {
        "values": ks_two_samples(ours, theirs),
        "sizes": ks_two_samples(np.abs(ours), np.abs(theirs)),
        "tails": exceedance(ours, theirs),
    }
    failing = [f"{what} (p {p:.1g})" for what, p in chances.items() if not p >= alarm.threshold]
    detail = f"{', '.join(failing)} differ: expected {_words(ours)}, found {_words(theirs)}" if failing else ""
    return Leaf(name, gap, max(allowed, gap) if not failing else allowed, scale, detail=detail), not failing


def _words(sample: np.ndarray) -> str:
    if sample.std() == 0:
        return f"constant {sample[0]:g}"
    return f"σ {sample.std():.3g} in [{sample.min():.3g}, {sample.max():.3g}]"


def _joint_laws(drawn: Draws) -> tuple[CheckResult, list[Cause]]:
    causes = [*_constant_entries(drawn), *_orthogonality(drawn), *_reused_keys(drawn)]
    if causes:
        return CheckResult("joint", "failed", "; ".join(cause.summary for cause in causes)), causes
    if drawn.fixed and any(array.std() > 0 for array in drawn.raw.values()):
        detail = "every draw of the Flax model is the same: its factory takes no seed, so one draw was judged"
        return CheckResult("joint", "noted", detail), []
    return CheckResult("joint", "passed", "parameters are drawn independently of each other, as in torch"), []


def _constant_entries(drawn: Draws) -> list[Cause]:
    """Single entries that are always the same: a padding row, a forget gate's bias."""
    causes = []
    for name, theirs in drawn.flax.items():
        ours = drawn.torch[name]
        if drawn.fixed or len(ours) < 4 or ours.std() == 0 or theirs.std() == 0:
            continue
        still, other = (ours == ours[:1]).all(0), (theirs == theirs[:1]).all(0)
        unlike = (still != other) | (still & other & ~np.isclose(ours[0], theirs[0], rtol=2.0**-23, atol=0))
        if unlike.any():
            index = [int(i) for i in np.argwhere(unlike)[0]]
            summary = f"{name}: entry {index} is constant on one side only, or another constant"
            fix = "set these entries as torch does (padding_idx's row, a gate's bias)"
            causes.append(Cause("init_constant_entries", summary, fix, f"{int(unlike.sum())} of {unlike.size} entries"))
    return causes


def _orthogonality(drawn: Draws) -> list[Cause]:
    causes = []
    for name, theirs in drawn.flax.items():
        ours = drawn.torch[name]
        if ours.ndim < 3 or min(ours.shape[1], ours[0].size // ours.shape[1]) < 2:
            continue
        expected, found = (_orthogonal(array[0].reshape(array.shape[1], -1)) for array in (ours, theirs))
        if expected != found:
            name_, words = (
                ("init_not_orthogonal", "torch's rows are orthogonal, these are not")
                if expected
                else ("init_orthogonal", "the rows are orthogonal, torch's are not")
            )
            fix = "nnx.initializers.orthogonal()" if expected else "draw the entries independently"
            causes.append(Cause(name_, f"{name}: {words}", fix, "Gram matrix of the first draw"))
    return causes


def _orthogonal(matrix: np.ndarray) -> bool:
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    size = np.abs(np.diag(gram)).mean()
    # Both frameworks orthogonalise in float32; independent entries miss by 1/√n.
    return bool(size > 0 and np.abs(gram / size - np.eye(len(gram))).max() < 1e-4)


def _reused_keys(drawn: Draws) -> list[Cause]:
    """Parameters of the Flax model whose values go together, draw by draw, where torch's do not."""
    random = [path for path, array in drawn.raw.items() if array.std() > 0]
    pairs = list(itertools.islice(itertools.combinations(random, 2), _PAIRS))
    alarm = Alarm(2 * len(pairs))
    names = {rule.target: rule.source for rule in drawn.mapping.rules}
    alike: list[tuple[str, str]] = []
    for a, b in pairs:
        if _together(drawn.raw[a], drawn.raw[b], drawn.fixed) >= alarm.threshold:
            continue
        torch_pair = [drawn.torch.get(names.get(path, "")) for path in (a, b)]
        if names.get(a) == names.get(b) or _torch_alike(torch_pair, alarm):
            continue
        alike.append((a, b))
    if not alike:
        return []
    shown = "; ".join(f"{a} and {b}" for a, b in alike[:4]) + ("; ..." if len(alike) > 4 else "")
    summary = f"drawn alike, as from one key: {shown}"
    return [Cause("init_key_reused", summary, "split the key: jax.random.split, or nnx.Rngs", f"{len(alike)} pairs")]


def _torch_alike(arrays: Sequence[np.ndarray | None], alarm: Alarm) -> bool:
    first, second = arrays
    return first is not None and second is not None and _together(first, second, False) < alarm.threshold


def _together(first: np.ndarray, second: np.ndarray, fixed: bool) -> float:
    """The p-value of independence, by the ranks of the first values of each draw."""
    a, b = (array[: 1 if fixed else 16].reshape(1 if fixed else min(16, len(array)), -1) for array in (first, second))
    size = min(a.shape[1], b.shape[1], _PREFIX)
    return correlation(_ranks(a[:, :size]), _ranks(b[:, :size]))


def _ranks(array: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(array, axis=None)).astype(np.float64)
