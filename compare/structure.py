"""Inputs and outputs of any structure, as flat dictionaries from path to array.

Tuples, lists, dictionaries, dataclasses and ``ModelOutput``-like mappings are taken apart leaf by leaf; a path reads
``"hidden.0"``. A bare array has the path ``""``.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import numpy as np

__all__ = [
    "Call",
    "Inputs",
    "as_call",
    "exact",
    "flatten",
    "is_array",
    "is_floating",
    "rebuild",
    "renamed",
    "to_numpy",
]


@dataclasses.dataclass(frozen=True)
class Call:
    """Positional and keyword arguments of one forward call.

    Args:
        args: positional arguments, arrays or structures of arrays.
        kwargs: keyword arguments, likewise.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Calls of both models where their layouts differ.

    Args:
        torch: what the PyTorch model is called with (anything that ``as_call`` takes).
        flax: a function from that call's arguments to the Flax call, differentiable by JAX; or a plain call of its own,
            and then only the weights can be redrawn, not the inputs.
    """

    torch: Any
    flax: Callable[..., Any] | Any


def as_call(inputs: Any) -> Call:
    """An array, a tuple (positional), a dictionary (keywords) or a ``Call``, as a ``Call``."""
    if isinstance(inputs, Call):
        return inputs
    if isinstance(inputs, dict):
        return Call(kwargs=inputs)
    if isinstance(inputs, tuple):
        return Call(args=inputs)
    return Call(args=(inputs,))


def is_array(leaf: Any) -> bool:
    """Whether ``leaf`` is an array of NumPy, JAX or PyTorch."""
    return not isinstance(leaf, type) and hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def to_numpy(array: Any) -> np.ndarray:
    """A NumPy copy (never an alias, which an in-place update of one framework would change in the other)."""
    if hasattr(array, "detach"):  # a torch tensor, named without importing torch
        array = array.detach().cpu()
        if array.dtype.is_floating_point and array.dtype.itemsize == 2:
            array = array.float()  # NumPy has no bfloat16
        array = array.numpy()
    return np.array(array)


def exact(array: np.ndarray) -> np.ndarray:
    """``array`` in float64, its numbers such that float32 holds them too; other kinds of number as they are."""
    # What both precisions are given must be the same number, or the rounding of the input would count as an error.
    return array.astype(np.float32).astype(np.float64) if is_floating(array) else array


def is_floating(array: Any) -> bool:
    """Whether ``array`` holds floating-point numbers, bfloat16 included."""
    return "float" in str(array.dtype)


def _children(node: Any) -> list[tuple[str, Any]] | None:
    if isinstance(node, Mapping):
        return [(str(key), value) for key, value in node.items()]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return list(zip(node._fields, node, strict=True))
    if isinstance(node, tuple | list):
        return [(str(i), value) for i, value in enumerate(node)]
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return [(field.name, getattr(node, field.name)) for field in dataclasses.fields(node)]
    return None


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """All array leaves by path; None and other values that are no arrays are left out."""
    if node is None:
        return {}
    if is_array(node):
        return {path: node}
    children = _children(node)
    if children is None:
        return {}
    flat: dict[str, Any] = {}
    for name, child in children:
        flat |= flatten(child, f"{path}.{name}" if path else name)
    return flat


def rebuild(node: Any, leaves: Mapping[str, Any], path: str = "") -> Any:
    """``node`` with its array leaves replaced by those of ``leaves``; everything else stays."""
    if is_array(node):
        return leaves.get(path, node)
    children = _children(node)
    if children is None:
        return node
    values = {name: rebuild(child, leaves, f"{path}.{name}" if path else name) for name, child in children}
    if isinstance(node, Call):
        return Call(args=values["args"], kwargs=values["kwargs"])
    # A ModelOutput is a mapping besides: it stays what it is.
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return dataclasses.replace(node, **values)
    if isinstance(node, MutableMapping):
        rebuilt = copy.copy(node)
        for key in node:
            rebuilt[key] = values[str(key)]
        return rebuilt
    if isinstance(node, Mapping):
        return {key: values[str(key)] for key in node}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(**values)
    return type(node)(values.values())


def renamed(leaves: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """``leaves`` by the names in ``ranks``: a tuple here may be a dictionary there, and a key may have another name.

    Those of unknown names take the places of what is missing, in order, if they are as many and have as many axes.

    Args:
        leaves: arrays by path.
        ranks: expected path -> number of axes; empty if nothing is known.
    """
    strange = [path for path in leaves if path not in ranks]
    missing = [path for path in ranks if path not in leaves]
    if [leaves[path].ndim for path in strange] != [ranks[path] for path in missing]:
        return dict(leaves)
    names = dict(zip(strange, missing, strict=True))
    # "end_logits" in the place of "start" is not another name for it but another array, where there is an "end".
    words = [path for path in missing if not path.isdigit()]
    if any(own not in name and any(word in name for word in words) for name, own in names.items()):
        return dict(leaves)
    return {names.get(path, path): leaf for path, leaf in leaves.items()}
