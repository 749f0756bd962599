"""A torch model as units: modules that hold arrays, with packed arrays taken apart."""

import dataclasses
from collections.abc import Iterator, Mapping

import torch

from compare.mapping.conventions import Piece, kind_of
from compare.mapping.leaves import TorchLeaf
from compare.mapping.rules import Part

__all__ = ["NEVER_IN_FLAX", "Unit", "torch_units"]

NEVER_IN_FLAX = ("num_batches_tracked",)
_ROLES = {
    "weight": "weight",
    "weight_v": "weight",
    "weight_orig": "weight",
    "original": "weight",
    "original1": "weight",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "var",
}
_GATES = {"LSTM": "ifgo", "GRU": "rzn", "RNN": "h"}


@dataclasses.dataclass(frozen=True)
class Unit:
    """What is mapped as a whole.

    Args:
        name: dotted; of an array that stands alone its own.
        kind: "linear", ..., "array", "buffer", or "LSTM", "GRU", "RNN".
        pieces: role -> array; roles are "weight", "bias", "mean", "var", "array", in a recurrent cell "ih.i.weight".
        optional: whether it is only another name of arrays that stand elsewhere.
    """

    name: str
    kind: str
    pieces: Mapping[str, Piece]
    optional: bool = False


def torch_units(model: torch.nn.Module, leaves: Mapping[str, TorchLeaf]) -> list[Unit]:
    """All units in the order of definition; every leaf but counters of batches is in at least one."""
    first = {alias: leaf for leaf in leaves.values() for alias in (leaf.name, *leaf.aliases)}
    units: list[Unit] = []
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, torch.nn.utils.parametrize.ParametrizationList):
            continue  # with the module that they belong to
        named = {name: first[_join(prefix, name)] for name in _direct(module) if _join(prefix, name) in first}
        named = {name: leaf for name, leaf in named.items() if name not in NEVER_IN_FLAX}
        if isinstance(module, torch.nn.MultiheadAttention):
            units += _attention(prefix, named)
        elif isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase):
            units += _recurrent(prefix, module, named)
        else:
            units += _module(prefix, module, named)
    return units


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _direct(module: torch.nn.Module) -> Iterator[str]:
    yield from (name for name, _ in module.named_parameters(recurse=False, remove_duplicate=False))
    yield from (name for name, _ in module.named_buffers(recurse=False, remove_duplicate=False))
    if torch.nn.utils.parametrize.is_parametrized(module):
        for attribute, entry in module.parametrizations.items():  # type: ignore[union-attr, operator]
            for name, _ in entry.named_parameters(recurse=False):
                yield f"parametrizations.{attribute}.{name}"


def _piece(leaf: TorchLeaf, module: torch.nn.Module | None = None, part: Part | None = None) -> Piece:
    owner = type(module) if module is not None else leaf.owner
    return Piece(leaf.name, leaf.shape, kind_of(owner), owner.__name__, leaf.parameter, part, leaf.constant)


def _single(path: str, leaf: TorchLeaf) -> Unit:
    piece = dataclasses.replace(_piece(leaf), kind="array")
    return Unit(path, "array" if leaf.parameter else "buffer", {"array": piece}, path != leaf.name)


def _module(prefix: str, module: torch.nn.Module, named: Mapping[str, TorchLeaf]) -> Iterator[Unit]:
    pieces: dict[str, Piece] = {}
    optional = bool(named)
    for name, leaf in named.items():
        role = _ROLES.get(name.rpartition(".")[2])
        if role is None or role in pieces or (not leaf.parameter and role in ("weight", "bias")):
            yield _single(_join(prefix, name), leaf)
            continue
        pieces[role] = _piece(leaf, module)
        optional &= _join(prefix, name) != leaf.name
    if pieces:
        yield Unit(prefix, kind_of(type(module)), pieces, optional)


def _attention(prefix: str, named: Mapping[str, TorchLeaf]) -> Iterator[Unit]:
    """Query, key and value as three linear layers, packed in torch or not."""
    packed = named.get("in_proj_weight")
    biases = named.get("in_proj_bias")
    for number, name in enumerate(("query", "key", "value")):
        weight = packed or named[f"{name[0]}_proj_weight"]
        rows = (packed.shape[0] // 3) if packed else weight.shape[0]
        third = (slice(number * rows, (number + 1) * rows),)
        part = Part(weight.shape, third) if packed else None
        pieces = {"weight": dataclasses.replace(_piece(weight, part=part), kind="linear")}
        if biases is not None:
            pieces["bias"] = dataclasses.replace(_piece(biases, part=Part(biases.shape, third)), kind="linear")
        yield Unit(_join(prefix, name), "linear", pieces)
    known = {"in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"}
    yield from (_single(_join(prefix, name), leaf) for name, leaf in named.items() if name not in known)


def _recurrent(prefix: str, module: torch.nn.Module, named: Mapping[str, TorchLeaf]) -> Iterator[Unit]:
    """Each layer and direction as one cell, its gates apart."""
    kind = type(module).__name__.removesuffix("Cell")
    kind = next((known for known in _GATES if issubclass(type(module), getattr(torch.nn, known))), kind)
    gates = _GATES.get(kind, "h")
    layers = getattr(module, "num_layers", None)
    both = bool(getattr(module, "bidirectional", False))
    used: set[str] = set()
    for layer in range(layers or 1):
        for direction in ("forward", "backward") if both else ("",):
            suffix = "" if layers is None else f"_l{layer}{'_reverse' if direction == 'backward' else ''}"
            pieces: dict[str, Piece] = {}
            for side in ("ih", "hh"):
                for role in ("weight", "bias"):
                    leaf = named.get(f"{role}_{side}{suffix}")
                    if leaf is None:
                        continue
                    used.add(f"{role}_{side}{suffix}")
                    size = leaf.shape[0] // len(gates)
                    for number, gate in enumerate(gates):
                        part = Part(leaf.shape, (slice(number * size, (number + 1) * size),)) if gates != "h" else None
                        piece = dataclasses.replace(_piece(leaf, part=part), kind="linear")
                        pieces[f"{side}.{gate}.{role}"] = piece
            name = ".".join(part for part in (prefix, f"l{layer}" if (layers or 1) > 1 else "", direction) if part)
            yield Unit(name or "cell", kind, pieces)
    yield from (_single(_join(prefix, name), leaf) for name, leaf in named.items() if name not in used)
