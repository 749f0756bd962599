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

__all__ = ["Mask", "MaskMismatchError", "TorchMasks", "UnseenMaskError", "replay_in_flax"]


class Mask(np.ndarray):
    """A keep-mask that knows with which probability an entry was kept."""

    keep: float | None

    def __new__(cls, mask: np.ndarray, keep: float) -> "Mask":
        made = np.array(mask).view(cls)
        made.keep = keep
        return made

    def __array_finalize__(self, source: Any) -> None:
        self.keep = getattr(source, "keep", None)


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
        drawn = self._generator.random(tuple(x.shape)) >= p if self._replay is None else next(self._replay)
        self.masks.append(Mask(drawn, keep=1.0 - p))
        return x * torch.from_numpy(np.array(drawn)) / (1 - p) if p < 1.0 else torch.zeros_like(x)


def _dropout_arguments(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> tuple[torch.Tensor, float, bool]:
    return input, p, training


class MaskMismatchError(ValueError):
    """The Flax model drops other arrays than the torch model does."""


class UnseenMaskError(ValueError):
    """The Flax model draws random numbers in a way that no mask can be replayed in."""


@contextlib.contextmanager
def replay_in_flax(masks: Sequence[Any], keeps: Sequence[float | None] = ()) -> Iterator[None]:
    """While it lasts, every ``jax.random.bernoulli`` returns the next of ``masks``.

    The model's own code still decides what it does with the mask. A subclass of ``nnx.Dropout`` that does not draw by
    ``bernoulli`` is served through its method ``keep_mask(keys, shape)``, if it has one.

    Args:
        masks: keep-masks in call order.
        keeps: with which probability torch keeps an entry, where known; another one in Flax is a mistake.

    Raises:
        MaskMismatchError: the Flax model asks for another number, shape or probability.
        UnseenMaskError: it draws its masks by other means.
    """
    import jax.numpy as jnp
    from flax import nnx

    waiting = list(zip(masks, [*keeps, *[None] * (len(masks) - len(keeps))], strict=True))
    elsewhere: list[str] = []

    def following(shape: Any, keep: Any) -> Any:
        if not waiting:
            raise MaskMismatchError(f"dropout: torch drew {len(masks)} masks in this call, Flax asks for one more")
        mask, expected = waiting.pop(0)
        where = f"dropout call {len(masks) - len(waiting)}"
        if shape is not None and tuple(shape) != mask.shape:
            raise MaskMismatchError(f"{where}: torch's mask has shape {mask.shape}, Flax's {tuple(shape)}")
        # A rate of 0.1 is written as 1 - 0.9 on one side: that much rounding in float32, no more.
        if expected is not None and isinstance(keep, float | int) and not abs(keep - expected) <= 1e-6:
            raise MaskMismatchError(f"{where}: torch keeps an entry with probability {expected:g}, Flax with {keep:g}")
        return jnp.asarray(mask)

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, *args: Any, **kwargs: Any) -> Any:
        return following(shape, p)

    def keep_mask(module: Any, keys: Any, shape: Any) -> Any:
        return following(shape, 1.0 - module.rate)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("jax.random.bernoulli", bernoulli))
        for name in ("uniform", "normal", "bits"):
            stack.enter_context(mock.patch(f"jax.random.{name}", _noting(name, elsewhere)))
        for cls in _subclasses(nnx.Dropout):
            if "keep_mask" in vars(cls):
                stack.enter_context(mock.patch.object(cls, "keep_mask", keep_mask))
        yield
    if waiting and elsewhere:
        raise UnseenMaskError(f"the Flax model draws its dropout by jax.random.{elsewhere[0]}, which can't be replayed")
    if waiting:
        used = len(masks) - len(waiting)
        raise MaskMismatchError(f"dropout: torch drew {len(masks)} masks in this call, Flax only {used}")


def _noting(name: str, seen: list[str]) -> Any:
    import jax

    original = getattr(jax.random, name)

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.append(name)
        return original(*args, **kwargs)

    return noting


def _subclasses(cls: Any) -> list[type]:
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]
