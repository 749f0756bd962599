"""``compare.convert``: weights from one model to the other, by the same total mapping that the checks use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from compare.legs.flax_function import FlaxFunction, flax_function
from compare.mapping.given import Given
from compare.mapping.proposal import propose_mapping
from compare.mapping.weight_mapping import WeightMapping
from compare.result import UsageError
from compare.structure import is_floating, to_numpy
from compare.weight_files import as_tensor, read_weights, write_weights

__all__ = ["convert", "convert_files"]


def convert(source: Any, target: Any, *, mapping: Given = None) -> WeightMapping:
    """Copies the weights of ``source`` into ``target``, in place.

    Args:
        source, target: a ``torch.nn.Module`` and a ``flax.nnx.Module``, either way round.
        mapping: torch name -> Flax path, (Flax path, linear function) or (Flax path, linear function, its inverse), for
            what automation can't know; or a function of the torch name that returns one of these or None.

    Returns:
        The mapping that was used.

    Raises:
        UsageError: not such a pair, or the weights do not fit: one error lists everything missing, unexpected or
            misshapen, and then nothing was written.
    """
    if isinstance(source, torch.nn.Module) and isinstance(target, nnx.Module):
        function, rules = _mapped(source, target, mapping)
        arrays = {name: to_numpy(tensor) for name, tensor in _named(source).items()}
        _raise_for_kinds(rules.to_flax(arrays), function.leaves)
        _write_flax(target, {**function.leaves, **rules.to_flax(arrays)})
        return rules
    if isinstance(source, nnx.Module) and isinstance(target, torch.nn.Module):
        function, rules = _mapped(target, source, mapping)
        arrays = rules.to_torch(function.leaves)
        _raise_for_ties(rules.to_flax(arrays), function.leaves)
        _raise_for_kinds(arrays, {name: to_numpy(tensor) for name, tensor in _named(target).items()})
        _write_torch(target, arrays)
        return rules
    raise UsageError(
        "convert: expected a torch.nn.Module and a flax.nnx.Module, either way round; "
        f"found {type(source).__name__} and {type(target).__name__}"
    )


def convert_files(
    source: str | Path,
    target: str | Path,
    torch_model: torch.nn.Module,
    flax_model: nnx.Module,
    *,
    to: str,
    mapping: Given = None,
    overwrite: bool = False,
) -> WeightMapping:
    """Converts a weights file of one framework into one of the other.

    A file alone does not tell a ``Linear`` from an ``Embedding``, so both models are always given; their own weights
    are overwritten.

    Args:
        source: ``.safetensors`` or, for torch weights, also ``.pt`` with plain tensors.
        target: the ``.safetensors`` file to write.
        torch_model, flax_model: models of the file's shapes.
        to: "flax" or "torch".
        mapping: as ``convert`` takes it.
        overwrite: whether an existing target may be replaced.

    Raises:
        UsageError: a file that can't be read, weights that do not fit the models, or a target that exists.
    """
    if Path(target).exists() and not overwrite:
        raise UsageError(f"{target}: expected a new file, found one that exists; --overwrite replaces it")
    arrays = read_weights(source)
    if to == "flax":
        load_torch(torch_model, arrays, str(source))
        rules = convert(torch_model, flax_model, mapping=mapping)
        write_weights(target, flax_function(flax_model, "eval").leaves)
    elif to == "torch":
        load_flax(flax_model, {name: to_numpy(tensor) for name, tensor in arrays.items()}, str(source))
        rules = convert(flax_model, torch_model, mapping=mapping)
        write_weights(target, torch_model.state_dict())
    else:
        raise UsageError(f"convert: expected --to flax or --to torch, found {to!r}")
    return rules


def load_torch(model: torch.nn.Module, arrays: Mapping[str, torch.Tensor], place: str) -> None:
    """Loads a state_dict, every array once and all shapes right, or raises a ``UsageError`` that lists what is not."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _raise_for_misfits(expected, {name: tuple(t.shape) for name, t in arrays.items()}, place, "torch model")
    model.load_state_dict(dict(arrays))


def load_flax(model: nnx.Module, arrays: Mapping[str, np.ndarray], place: str) -> None:
    """The same for an NNX module, by dotted paths."""
    function = flax_function(model, "eval")
    _raise_for_misfits(function.shapes, {name: a.shape for name, a in arrays.items()}, place, "Flax model")
    _write_flax(model, arrays)


def _raise_for_misfits(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], place: str, model: str
) -> None:
    faults = [f"{name}: missing, expected shape {shape}" for name, shape in expected.items() if name not in found]
    faults += [f"{name}: unexpected, shape {shape}" for name, shape in found.items() if name not in expected]
    for name, shape in expected.items():
        if name in found and found[name] != shape:
            slip = ": it looks transposed" if found[name] == shape[::-1] else ""
            faults.append(f"{name}: expected shape {shape}, found {found[name]}{slip}")
    if faults:
        raise UsageError(f"{place}: these weights do not fit the {model}:\n" + "\n".join(f"  {f}" for f in faults))


def _raise_for_kinds(given: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> None:
    """Refuses to write floats into integers or booleans, or the other way round; a float of another width is cast."""
    faults = [
        f"  {name}: expected {target[name].dtype}, found {array.dtype}"
        for name, array in given.items()
        if _kind(array) != _kind(target[name])
    ]
    if faults:
        raise UsageError("weights are of another kind of number:\n" + "\n".join(faults))


def _raise_for_ties(again: Mapping[str, np.ndarray], leaves: Mapping[str, np.ndarray]) -> None:
    """What torch holds once must be the same in all the Flax arrays that it fills."""
    faults = [path for path, array in again.items() if not _equal(array, leaves[path])]
    if faults:
        raise UsageError(
            f"{', '.join(faults)}: expected the numbers of the other Flax arrays that are one array in torch (tied "
            "weights, or a function and its inverse), found others; no torch weights compute the same"
        )


def _equal(found: np.ndarray, expected: np.ndarray) -> bool:
    if not is_floating(expected):
        return bool(np.array_equal(found, expected))
    # A given function and its inverse may round; what is merely moved is equal.
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return bool(np.allclose(a, b, rtol=1e-5, atol=1e-6 * float(np.abs(b).max(initial=0.0)), equal_nan=True))


def _kind(array: np.ndarray) -> str:
    return "floating" if is_floating(array) else array.dtype.kind


def _mapped(torch_model: torch.nn.Module, flax_model: nnx.Module, given: Given) -> tuple[FlaxFunction, WeightMapping]:
    function = flax_function(flax_model, "eval")
    rules = propose_mapping(torch_model, function.shapes, given, kinds=function.kinds)
    rules.raise_for_problems()
    return function, rules


def _named(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _write_flax(model: nnx.Module, values: Mapping[str, np.ndarray]) -> None:
    state = nnx.state(model)
    for path, variable in nnx.to_flat_state(state):
        name = ".".join(str(part) for part in path)
        if name in values:
            variable[...] = jnp.asarray(values[name], variable[...].dtype)
    nnx.update(model, state)


def _write_torch(model: torch.nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    with torch.no_grad():
        for name, tensor in _named(model).items():
            if name in arrays:
                tensor.copy_(as_tensor(arrays[name]))
