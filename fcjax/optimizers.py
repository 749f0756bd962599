"""Optimisers by name, with PyTorch's rules and defaults where optax has others.

| name     | PyTorch                   | step, with g the gradient                               |
|----------|---------------------------|---------------------------------------------------------|
| sgd      | ``SGD(lr)``               | p - lr g; with momentum μ: b = μ b + g, p - lr b        |
| momentum | ``SGD(lr, momentum=0.9)`` | the same                                                |
| adam     | ``Adam(lr)``              | p - lr m̂ / (√v̂ + 1e-8)                                  |
| adamw    | ``AdamW(lr)``             | p - lr (m̂ / (√v̂ + 1e-8) + λ p), λ = 1e-2                |
| rmsprop  | ``RMSprop(lr)``           | v = 0.99 v + 0.01 g², p - lr g / (√v + 1e-8)            |

Everywhere but in adamw, weight decay λ is L2: it is added to the gradient, g + λ p. Optax has decay 1e-4 in adamw, and
decay 0.9 and the epsilon inside the root in rmsprop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fcjax.config import UsageError
from fcjax.schedules import Schedule

__all__ = ["DECAYS", "OPTIMIZERS", "OptimizerState", "clip_by_norm", "make_optimizer"]


class OptimizerState(NamedTuple):
    """State of ``make_optimizer``: replicas may differ in ``numbers``.

    Args:
        made: number of updates so far, an int32 scalar.
        numbers: ``learning_rate`` and, where they are in use, ``weight_decay`` and ``clip_norm``; scalars.
        moments: of the rule.
    """

    made: jax.Array
    numbers: dict[str, jax.Array]
    moments: Any


def _sgd(momentum: float, nesterov: bool) -> optax.GradientTransformation:
    return optax.trace(momentum, nesterov) if momentum else optax.identity()


def _adam(momentum: float, nesterov: bool) -> optax.GradientTransformation:
    return _scale_by_adam(decay=0.9, square_decay=0.999, epsilon=1e-8)


def _scale_by_adam(decay: float, square_decay: float, epsilon: float) -> optax.GradientTransformation:
    """``m̂ / (√v̂ + ε)``, with the state of ``optax.scale_by_adam``.

    Optax divides every number three times, which on a CPU takes longer than its memory traffic. Here, as in PyTorch,
    the corrections are folded into two scalars: ``(1 / c₁) m / (√v / √c₂ + ε)`` with ``cᵢ = 1 - βᵢᵗ``.
    """
    plain = optax.scale_by_adam(decay, square_decay, epsilon)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = optax.safe_increment(state.count)
        mean = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, state.mu, gradients)
        square = jax.tree.map(lambda v, g: square_decay * v + (1 - square_decay) * jnp.square(g), state.nu, gradients)

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            steps = count.astype(m.dtype)
            step_size = 1 / (1 - decay**steps)
            shrink = jax.lax.rsqrt(1 - square_decay**steps)
            return step_size * m / (jnp.sqrt(v) * shrink + epsilon)

        return jax.tree.map(direction, mean, square), optax.ScaleByAdamState(count, mean, square)

    return optax.GradientTransformation(plain.init, update)


def _rmsprop(momentum: float, nesterov: bool) -> optax.GradientTransformation:
    scaled = optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False)
    return optax.chain(scaled, optax.trace(momentum)) if momentum else scaled


# Name -> the direction, to which the learning rate is applied.
OPTIMIZERS: dict[str, Callable[[float, bool], optax.GradientTransformation]] = {
    "sgd": _sgd,
    "momentum": _sgd,
    "adam": _adam,
    "adamw": _adam,
    "rmsprop": _rmsprop,
}
# PyTorch's default weight decay where it is not zero.
DECAYS = {"adamw": 1e-2}


def make_optimizer(
    name: str,
    learning_rate: float,
    *,
    schedule: Schedule | None = None,
    weight_decay: float | None = None,
    decay_biases: bool = True,
    momentum: float | None = None,
    nesterov: bool = False,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """The optimiser called ``name``.

    Args:
        name: a key of ``OPTIMIZERS``.
        learning_rate: step size.
        schedule: factor on the step size, from the number of updates made; None for 1.
        weight_decay: as in PyTorch, decoupled in adamw and L2 elsewhere; None for PyTorch's default.
        decay_biases: False spares everything that has fewer than two axes: biases and the scales of norms.
        momentum: of sgd, momentum and rmsprop; None for PyTorch's default (0.9 in momentum).
        nesterov: looks ahead along the momentum (sgd, momentum).
        clip_norm: largest norm of all gradients together, before decay; None leaves them.

    Raises:
        UsageError: an unknown name, or a setting that this optimiser does not have.
    """
    if name not in OPTIMIZERS:
        raise UsageError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}; found {name!r}")
    if momentum and OPTIMIZERS[name] is _adam:
        raise UsageError(f"momentum: expected with sgd, momentum or rmsprop, found with {name}")
    momentum = (0.9 if name == "momentum" else 0.0) if momentum is None else momentum
    if nesterov and not (OPTIMIZERS[name] is _sgd and momentum > 0):
        raise UsageError(f"nesterov: expected with sgd and a momentum above 0, found with {name} and {momentum}")
    decay = DECAYS.get(name, 0.0) if weight_decay is None else weight_decay
    given = {"learning_rate": learning_rate, "weight_decay": decay or None, "clip_norm": clip_norm}
    rule = OPTIMIZERS[name](momentum, nesterov)

    def init(params: Any) -> OptimizerState:
        numbers = {key: jnp.asarray(value, float) for key, value in given.items() if value is not None}
        return OptimizerState(jnp.zeros((), jnp.int32), numbers, rule.init(params))

    def update(gradients: Any, state: OptimizerState, params: Any) -> tuple[Any, OptimizerState]:
        numbers = state.numbers

        def decayed(tree: Any) -> Any:
            if "weight_decay" not in numbers:
                return tree
            spared = lambda p: not decay_biases and p.ndim < 2  # noqa: E731
            factor = numbers["weight_decay"]
            return jax.tree.map(lambda g, p: g if spared(p) else g + factor.astype(p.dtype) * p, tree, params)

        if "clip_norm" in numbers:
            gradients = clip_by_norm(gradients, numbers["clip_norm"])
        coupled = name != "adamw"
        direction, moments = rule.update(decayed(gradients) if coupled else gradients, state.moments, params)
        direction = direction if coupled else decayed(direction)
        rate = numbers["learning_rate"] * (1.0 if schedule is None else schedule(state.made))
        updates = jax.tree.map(lambda d: -rate.astype(d.dtype) * d, direction)
        return updates, OptimizerState(state.made + 1, numbers, moments)

    return optax.GradientTransformation(init, update)


def clip_by_norm(gradients: Any, largest: jax.Array | float) -> Any:
    """``g min(1, largest / (‖g‖ + 1e-6))``, the norm over all arrays: ``torch.nn.utils.clip_grad_norm_``."""
    norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(gradients)))
    factor = jnp.minimum(1.0, largest / (norm + 1e-6))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients)
