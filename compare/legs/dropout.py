"""Dropout masks as arrays: drawn on the torch side, replayed on every leg.

A key would not do: JAX draws other bits from it under 64-bit mode, and torch draws from another generator altogether.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

__all__ = ["MaskMismatchError", "TorchMasks", "replay_in_flax"]


class TorchMasks(TorchFunctionMode):
    """Takes over ``torch.nn.functional.dropout``: draws the masks and keeps them, or replays those it is given.

    Args:
        seed: of the masks that are drawn.
        replay: masks to use instead, in call order.
    """

    def __init__(self, seed: int = 0, replay: Sequence[np.ndarray] | None = None) -> None:
        super().__init__()
        self._generator = np.random.default_rng(seed)
        self._replay = None if replay is None else iter(replay)
        self.masks: list[np.ndarray] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.dropout:
            return func(*args, **kwargs)
        x, p, training = _dropout_arguments(*args, **kwargs)
        if not training or p == 0.0:
            return x
        mask = self._generator.random(tuple(x.shape)) >= p if self._replay is None else next(self._replay)
        self.masks.append(mask)
        return x * torch.from_numpy(mask) / (1 - p) if p < 1.0 else torch.zeros_like(x)


def _dropout_arguments(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> tuple[torch.Tensor, float, bool]:
    return input, p, training


class MaskMismatchError(ValueError):
    """The Flax model drops other arrays than the torch model does."""


@contextlib.contextmanager
def replay_in_flax(masks: Sequence[np.ndarray]) -> Iterator[None]:
    """While it lasts, every ``jax.random.bernoulli`` returns the next of ``masks``.

    A subclass of ``nnx.Dropout`` that draws its mask in a way of its own is run as ``nnx.Dropout``: what its ``rate``
    does is compared, the law of its draws is another check's business.

    Raises:
        MaskMismatchError: the Flax model asks for another number or shape of masks.
    """
    import jax.numpy as jnp
    from flax import nnx

    waiting = list(masks)

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not waiting:
            raise MaskMismatchError(f"dropout: torch drew {len(masks)} masks in this call, Flax asks for one more")
        mask = waiting.pop(0)
        if shape is not None and tuple(shape) != mask.shape:
            raise MaskMismatchError(
                f"dropout call {len(masks) - len(waiting)}: torch's mask has shape {mask.shape}, Flax's {tuple(shape)}"
            )
        return jnp.asarray(mask)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("jax.random.bernoulli", bernoulli))
        for cls in _overriding_subclasses(nnx.Dropout):
            stack.enter_context(mock.patch.object(cls, "__call__", _plain_dropout))
        yield
    if waiting:
        used = len(masks) - len(waiting)
        raise MaskMismatchError(f"dropout: torch drew {len(masks)} masks in this call, Flax only {used}")


def _overriding_subclasses(cls: Any) -> list[type]:
    found: list[type] = []
    for child in cls.__subclasses__():
        found += ([child] if "__call__" in vars(child) else []) + _overriding_subclasses(child)
    return found


def _plain_dropout(self: Any, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None, **_: Any) -> Any:
    import jax
    from flax import nnx

    return nnx.Dropout.__call__(self, inputs, deterministic=deterministic, rngs=jax.random.key(0))
