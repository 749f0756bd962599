"""A copy of a torch model, whatever it holds besides parameters and buffers."""

import copy
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["copied"]


def copied(model: torch.nn.Module, memo: dict[int, Any] | None = None) -> torch.nn.Module:
    """A deep copy, in which tensors that were computed are plain values.

    torch refuses to copy those: the weight that ``torch.nn.utils.weight_norm`` computes before each call, attention
    maps that a model keeps from its last one.

    Args:
        model: left as it is.
        memo: copies that are made already, by ``id`` of the original.
    """
    computed = {
        id(tensor): tensor.detach().clone()
        for module in model.modules()
        for tensor in _tensors(list(vars(module).values()))
        if not tensor.is_leaf
    }
    return copy.deepcopy(model, {**computed, **(memo or {})})


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in ``value``, and in lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
