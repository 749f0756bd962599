"""Mistakes of a training loop, each an edit of its program."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from compare.training.program import Program
from compare.training.recipe import Recipe
from compare.training.trajectory import Clip

__all__ = ["Mistake", "mistakes"]

_DECAYS = (1e-1, 5e-2, 1e-2, 5e-3, 1e-3, 5e-4, 1e-4, 5e-5, 1e-5, 1e-6)
_EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15, 1e-16, 1e-30, 0.0)
_MOMENTA = (0.0, 0.5, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One mistake, as the program that contains it.

    Args:
        slot: what it edits; two mistakes of one slot exclude each other.
        name, summary, fix: of the cause.
        edit: from the right program to the one with the mistake.
    """

    slot: str
    name: str
    summary: str
    fix: str
    edit: Callable[[Program], Program]


def mistakes(program: Program, matrices: frozenset[str], idle: frozenset[str]) -> Iterator[Mistake]:
    """Every mistake that the port of ``program`` may contain.

    Args:
        program: torch's.
        matrices: parameters with two axes or more.
        idle: parameters that Flax never moves.
    """
    recipe = next(iter(program.recipes.values()))
    yield from _decay(program, recipe, matrices)
    if recipe.family != "sgd":
        yield from _epsilon(recipe)
    if recipe.family == "adam":
        yield from _adam(recipe)
    if recipe.family == "rmsprop":
        yield from _rmsprop(recipe)
    if recipe.family == "adagrad":
        yield from _accumulator(recipe, (0.0, 0.1, 1.0))
    if recipe.family in ("sgd", "rmsprop"):
        yield from _momentum(recipe)
    yield from _clip(program)
    yield from _accumulation(program)
    yield from _participation(program, idle)
    yield Mistake("sign", "update_sign", "the update goes uphill", "optax.scale(-learning_rate)", _turned)


def _turned(program: Program) -> Program:
    return program.change(
        recipes={p: dataclasses.replace(r, maximize=not r.maximize) for p, r in program.recipes.items()}
    )


def _every(slot: str, name: str, summary: str, fix: str, **fields: object) -> Mistake:
    return Mistake(slot, name, summary, fix, lambda program: program.every(**fields))


def _with_decay(program: Program, decay: float, only: frozenset[str] | None = None, **fields: object) -> Program:
    """Every recipe with this decay; where ``only`` is given, none for the others."""

    def changed(path: str, recipe: Recipe) -> Recipe:
        mine = decay if only is None or path in only else 0.0
        return dataclasses.replace(recipe, decay=mine, **fields)  # type: ignore[arg-type]

    return program.change(recipes={path: changed(path, recipe) for path, recipe in program.recipes.items()})


_PLACES: dict[str, tuple[str, str, str]] = {
    "gradient": (
        "decay_l2_for_decoupled",
        "the decay is added to the gradient (L2), torch's is decoupled",
        "optax.adamw, or optax.add_decayed_weights after the moments",
    ),
    "decoupled": (
        "decay_decoupled_for_l2",
        "the decay is decoupled (optax.adamw), torch adds it to the gradient (L2)",
        "optax.chain(optax.add_decayed_weights(decay), optax.adam(...))",
    ),
    "after momentum": (
        "decay_after_momentum",
        "the decay is added after the momentum, torch adds it to the gradient before",
        "put optax.add_decayed_weights first in the chain",
    ),
    "added": (
        "decay_sign",
        "the decay is added to the finished update: it makes the weights grow, and knows no learning rate",
        "put optax.add_decayed_weights before the scaling by -learning_rate",
    ),
    "unscaled": (
        "decay_unscaled",
        "the decay is subtracted without the learning rate",
        "put optax.add_decayed_weights before the scaling by -learning_rate",
    ),
}


def _decay(program: Program, recipe: Recipe, matrices: frozenset[str]) -> Iterator[Mistake]:
    decays = {r.decay for r in program.recipes.values()}
    given = max(decays)
    places = ["gradient", "decoupled" if recipe.family != "sgd" else "after momentum", "added", "unscaled"]
    if recipe.momentum and recipe.family == "rmsprop":
        places.append("after momentum")
    values = [given, *(v for v in _DECAYS if v != given), *((2 * given, given / 2) if given else ())]
    for place in places:
        same_place = place == recipe.decay_place
        name, summary, fix = _PLACES[place]
        for value in values:
            if not value or (same_place and value == given):
                continue
            default = value == 1e-4 and given == 1e-2
            words = f"the weight decay is {value:g}, torch's is {given:g}" + (
                " (1e-4 is optax.adamw's default, 1e-2 torch's)" if default else ""
            )
            if same_place or not given:
                kind = "decay_value" if given else "decay_extra"
                place_words = "" if same_place else f"; {summary}"
                yield _decay_mistake(kind, words + place_words, f"weight_decay={given:g}", value, place, None)
            else:
                both = summary if value == given else f"{summary}; and {words}"
                yield _decay_mistake(name, both, fix, value, place, None)
    if given:
        yield _decay_mistake("decay_missing", "there is no weight decay", f"weight_decay={given:g}", 0.0, None, None)
        groups = "decay exactly the parameters that torch's groups decay: optax.add_decayed_weights(..., mask=...)"
        everywhere = frozenset(program.recipes)
        for only, words in ((matrices, "only matrices are decayed, not biases and scales"), (everywhere, "all are")):
            mine = {path for path, r in program.recipes.items() if r.decay}
            if set(only) != mine:
                summary = f"the weight decay reaches other parameters than in torch: {words}"
                yield _decay_mistake("decay_mask", summary, groups, given, None, only)


def _decay_mistake(
    name: str, summary: str, fix: str, value: float, place: str | None, only: frozenset[str] | None
) -> Mistake:
    fields = {} if place is None else {"decay_place": place}

    def edit(program: Program) -> Program:
        mine = only
        if mine is None and any(r.decay for r in program.recipes.values()):
            mine = frozenset(path for path, r in program.recipes.items() if r.decay)
        return _with_decay(program, value, mine, **fields)

    return Mistake("decay", name, summary, fix, edit)


def _epsilon(recipe: Recipe) -> Iterator[Mistake]:
    here = recipe.epsilon
    for value in (here, *(e for e in _EPSILONS if e != here)):
        for place in ("outside", "inside", "uncorrected"):
            if (place == recipe.epsilon_place and value == here) or (
                place == "uncorrected" and recipe.family != "adam"
            ):
                continue
            other = f"epsilon is {value:g}, torch's is {here:g}"
            if place == "outside":
                yield _every("epsilon", "epsilon_value", other, f"eps={here:g}", epsilon=value, epsilon_place=place)
                continue
            where = {
                "inside": ("epsilon_inside_root", "epsilon stands inside the root, torch's outside"),
                "uncorrected": ("epsilon_uncorrected", "epsilon is added before the bias correction, torch's after it"),
            }[place]
            fix = "eps_in_sqrt=False, eps_root=0: add epsilon to the root of the corrected second moment"
            words = where[1] if value == here else f"{where[1]}; and {other}"
            yield _every("epsilon", where[0], words, fix, epsilon=value, epsilon_place=place)


def _adam(recipe: Recipe) -> Iterator[Mistake]:
    b1, b2 = recipe.beta1, recipe.beta2
    swapped = f"the betas are swapped: b1={b2:g}, b2={b1:g}"
    yield _every("beta1", "betas_swapped", swapped, f"b1={b1:g}, b2={b2:g}", beta1=b2, beta2=b1)
    for value in (v for v in _MOMENTA if v != b1):
        yield _every("beta1", "beta1_value", f"b1 is {value:g}, torch's is {b1:g}", f"b1={b1:g}", beta1=value)
    for value in (v for v in _MOMENTA if v != b2):
        yield _every("beta2", "beta2_value", f"b2 is {value:g}, torch's is {b2:g}", f"b2={b2:g}", beta2=value)
    missing = "bias_correction_missing"
    fix = "divide the moments by 1 - b1^t and 1 - b2^t, as optax.scale_by_adam does"
    yield _every("bias", missing, "neither moment is bias-corrected", fix, correct1=False, correct2=False)
    yield _every("bias", missing, "the first moment is not bias-corrected", fix, correct1=False)
    yield _every("bias", missing, "the second moment is not bias-corrected", fix, correct2=False)
    nesterov = "Nesterov's form of Adam (NAdam) stands where torch has the plain one"
    yield _every("nesterov", "nesterov_extra", nesterov, "nesterov=False", nesterov=True)
    if recipe.amsgrad:
        yield _every("amsgrad", "amsgrad_missing", "AMSGrad's maximum is missing", "optax.amsgrad", amsgrad=False)
    else:
        yield _every("amsgrad", "amsgrad_extra", "this is AMSGrad, torch's is plain", "optax.adam", amsgrad=True)


def _rmsprop(recipe: Recipe) -> Iterator[Mistake]:
    here = recipe.beta2
    for value in (v for v in _MOMENTA if v != here):
        summary = f"the decay of the mean square is {value:g}, torch's alpha is {here:g}"
        default = " (0.9 is optax's default, 0.99 torch's)" if (value, here) == (0.9, 0.99) else ""
        yield _every("beta2", "rmsprop_decay", summary + default, f"decay={here:g}", beta2=value)
    words = "is not centred" if recipe.centered else "is centred"
    yield _every(
        "centered",
        "rmsprop_centered",
        f"RMSprop {words}, torch's is otherwise",
        f"centered={recipe.centered}",
        centered=not recipe.centered,
    )
    yield from _accumulator(recipe, (1.0, 0.1))


def _accumulator(recipe: Recipe, values: tuple[float, ...]) -> Iterator[Mistake]:
    for value in (v for v in values if v != recipe.initial):
        yield _every(
            "initial",
            "accumulator_start",
            f"the accumulator of squares starts at {value:g}, torch's at {recipe.initial:g}",
            f"initial_accumulator_value={recipe.initial:g}, or initial_scale={recipe.initial:g}",
            initial=value,
        )


def _momentum(recipe: Recipe) -> Iterator[Mistake]:
    m = recipe.momentum
    for value in (v for v in _MOMENTA if v != m):
        name = "momentum_value" if value and m else "momentum_extra" if value else "momentum_missing"
        summary = f"the momentum is {value:g}, torch's is {m:g}" if value else "there is no momentum"
        yield _every("momentum", name, summary, f"momentum={m:g}", momentum=value, dampening=0.0)
    if not m:
        return
    average = "the momentum is a running average (optax.ema): each gradient is scaled by 1 - momentum"
    trace = "optax.trace(decay=momentum), which torch's SGD has"
    yield _every("momentum", "momentum_average", average, trace, average=True, dampening=0.0)
    debiased = f"{average}, with its bias corrected"
    yield _every("momentum", "momentum_average", debiased, trace, average=True, debias=True, dampening=0.0)
    for value in {0.0, m, 1 - m} - {recipe.dampening}:
        summary = f"the dampening is {value:g}, torch's is {recipe.dampening:g}"
        yield _every("momentum", "dampening", summary, "scale the gradients by 1 - dampening", dampening=value)
    words = (
        ("nesterov_missing", "Nesterov's momentum is missing")
        if recipe.nesterov
        else (
            "nesterov_extra",
            "the momentum is Nesterov's, torch's is plain",
        )
    )
    yield _every("nesterov", *words, f"nesterov={recipe.nesterov}", nesterov=not recipe.nesterov)
    inside = "the learning rate enters the momentum, so that a changed rate acts late; torch applies it last"
    yield _every("rate", "rate_before_momentum", inside, "scale by the rate after optax.trace", rate_inside=True)


def _clip(program: Program) -> Iterator[Mistake]:
    clip = program.clip
    if clip is not None:
        summary = "the gradients are not clipped"
        yield Mistake("clip", "clip_missing", summary, "clip first in the chain", lambda p: p.change(clip=None))
    if not isinstance(clip, Clip):
        if clip is None:
            yield from _clip_extra()
        return
    c = clip.value
    if clip.kind == "norm":
        yield Mistake(
            "clip",
            "clip_epsilon",
            "torch divides by the norm + 1e-6, optax.clip_by_global_norm by the norm itself",
            "accept it as an expected failure, or clip by norm + 1e-6",
            lambda p: p.change(clip_epsilon=0.0),
        )
        other: tuple[str, str, Clip] = ("clip_value_for_norm", "clipped by value", Clip("value", c))
        right = "optax.clip_by_global_norm"
    else:
        other, right = ("clip_norm_for_value", "clipped by their global norm", Clip("norm", c)), "optax.clip"
    summary = f"the gradients are {other[1]}, torch clips by {clip.kind}"
    for epsilon in (0.0, 1e-6):
        if clip.kind == "norm" or other[2].kind == "norm":
            yield _clip_mistake(other[0], summary, right, clip=other[2], clip_epsilon=epsilon)
        places = {
            "parameter": ("clip_per_parameter", "each parameter is clipped by its own norm, torch by the norm of all"),
            "always": ("clip_always", "gradients below the largest norm are scaled up to it"),
            "batch": ("clip_before_accumulation", "each batch is clipped before accumulation, torch clips the sum"),
            "update": ("clip_after_moments", "the update is clipped after the moments, torch clips the gradient"),
        }
        for place, (name, words) in places.items():
            if place == "batch" and program.accumulate == 1:
                continue
            yield _clip_mistake(name, words, f"{right} first in the chain", clip_epsilon=epsilon, clip_place=place)
        for factor in (0.01, 0.1, 0.2, 0.5, 2.0, 5.0, 10.0, 100.0):
            words = f"the gradients are clipped at {c * factor:g}, torch clips at {c:g}"
            fields = {"clip": Clip(clip.kind, c * factor), "clip_epsilon": epsilon}
            yield _clip_mistake("clip_threshold", words, f"{right}({c:g})", **fields)


def _clip_mistake(name: str, summary: str, fix: str, **fields: object) -> Mistake:
    return Mistake("clip", name, summary, fix, lambda program: program.change(**fields))


def _clip_extra() -> Iterator[Mistake]:
    for value in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0):
        for kind in ("norm", "value"):
            summary = f"the gradients are clipped by {kind} at {value:g}, torch does not clip"
            clip = Clip(kind, value)
            yield _clip_mistake("clip_extra", summary, "leave the clipping out", clip=clip, clip_epsilon=0.0)


def _accumulation(program: Program) -> Iterator[Mistake]:
    k = program.accumulate
    if k > 1:
        yield Mistake(
            "accumulation",
            "accumulation_mean",
            f"optax.MultiSteps averages the gradients of {k} batches, torch's backward adds them up",
            f"multiply the gradients by {k}, or divide torch's loss by {k}",
            lambda p: p.change(reduce="mean"),
        )
    for other in (1, 2, 3, 4, 8):
        if other == k:
            continue
        name = "accumulation_missing" if other == 1 else "accumulation_steps" if k > 1 else "accumulation_extra"
        summary = f"an optimiser step every {other} batches, torch steps every {k}"
        for reduce in ("sum", "mean"):
            fix = f"optax.MultiSteps(..., every_k_schedule={k})"
            yield Mistake("accumulation", name, summary, fix, functools.partial(_every_batches, other, reduce))


def _every_batches(batches: int, reduce: Any, program: Program) -> Program:
    rates = [rate for rate in program.rates for _ in range(program.accumulate)]
    return program.change(accumulate=batches, reduce=reduce, rates=tuple(rates[batches - 1 :: batches]))


def _participation(program: Program, idle: frozenset[str]) -> Iterator[Mistake]:
    if program.skipped:
        names = ", ".join(sorted(program.skipped))
        yield Mistake(
            "skipped",
            "unused_parameter_moved",
            f"{names}: torch has no gradient (None) and leaves it alone; here weight decay or momentum moves it",
            "mask it: optax.masked, or a zero update by optax.multi_transform",
            lambda p: p.change(skipped=frozenset()),
        )
    still = idle - program.skipped
    if still and still != frozenset(program.recipes):
        yield Mistake(
            "frozen",
            "parameter_not_trained",
            f"{', '.join(sorted(still))}: never moved, though torch trains it",
            "let the optimiser reach it: look at optax.masked, multi_transform, nnx.Param filters",
            lambda p: p.change(frozen=still),
        )
