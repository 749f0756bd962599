"""An optimiser as plain data, and one step of it: what hypotheses edit.

The step is written out for one array at a time, so that a mistake is a changed field and nothing has to be run again:
it is fed the gradients and parameters that the Flax loop recorded, and must give that loop's updates.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

__all__ = ["Recipe", "recipe_of", "step"]

State = dict[str, np.ndarray]
DecayPlace = Literal["gradient", "after momentum", "decoupled", "added", "unscaled"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one parameter is updated: ``p ← p - rate · direction + extra``.

    Args:
        family: "sgd", "adam", "rmsprop" or "adagrad".
        decay: weight decay.
        decay_place: "gradient" (L2), "after momentum", "decoupled" (AdamW), "added" (to the finished update, with the
            wrong sign) or "unscaled" (subtracted without the learning rate).
        momentum, dampening, nesterov: of SGD and RMSprop.
        average: momentum as a running average, ``m b + (1 - m) g``.
        debias: the running average is divided by ``1 - m^t``.
        beta1, beta2: of Adam; beta2 is also RMSprop's alpha.
        epsilon: in the denominator.
        epsilon_place: "outside" the root, "inside" it, or "uncorrected": added before the bias correction.
        correct1, correct2: bias corrections of Adam.
        centered: RMSprop by the variance.
        initial: of the accumulator of squares.
        rate_inside: the learning rate enters the momentum, not the finished update.
        maximize: the sign is turned.
        rate_decay: of Adagrad.
    """

    family: str
    decay: float = 0.0
    decay_place: DecayPlace = "gradient"
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    average: bool = False
    debias: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_place: Literal["outside", "inside", "uncorrected"] = "outside"
    correct1: bool = True
    correct2: bool = True
    centered: bool = False
    initial: float = 0.0
    rate_inside: bool = False
    maximize: bool = False
    rate_decay: float = 0.0
    amsgrad: bool = False


# Class of the torch optimiser -> family.
_FAMILIES = {"SGD": "sgd", "Adam": "adam", "AdamW": "adam", "RMSprop": "rmsprop", "Adagrad": "adagrad", "NAdam": "adam"}


def recipe_of(optimizer: type, settings: Mapping[str, Any]) -> Recipe | None:
    """The recipe of a parameter of a torch optimiser; None for a class that is not known here.

    Args:
        optimizer: its class.
        settings: of the parameter's group.
    """
    name = optimizer.__name__
    if name not in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad"):
        return None
    decoupled = name == "AdamW" or bool(settings.get("decoupled_weight_decay", False))
    beta1, beta2 = settings.get("betas", (0.9, settings.get("alpha", 0.999)))
    return Recipe(
        family=_FAMILIES[name],
        decay=float(settings.get("weight_decay", 0.0)),
        decay_place="decoupled" if decoupled else "gradient",
        momentum=float(settings.get("momentum", 0.0)),
        dampening=float(settings.get("dampening", 0.0)),
        nesterov=bool(settings.get("nesterov", False)),
        beta1=float(beta1),
        beta2=float(beta2),
        epsilon=float(settings.get("eps", 0.0)),
        centered=bool(settings.get("centered", False)),
        initial=float(settings.get("initial_accumulator_value", 0.0)),
        maximize=bool(settings.get("maximize", False)),
        rate_decay=float(settings.get("lr_decay", 0.0)),
        amsgrad=bool(settings.get("amsgrad", False)),
    )


def step(
    recipe: Recipe, state: State, gradient: np.ndarray, parameter: np.ndarray, count: int, rate: float
) -> tuple[np.ndarray, np.ndarray, State]:
    """One step: the direction that the rate multiplies, what is added beside it, and the state afterwards.

    Args:
        recipe: of this parameter.
        state: of this parameter; empty at the start.
        gradient: after clipping.
        parameter: before the step.
        count: of this step, from 1.
        rate: only for a recipe that keeps the rate inside the momentum, relative to the step's own.
    """
    g = -gradient if recipe.maximize else gradient
    if recipe.decay_place == "gradient":
        g = g + recipe.decay * parameter
    direction, state = _RULES[recipe.family](recipe, state, g, count, rate)
    if recipe.decay_place in ("decoupled", "after momentum"):
        direction = direction + recipe.decay * parameter
    sign = {"added": 1.0, "unscaled": -1.0}.get(recipe.decay_place, 0.0)
    return direction, sign * recipe.decay * parameter, state


def _momentum(recipe: Recipe, state: State, g: np.ndarray, count: int, rate: float) -> tuple[np.ndarray, State]:
    if not recipe.momentum:
        return g, {}
    m = recipe.momentum
    fed = g * rate if recipe.rate_inside else g
    if recipe.average:
        buffer = m * state.get("buffer", np.zeros_like(g)) + (1 - m) * fed
    elif "buffer" not in state:
        buffer = fed
    else:
        buffer = m * state["buffer"] + (1 - recipe.dampening) * fed
    direction = fed + m * buffer if recipe.nesterov else buffer
    if recipe.debias:
        direction = direction / (1 - m**count)
    return direction / rate if recipe.rate_inside and rate else direction, {"buffer": buffer}


def _adam(recipe: Recipe, state: State, g: np.ndarray, count: int, rate: float) -> tuple[np.ndarray, State]:
    zeros = np.zeros_like(g)
    first = recipe.beta1 * state.get("first", zeros) + (1 - recipe.beta1) * g
    second = recipe.beta2 * state.get("second", zeros + recipe.initial) + (1 - recipe.beta2) * g * g
    after = {"first": first, "second": second}
    largest = second
    if recipe.amsgrad:
        largest = after["largest"] = np.maximum(state.get("largest", zeros), second)
    bias1 = 1 - recipe.beta1**count if recipe.correct1 else 1.0
    bias2 = 1 - recipe.beta2**count if recipe.correct2 else 1.0
    numerator = first / bias1
    if recipe.nesterov:
        ahead = 1 - recipe.beta1 ** (count + 1) if recipe.correct1 else 1.0
        numerator = recipe.beta1 * first / ahead + (1 - recipe.beta1) * g / bias1
    return numerator / _root(recipe, largest, bias2), after


def _root(recipe: Recipe, square: np.ndarray, bias: float) -> np.ndarray:
    if recipe.epsilon_place == "inside":
        return np.sqrt(square / bias + recipe.epsilon)
    if recipe.epsilon_place == "uncorrected":
        return (np.sqrt(square) + recipe.epsilon) / np.sqrt(bias)
    return np.sqrt(square / bias) + recipe.epsilon


def _rmsprop(recipe: Recipe, state: State, g: np.ndarray, count: int, rate: float) -> tuple[np.ndarray, State]:
    zeros = np.zeros_like(g)
    square = recipe.beta2 * state.get("square", zeros + recipe.initial) + (1 - recipe.beta2) * g * g
    after = {"square": square}
    if recipe.centered:
        after["mean"] = recipe.beta2 * state.get("mean", zeros) + (1 - recipe.beta2) * g
        square = square - after["mean"] ** 2
    direction, more = _momentum(recipe, state, g / _root(recipe, square, 1.0), count, rate)
    return direction, after | more


def _adagrad(recipe: Recipe, state: State, g: np.ndarray, count: int, rate: float) -> tuple[np.ndarray, State]:
    total = state.get("sum", np.zeros_like(g) + recipe.initial) + g * g
    denominator = _root(recipe, total, 1.0)
    direction = np.divide(g, denominator, out=np.zeros_like(g), where=denominator > 0)
    return direction / (1 + (count - 1) * recipe.rate_decay), {"sum": total}


def _sgd(recipe: Recipe, state: State, g: np.ndarray, count: int, rate: float) -> tuple[np.ndarray, State]:
    return _momentum(recipe, state, g, count, rate)


_RULES = {"sgd": _sgd, "adam": _adam, "rmsprop": _rmsprop, "adagrad": _adagrad}
