"""Mistakes that only gradients show: stopped, scaled, passed straight through."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from compare.hypotheses.edit import CallSite
from compare.hypotheses.variant import Variant, after, on_operand

__all__ = ["gradient_changes"]


def gradient_changes(site: CallSite) -> Iterator[Variant]:
    """The same values with other gradients."""
    name = site.function
    where = {"entering": "before the module", "returning": "at the end of the model"}.get(name, f"after {name}")
    yield "gradient_stopped", f"the gradient is stopped {where}", "remove the stop_gradient", after(torch.detach)
    for number, parameter in enumerate(site.parameters[:6]):
        words = parameter or f"argument {number} of {name}"
        yield (
            "gradient_stopped",
            f"the gradient is stopped at {words}",
            "remove the stop_gradient",
            on_operand(number, torch.detach),
        )
    for factor in (0.5, 2.0, -1.0, 0.1, 10.0):
        words = "reversed" if factor < 0 else f"multiplied by {factor:g}"
        yield (
            "gradient_scaled",
            f"the gradient through {name} is {words}",
            "remove what changes it (a stop_gradient on a part, a custom rule)",
            after(_scaled(factor)),
        )
    if site.shapes and site.shapes[0] == site.result and name != "detach":
        yield (
            "gradient_straight_through",
            f"the gradient passes {name} as if it were the identity",
            f"differentiate {name}",
            _straight,
        )
    if name == "detach":
        yield (
            "gradient_not_stopped",
            "the gradient flows where torch stops it with detach()",
            "jax.lax.stop_gradient",
            lambda func, args, kwargs: args[0],
        )


def _scaled(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: factor * x + ((1 - factor) * x).detach()


def _straight(func: Any, args: Any, kwargs: Any) -> Any:
    return args[0] + (func(*args, **kwargs) - args[0]).detach()
