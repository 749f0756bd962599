"""Optimisers and learning-rate schedules by name; optimisers with PyTorch's defaults where optax has others.

| name     | PyTorch                        | differs from optax's default in            |
|----------|--------------------------------|--------------------------------------------|
| sgd      | ``SGD(lr)``                    |                                            |
| momentum | ``SGD(lr, momentum=0.9)``      |                                            |
| adam     | ``Adam(lr)``                   |                                            |
| adamw    | ``AdamW(lr)``                  | decay 1e-2 (optax 1e-4)                    |
| rmsprop  | ``RMSprop(lr)``                | decay 0.99 (0.9), epsilon outside the root |
"""

from collections.abc import Callable
from typing import Any

import optax

from fcjax.config import UsageError

__all__ = ["OPTIMIZERS", "make_optimizer", "make_schedule"]

Rate = float | Callable[..., Any]

OPTIMIZERS: dict[str, Callable[[Rate], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": lambda rate: optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8),
    "adamw": lambda rate: optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2),
    "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.99, eps=1e-8, eps_in_sqrt=False),
}


def make_optimizer(name: str, learning_rate: Rate) -> optax.GradientTransformation:
    """The optimiser called ``name``.

    Args:
        name: a key of ``OPTIMIZERS``.
        learning_rate: a number, or a function of the number of steps taken.

    Raises:
        UsageError: for an unknown name; the message lists those that exist.
    """
    if name not in OPTIMIZERS:
        raise UsageError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}; found {name!r}")
    return OPTIMIZERS[name](learning_rate)


def make_schedule(name: str, learning_rate: float, steps: int) -> Rate:
    """The learning rate over a run of ``steps`` steps.

    - ``"constant"``: ``r(t) = learning_rate``
    - ``"cosine"``: ``r(t) = learning_rate (1 + cos(π t / steps)) / 2`` (Loshchilov & Hutter 2017, without restarts)

    Raises:
        UsageError: for an unknown name.
    """
    if name == "constant":
        return learning_rate
    if name == "cosine":
        return optax.cosine_decay_schedule(learning_rate, steps)
    raise UsageError(f"schedule: expected cosine or constant; found {name!r}")
