"""torch's dropout masks in a Flax model."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np

from compare.legs.dropout import MaskMismatchError, UnseenMaskError, layouts

__all__ = ["replay_in_flax"]


@contextlib.contextmanager
def replay_in_flax(masks: Sequence[Any], kinds: Sequence[Any] = ()) -> Iterator[None]:
    """While it lasts, every ``jax.random.bernoulli`` returns the next of ``masks``.

    The model's own code still decides what it does with the mask. A subclass of ``nnx.Dropout`` that does not draw by
    ``bernoulli`` is served through its method ``keep_mask(keys, shape)``, if it has one.

    Args:
        masks: keep-masks in call order.
        kinds: the same as torch recorded them, with the probability of keeping an entry, where that is known.

    Raises:
        MaskMismatchError: the Flax model asks for another number, shape or probability.
        UnseenMaskError: it draws its masks by other means.
    """
    import jax.numpy as jnp
    from flax import nnx

    waiting = list(zip(masks, [*kinds, *[None] * (len(masks) - len(kinds))], strict=True))
    elsewhere: list[str] = []

    def following(shape: Any, keep: Any) -> Any:
        if not waiting:
            sentence = f"dropout: torch drew {len(masks)} masks in this call, Flax asks for one more"
            raise MaskMismatchError(sentence, "dropout_extra", len(masks) + 1)
        mask, kind = waiting.pop(0)
        expected = getattr(kind, "keep", None)
        where = f"dropout call {len(masks) - len(waiting)}"
        fitted = mask if shape is None else _in_layout(mask, tuple(shape), getattr(kind, "attention", False))
        if fitted is None and getattr(kind, "attention", False):
            found = f"{where}: torch's mask on attention's weights has shape {mask.shape}, Flax's {tuple(shape)}"
            if _may_hold(mask, tuple(shape)):
                raise UnseenMaskError(f"{found}, which has no counterpart", "torch")
            raise MaskMismatchError(f"{found}, that of another array", "dropout_missing", len(masks) - len(waiting))
        if fitted is None:
            sentence = f"{where}: torch's mask has shape {mask.shape}, Flax's {tuple(shape)}"
            raise MaskMismatchError(sentence, "dropout_broadcast", len(masks) - len(waiting))
        # A rate of 0.1 is written as 1 - 0.9 on one side: that much rounding in float32, no more.
        if expected is not None and isinstance(keep, float | int) and not abs(keep - expected) <= 1e-6:
            sentence = f"{where}: torch keeps an entry with probability {expected:g}, Flax with {keep:g}"
            raise MaskMismatchError(sentence, "dropout_rate", len(masks) - len(waiting))
        return jnp.asarray(fitted)

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
        sentence = f"dropout: torch drew {len(masks)} masks in this call, Flax only {used}"
        raise MaskMismatchError(sentence, "dropout_missing", used + 1)


def _may_hold(mask: Any, shape: tuple[int, ...]) -> bool:
    """Whether a mask of ``shape`` may be attention's, in another layout or shared by heads or samples."""
    shared = len(shape) == mask.ndim and all(n in (1, m) for n, m in zip(shape, mask.shape, strict=True))
    return shared or math.prod(shape) == mask.size


def _noting(name: str, seen: list[str]) -> Any:
    import jax

    original = getattr(jax.random, name)

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.append(name)
        return original(*args, **kwargs)

    return noting


def _subclasses(cls: Any) -> list[type]:
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]


def _in_layout(mask: Any, shape: tuple[int, ...], attention: bool) -> Any | None:
    """``mask`` with its axes in Flax's order; None where it does not fit."""
    if mask.shape == shape:
        return mask
    if mask.ndim == len(shape) and mask.ndim <= 5:
        for order in (*layouts(mask.ndim), *itertools.permutations(range(mask.ndim))):
            if tuple(mask.shape[axis] for axis in order) == shape and mask.ndim > 2:
                return mask.transpose(order)
    alike = attention or [size for size in mask.shape if size > 1] == [size for size in shape if size > 1]
    return mask.reshape(shape) if alike and mask.size == int(np.prod(shape)) else None
