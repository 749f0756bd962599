"""Weights to try a port on: the given ones, and others of the same kind.

Freshly initialised weights hide mistakes: zero biases hide a dropped bias, unit scales a dropped scale.
"""

from collections.abc import Mapping

import numpy as np
import torch

from compare.structure import exact, is_floating, to_numpy
from compare.weights import TorchLeaf, torch_leaves

__all__ = ["given_weights", "redraw_weights"]

Arrays = dict[str, np.ndarray]


def given_weights(model: torch.nn.Module) -> Arrays:
    """Parameters and buffers of ``model`` by name, floating ones as float64."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: exact(to_numpy(tensor)) for name, tensor in named.items()}


def redraw_weights(model: torch.nn.Module, seed: int) -> Arrays:
    """Other weights of the same kind: each parameter at its own scale, biases non-zero, variances positive.

    Matrices are drawn anew, vectors are moved by half of their own size, and zeros become ``N(0, 1/fan_in)``. Running
    means and variances are drawn too; every other buffer (a mask, a table) and a zero padding row stay.
    """
    random = np.random.default_rng(seed)
    leaves, given = torch_leaves(model), given_weights(model)
    redrawn = {name: _redraw(leaves[name], array, random, leaves) for name, array in given.items()}
    for name, module in model.named_modules():
        path, row = f"{name}.weight" if name else "weight", getattr(module, "padding_idx", None)
        if isinstance(row, int) and path in given and not given[path][row].any():
            redrawn[path][row] = 0.0  # training keeps it so, and a port may rely on it
    return redrawn


def _redraw(
    leaf: TorchLeaf, array: np.ndarray, random: np.random.Generator, leaves: Mapping[str, TorchLeaf]
) -> np.ndarray:
    if not is_floating(array) or array.size == 0:
        return array
    normal = random.standard_normal(array.shape)
    if not leaf.parameter:
        kind = leaf.name.rpartition(".")[2]
        if kind == "running_var":
            return exact(np.exp(normal / 2))
        return exact(normal) if kind == "running_mean" else array
    size = float(np.sqrt(np.mean(np.square(array))))
    if not np.isfinite(size):
        return array
    if size == 0.0:
        return exact(normal / np.sqrt(_fan_in(leaf, leaves)))
    return exact(normal * size if array.ndim >= 2 else array + normal * size / 2)


def _fan_in(leaf: TorchLeaf, leaves: Mapping[str, TorchLeaf]) -> int:
    sibling = leaves.get(leaf.name.rpartition(".")[0] + ".weight", leaf)
    return max(int(np.prod(sibling.shape[1:])), 1)
