"""Dropout masks as arrays: drawn on the torch side, replayed on every leg.

A key would not do: JAX draws other bits from it under 64-bit mode, and torch draws from another generator altogether.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Self
from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["Mask", "MaskMismatchError", "TorchMasks", "UnseenMaskError", "layouts"]

Arrays = tuple[Any, ...]


class Mask(np.ndarray):
    """A keep-mask that knows with which probability an entry was kept, and whether it fell on attention's weights."""

    keep: float | None
    attention: bool

    def __new__(cls, mask: np.ndarray, keep: float, attention: bool = False) -> "Mask":
        made = np.array(mask).view(cls)
        made.keep, made.attention = keep, attention
        return made

    def __array_finalize__(self, source: Any) -> None:
        self.keep = getattr(source, "keep", None)
        self.attention = getattr(source, "attention", False)


class MaskMismatchError(ValueError):
    """The Flax model drops other arrays than the torch model does.

    Args:
        sentence: how.
        kind: name of the cause.
        call: number of the first dropout that does not fit, from 1.
    """

    def __init__(self, sentence: str, kind: str = "dropout_missing", call: int = 1) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.call = call


class UnseenMaskError(ValueError):
    """A model draws random numbers in a way that no mask can be recorded or replayed in.

    Args:
        sentence: what it does.
        leg: "torch" or "flax".
    """

    def __init__(self, sentence: str, leg: str = "flax") -> None:
        super().__init__(sentence)
        self.leg = leg


class TorchMasks(TorchFunctionMode):
    """Takes over torch's dropouts: draws the masks and keeps them, or replays those it is given.

    Seen are the dropout functions, alone or inside multi-head attention, attention's own, and those between the layers
    of an LSTM, a GRU or an RNN.

    Args:
        seed: of the masks that are drawn.
        replay: masks to use instead, in call order.
    """

    def __init__(self, seed: int = 0, replay: Sequence[np.ndarray] | None = None) -> None:
        super().__init__()
        self._generator = np.random.default_rng(seed)
        self._replay = None if replay is None else iter(replay)
        self._within = False
        self._patches: list[Any] = []
        self.masks: list[np.ndarray] = []
        self._rules: dict[Any, Callable[..., Any]] = {
            F.dropout: self._dropout,
            F.dropout1d: lambda x, p=0.5, training=True, inplace=False: self._whole(x, p, training, x.ndim - 2),
            F.dropout2d: lambda x, p=0.5, training=True, inplace=False: self._whole(x, p, training, 1),
            F.dropout3d: lambda x, p=0.5, training=True, inplace=False: self._whole(x, p, training, x.ndim - 4),
            F.alpha_dropout: lambda x, p=0.5, training=False, inplace=False: self._alpha(x, p, training, x.shape),
            F.feature_alpha_dropout: self._feature_alpha,
            F.scaled_dot_product_attention: self._attention,
        }

    def __enter__(self) -> Self:
        # Functions that call others by their bare name, below the level that a mode sees.
        for function in (F.dropout, F.scaled_dot_product_attention):
            patch = mock.patch.object(F, function.__name__, self._inner(function))
            patch.start()
            self._patches.append(patch)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        while self._patches:
            self._patches.pop().stop()

    def _inner(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if not self._within:
                return function(*args, **kwargs)
            # Only attention's own code drops out below the level that a mode sees.
            return self._on_attention(*args, **kwargs) if function is _DROPOUT else self._attention(*args, **kwargs)

        return called

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        func = getattr(func, "__wrapped__", func) if func in (F.dropout, F.scaled_dot_product_attention) else func
        before, self._within = self._within, True
        try:
            if func in self._rules:
                return self._rules[func](*args, **kwargs)
            if getattr(func, "__name__", "") in _RECURRENT:
                return self._recurrent(func, *args)
            return func(*args, **kwargs)
        finally:
            self._within = before

    def _mask(self, shape: Sequence[int], p: float, attention: bool = False) -> torch.Tensor:
        drawn = self._generator.random(tuple(shape)) >= p if self._replay is None else next(self._replay)
        if self._replay is None and not attention:
            drawn = _alike_in_all_layouts(drawn)
        self.masks.append(Mask(drawn, 1.0 - p, attention))
        return torch.from_numpy(np.array(drawn))

    def _dropped(self, x: torch.Tensor, p: float, shape: Sequence[int], attention: bool = False) -> torch.Tensor:
        mask = self._mask(shape, p, attention)
        return x * mask / (1 - p) if p < 1.0 else torch.zeros_like(x)

    def _dropout(self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return input if not training or p == 0.0 else self._dropped(input, p, input.shape)

    def _on_attention(self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return input if not training or p == 0.0 else self._dropped(input, p, input.shape, attention=True)

    def _whole(self, x: torch.Tensor, p: float, training: bool, channel: int) -> torch.Tensor:
        """Whole channels dropped: the mask is one number for each sample and channel."""
        return x if not training or p == 0.0 else self._dropped(x, p, _channels(x, channel))

    def _alpha(self, x: torch.Tensor, p: float, training: bool, shape: Sequence[int]) -> torch.Tensor:
        """Dropped entries become SELU's least value, then mean and variance are restored."""
        if not training or p == 0.0:
            return x
        kept = self._mask(shape, p).to(x.dtype)
        least = 1.7580993408473766  # SELU's scale times its alpha
        scale = 1.0 / float(np.sqrt((least**2 * p + 1.0) * (1.0 - p)))
        return x * (kept * scale) + (kept - 1) * least * scale + least * scale * p

    def _feature_alpha(self, x: torch.Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
        return self._alpha(x, p, training, _channels(x, 1))

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if dropout_p == 0.0:
            given: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
            return _FUSED(query, key, value, attn_mask, 0.0, is_causal, **given)
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            hidden = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, float("-inf")) if hidden else scores + attn_mask
        weights = scores.softmax(-1)  # (..., queries, keys)
        return self._dropped(weights, dropout_p, weights.shape, attention=True) @ value

    def _recurrent(self, func: Any, *args: Any) -> Any:
        """A stack of recurrent layers, layer by layer, so that the dropout between them is seen."""
        if not isinstance(args[2], list | tuple):  # packed sequences: the lengths come second
            if args[6] > 0.0 and args[7]:
                raise UnseenMaskError("torch hides the dropout between recurrent layers on packed sequences", "torch")
            return func(*args)
        x, state, weights, biases, layers, p, training, both_ways, batch_first = args
        if layers == 1 or not training or p == 0.0:
            return func(*args)
        ways, each = 2 if both_ways else 1, len(weights) // layers
        states = state if isinstance(state, list | tuple) else (state,)
        ends: list[Arrays] = []
        for layer in range(layers):
            own = tuple(s[layer * ways : (layer + 1) * ways] for s in states)
            driven = weights[layer * each : (layer + 1) * each]
            start = own if isinstance(state, list | tuple) else own[0]
            x, *end = func(x, start, driven, biases, 1, 0.0, training, both_ways, batch_first)
            ends.append(tuple(end))
            if layer < layers - 1:
                x = self._dropped(x, p, x.shape)
        return (x, *(torch.cat(parts) for parts in zip(*ends, strict=True)))


_DROPOUT = F.dropout
_FUSED = F.scaled_dot_product_attention
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


def layouts(rank: int) -> tuple[tuple[int, ...], ...]:
    """Orders of axes in which the other side may hold the same array of ``rank`` axes.

    torch's channels come second, Flax's last; sequences may have their batch first or second.
    """
    return ((0, *range(2, rank), 1), (1, 0, *range(2, rank))) if rank > 2 else ()


def _alike_in_all_layouts(mask: np.ndarray) -> np.ndarray:
    """``mask`` made the same in every layout of the same shape, since then no shape tells which one the port has."""
    orders = [order for order in layouts(mask.ndim) if tuple(mask.shape[axis] for axis in order) == mask.shape]
    entry = np.arange(mask.size).reshape(mask.shape)
    while orders:
        before = entry
        for order in orders:
            entry = np.minimum(entry, entry.transpose(order))
        if np.array_equal(entry, before):
            break
    return mask.reshape(-1)[entry]


def _channels(x: torch.Tensor, channel: int) -> tuple[int, ...]:
    """The shape of one number per sample and channel: what lies beyond axis ``channel`` is dropped together."""
    return tuple(size if axis <= max(channel, 0) else 1 for axis, size in enumerate(x.shape))
