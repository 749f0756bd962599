"""How the learning rate goes on: factors of the number of steps taken, by name.

| name     | factor after t of T steps                | PyTorch                        |
|----------|------------------------------------------|--------------------------------|
| constant | 1                                        |                                |
| cosine   | (1 + cos(π t / T)) / 2                   | ``CosineAnnealingLR(T_max=T)`` |
| step     | ``decay`` to the power ``t // every``    | ``StepLR(every, decay)``       |

With a warm-up of W steps the factor first rises along (t + 1) / W; then the schedule runs over the other T - W.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fcjax.config import SCHEDULES, UsageError

__all__ = ["Schedule", "make_schedule"]

Schedule = Callable[[jax.Array], jax.Array]


def make_schedule(name: str, steps: int, *, warmup: int = 0, every: int = 1, decay: float = 0.1) -> Schedule:
    """The factor on the learning rate as a function of the number of steps taken.

    Args:
        name: constant, cosine (Loshchilov and Hutter 2017, without restarts) or step.
        steps: of the whole run; afterwards a cosine stays at 0.
        warmup: steps of the linear rise, counted in ``steps``.
        every, decay: of the schedule ``step``.

    Returns:
        A function from an integer scalar to a floating-point scalar, in the widest precision that is enabled.

    Raises:
        UsageError: an unknown name, or a warm-up that fills the run.
    """
    if name not in SCHEDULES:
        raise UsageError(f"schedule: expected one of {', '.join(SCHEDULES)}; found {name!r}")
    if not 0 <= warmup < steps:
        raise UsageError(f"warmup: expected fewer than the {steps} steps of the run, found {warmup}")

    def schedule(count: jax.Array) -> jax.Array:
        t = jnp.maximum(count - warmup, 0).astype(float)
        factor = jnp.ones_like(t)
        if name == "cosine":
            factor = (1 + jnp.cos(jnp.pi * jnp.minimum(t / (steps - warmup), 1))) / 2
        elif name == "step":
            factor = decay ** jnp.floor(t / every)
        return jnp.where(count < warmup, (count + 1).astype(float) / warmup, factor) if warmup else factor

    return schedule
