"""Mistakes in a loss: what torch's loss function would compute with each of them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["LOSSES", "EditLoss"]

Replacement = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class EditLoss(TorchFunctionMode):
    """While it is entered, one loss function computes something else."""

    def __init__(self, function: Any, replace: Replacement) -> None:
        super().__init__()
        self._function, self._replace, self.used = function, replace, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self._function and not self.used:
            self.used = True
            return self._replace(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _with_input(change: Callable[[Any], Any]) -> Replacement:
    return lambda func, args, kwargs: func(change(args[0]), *args[1:], **kwargs)


def _without(**changes: Any) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args[:2], **{**kwargs, **changes})

    return replace


def _broadcast(func: Any, args: Any, kwargs: Any) -> Any:
    columns, rows = torch.broadcast_tensors(args[0].reshape(-1, 1), args[1].reshape(1, -1))
    return func(columns, rows, *args[2:], **kwargs)


def _as(function: Callable[..., Any]) -> Replacement:
    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        return function(args[0], args[1], reduction=kwargs.get("reduction", "mean"))

    return replace


def _weights_over(total: bool) -> Replacement:
    """A weighted mean divided by the number of rows, or a mean over rows divided by the sum of their weights."""

    def replace(func: Any, args: Any, kwargs: Any) -> Any:
        losses = func(*args, **{**kwargs, "reduction": "none"})
        if kwargs.get("weight") is None or kwargs.get("reduction", "mean") != "mean":
            raise ValueError("no weighted mean")
        return losses.mean() if not total else losses.sum() / kwargs["weight"].sum()

    return replace


LOSSES: list[tuple[Any, str, str, str, Replacement]] = [
    (
        F.cross_entropy,
        "softmax_before_cross_entropy",
        "probabilities are fed to a cross-entropy that expects logits",
        "pass the logits",
        _with_input(lambda x: x.softmax(1)),
    ),
    (
        F.cross_entropy,
        "label_smoothing_missing",
        "the labels are not smoothed, torch smooths them",
        "optax.smooth_labels",
        _without(label_smoothing=0.0),
    ),
    (
        F.cross_entropy,
        "class_weights_missing",
        "the classes are not weighted, torch weights them",
        "multiply by the weights and divide by their sum",
        _without(weight=None),
    ),
    *(
        (
            F.cross_entropy,
            "class_weights_normalisation",
            f"the weighted loss is divided by {divisor}, torch divides by the sum of the rows' weights",
            "divide by weights[targets].sum()",
            _weights_over(total),
        )
        for divisor, total in (("the number of rows", False), ("the sum over the classes", True))
    ),
    (
        F.cross_entropy,
        "softmax_axis",
        "the softmax runs over the batch",
        "axis=-1",
        lambda func, args, kwargs: F.nll_loss(args[0].log_softmax(0), *args[1:]),
    ),
    (
        F.nll_loss,
        "log_softmax_twice",
        "log-probabilities are fed to a loss that normalises probabilities",
        "pass them as they are",
        _with_input(lambda x: x.exp().log_softmax(1)),
    ),
    (
        F.binary_cross_entropy_with_logits,
        "sigmoid_before_cross_entropy",
        "probabilities are fed to a cross-entropy that expects logits",
        "pass the logits",
        _with_input(torch.sigmoid),
    ),
    *(
        (
            function,
            "loss_broadcast",
            "outputs (N, 1) and targets (N,) broadcast to (N, N)",
            "give both the same shape",
            _broadcast,
        )
        for function in (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
    ),
    *(
        (
            function,
            "loss_swapped",
            f"{other.__name__} stands where torch has {function.__name__}",
            f"use the counterpart of {function.__name__}",
            _as(other),
        )
        for function in (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
        for other in (F.mse_loss, F.l1_loss, F.smooth_l1_loss)
        if function is not other
    ),
]
