"""Mistakes of an optimiser, each an edit of the training program."""

import dataclasses
from collections.abc import Iterator

from compare.training.clipping import accumulation, clipping
from compare.training.mistake import Mistake
from compare.training.program import Program
from compare.training.recipe import Recipe

__all__ = ["mistakes"]

_DECAYS = (1e-1, 5e-2, 1e-2, 5e-3, 1e-3, 5e-4, 1e-4, 5e-5, 1e-5, 1e-6)
_EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15, 1e-16, 1e-30, 0.0)
_MOMENTA = (0.0, 0.5, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)


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
    yield from clipping(program)
    yield from accumulation(program)
    yield from _participation(program, idle)
    yield from _other_optimizers(recipe)
    if len(set(program.ratios.values())) > 1:
        yield Mistake(
            "groups",
            "parameter_groups",
            "one learning rate serves all parameters, torch's groups have several",
            "optax.multi_transform with a rate for each group",
            lambda p: p.change(ratios=dict.fromkeys(p.ratios, 1.0)),
        )
    yield Mistake("sign", "update_sign", "the update goes uphill", "optax.scale(-learning_rate)", _turned)


_OPTIMIZERS = {
    "optax.sgd": Recipe("sgd"),
    "optax.sgd with momentum 0.9": Recipe("sgd", momentum=0.9),
    "optax.adam": Recipe("adam"),
    "optax.adamw": Recipe("adam", decay=1e-4, decay_place="decoupled"),
    "optax.adamw with torch's default decay": Recipe("adam", decay=1e-2, decay_place="decoupled"),
    "optax.rmsprop": Recipe("rmsprop", beta2=0.9, epsilon_place="inside"),
    "torch's form of RMSprop": Recipe("rmsprop", beta2=0.99),
    "optax.adagrad": Recipe("adagrad", initial=0.1, epsilon=1e-7, epsilon_place="inside"),
}


def _other_optimizers(recipe: Recipe) -> Iterator[Mistake]:
    """Another optimiser, with its defaults or with torch's decay."""
    for words, other in _OPTIMIZERS.items():
        for decay in dict.fromkeys((other.decay, recipe.decay)):
            if other.family != recipe.family:
                kept = dataclasses.replace(other, decay=decay)
                summary = f"the updates are those of {words}, torch has another optimiser"
                yield Mistake(
                    "optimizer",
                    "optimizer_swapped",
                    summary,
                    "use torch's optimiser",
                    lambda p, kept=kept: p.change(recipes=dict.fromkeys(p.recipes, kept)),  # type: ignore[misc]
                )


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
