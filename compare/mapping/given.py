"""What the user says about the mapping; it may speak of some arrays only."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compare.mapping.conventions import Piece, Slot, expected_shape, kind_of, moves
from compare.mapping.leaves import TorchLeaf
from compare.mapping.rules import Rule
from compare.mapping.weight_mapping import MappingProblem
from compare.result import UsageError

__all__ = ["Given", "given_rules", "misfit"]

Given = Mapping[str, Any] | Callable[[str], Any] | None


def given_rules(
    given: Given, leaves: Mapping[str, TorchLeaf], flax_shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[Rule], list[tuple[Piece, Slot]], list[MappingProblem], set[str]]:
    """What the user's pairs come to: rules of functions, plain pairs, misfits, and the torch names spoken of.

    Args:
        given: torch name -> Flax path, (Flax path, linear function) or (Flax path, linear function, its inverse); or a
            function of the torch name that returns such a value, or None to leave that array to automation.
        leaves: of the torch model.
        flax_shapes: of the Flax model.

    Raises:
        UsageError: a name or path does not exist, a path is given twice, or a function is not linear.
    """
    rules: list[Rule] = []
    pairs: list[tuple[Piece, Slot]] = []
    problems: list[MappingProblem] = []
    named = _named(given, leaves)
    for name, target in named.items():
        path, transform, inverse = (*target, None, None)[:3] if isinstance(target, tuple) else (target, None, None)
        if name not in leaves:
            raise UsageError(f"mapping: the torch model has no {name!r}; it has {', '.join(leaves)}")
        if path not in flax_shapes:
            raise UsageError(f"mapping: the Flax model has no {path!r}; it has {', '.join(flax_shapes)}")
        if path in {rule.target for rule in rules} | {slot.target for _, slot in pairs}:
            raise UsageError(f"mapping: {path!r} is given twice; every Flax array is written once")
        leaf, shape = leaves[name], tuple(flax_shapes[path])
        piece = Piece(name, leaf.shape, kind_of(leaf.owner), leaf.owner.__name__, leaf.parameter)
        if transform is not None:
            result = _shape_after(transform, leaf)
            if result == shape:
                rule = Rule(name, path, None, transform, leaf.shape, inverse=inverse, found="given")
                rules.append(rule)
            else:
                detail = f"expected shape {shape}, found {result} from {name} by the given function"
                problems.append(MappingProblem(path, "both", detail))
            continue
        if moves(piece, Slot(path, shape)):
            pairs.append((piece, Slot(path, shape)))
        else:
            problems.append(misfit(piece, Slot(path, shape)))
    return rules, pairs, problems, set(named)


def _named(given: Given, leaves: Mapping[str, TorchLeaf]) -> Mapping[str, Any]:
    if given is None or isinstance(given, Mapping):
        return given or {}
    found = {}
    for name in leaves:
        try:
            target = given(name)
        except Exception as error:
            raise UsageError(f"mapping: the function raised {type(error).__name__} for {name!r}: {error}") from error
        if target is not None:
            found[name] = target
    return found


def misfit(piece: Piece, slot: Slot) -> MappingProblem:
    """Two arrays that belong together by name, of shapes that do not fit."""
    expected, found = expected_shape(piece), slot.shape
    slip = ""
    if expected != piece.shape and found == piece.shape:
        slip = ": it looks untransposed (torch stores (out, in), Flax (in, out))"
    elif sorted(expected) == sorted(found) and expected != found:
        slip = ": the axes look swapped"
    elif math.prod(expected) == math.prod(found):
        slip = ": as many numbers, in another arrangement"
    return MappingProblem(slot.target, "both", f"expected shape {expected} from {piece.source}, found {found}{slip}")


def _shape_after(transform: Callable[[Any], Any], leaf: TorchLeaf) -> tuple[int, ...]:
    """The shape that a user's function gives; raises a ``UsageError`` unless JAX can trace and transpose it."""
    import jax

    like = jax.ShapeDtypeStruct(leaf.shape, np.float32)
    try:
        result = jax.eval_shape(transform, like)
        jax.eval_shape(jax.linear_transpose(transform, like), result)
        linear = not np.any(np.asarray(transform(np.zeros(leaf.shape, np.float32))))
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise UsageError(
            f"mapping: the function given for {leaf.name} is not one that JAX can trace and transpose; expected a "
            f"linear one of the array's methods and jax.numpy, found {type(error).__name__}: {text}"
        ) from error
    if not linear:
        raise UsageError(f"mapping: the function given for {leaf.name} is not linear: it does not keep zeros")
    return tuple(result.shape)
