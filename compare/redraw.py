"""Weights to try a port on: the given ones, and others of the same kind.

Freshly initialised weights hide mistakes: zero biases hide a dropped bias, unit scales a dropped scale.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from compare.case_weights import Held, Tiled
from compare.mapping.leaves import TorchLeaf, torch_leaves
from compare.structure import exact, is_floating, to_numpy

__all__ = ["given_weights", "redraw_weights"]

# Of larger matrices so many numbers are drawn and repeated, which takes no memory to keep. The number is a prime: rows
# lie differently in it, and are as many as a vocabulary has before two are alike.
_DRAWN = 131_101


def given_weights(model: torch.nn.Module) -> Held:
    """Parameters and buffers of ``model`` by name, floating ones as float64; float32 ones are not copied."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return Held({name: _seen(tensor) for name, tensor in named.items()})


def _seen(tensor: torch.Tensor) -> np.ndarray:
    """A view of the model's own numbers, which nothing here writes to, where NumPy and float32 can hold them."""
    return tensor.detach().cpu().numpy() if tensor.dtype == torch.float32 else to_numpy(tensor)


def redraw_weights(model: torch.nn.Module, seed: int) -> Held:
    """Other weights of the same kind: each parameter at its own scale, biases non-zero, variances positive.

    Matrices are drawn anew, vectors are moved by half of their own size, and zeros become ``N(0, 1/fan_in)``. Running
    means and variances are drawn too; every other buffer (a mask, a table), frozen tables and a zero padding row stay.
    """
    random = np.random.default_rng(seed)
    leaves, given = torch_leaves(model), given_weights(model)
    padding = {
        f"{name}.weight" if name else "weight": row
        for name, module in model.named_modules()
        if isinstance(row := getattr(module, "padding_idx", None), int)
    }
    redrawn: dict[str, np.ndarray | Tiled] = {}
    for name, array in given.narrow.items():
        drawn = _redraw(leaves[name], array, random, leaves)
        zero = padding.get(name)
        zero = None if zero is None or array[zero].any() else zero  # training keeps it so, and a port may rely on it
        if isinstance(drawn, Tiled):
            drawn = dataclasses.replace(drawn, zero=zero)
        elif zero is not None:
            drawn[zero] = 0.0
        redrawn[name] = drawn
    return Held(redrawn)


def _redraw(
    leaf: TorchLeaf, array: np.ndarray, random: np.random.Generator, leaves: Mapping[str, TorchLeaf]
) -> np.ndarray | Tiled:
    if not is_floating(array) or array.size == 0:
        return array
    tiled = leaf.parameter and array.ndim >= 2 and array.size > _DRAWN
    normal = random.standard_normal(_DRAWN if tiled else array.shape)
    if leaf.constant:
        return array
    if not leaf.parameter:
        kind = leaf.name.rpartition(".")[2]
        if kind == "running_var":
            return exact(np.exp(normal / 2))
        return exact(normal) if kind == "running_mean" else array
    size = _size(array)
    if not np.isfinite(size):
        return array
    normal *= size / (1 if array.ndim >= 2 else 2) if size else 1 / np.sqrt(_fan_in(leaf, leaves))
    if tiled:
        return Tiled(normal.astype(np.float32), array.shape)
    return normal if array.ndim >= 2 or not size else array + normal


def _size(array: np.ndarray) -> float:
    """The root of the mean square, by sums in float64 of a part at a time."""
    flat = array.reshape(-1)
    parts = (flat[start : start + _DRAWN].astype(np.float64) for start in range(0, flat.size, _DRAWN))
    return float(np.sqrt(sum(float(part @ part) for part in parts) / flat.size))


def _fan_in(leaf: TorchLeaf, leaves: Mapping[str, TorchLeaf]) -> int:
    sibling = leaves.get(leaf.name.rpartition(".")[0] + ".weight", leaf)
    return max(int(np.prod(sibling.shape[1:])), 1)
