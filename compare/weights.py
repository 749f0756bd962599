"""Weights across frameworks: a mapping that is total and linear.

*Total*: every torch parameter and buffer is written, or listed as having no counterpart; every Flax leaf is written
exactly once. *Linear*: values go forward through the mapping, and Flax gradients come back through its transpose.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from compare.result import UsageError

__all__ = ["MappingProblem", "Rule", "TorchLeaf", "WeightMapping", "propose_mapping", "torch_leaves"]

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TorchLeaf:
    """A parameter or buffer of a torch model.

    Args:
        name: as in the state_dict.
        shape: its shape.
        owner: the class of the module that holds it.
        parameter: False for a buffer.
        aliases: further names of the same tensor (tied weights).
    """

    name: str
    shape: tuple[int, ...]
    owner: type[torch.nn.Module]
    parameter: bool
    aliases: tuple[str, ...] = ()


def torch_leaves(model: torch.nn.Module) -> dict[str, TorchLeaf]:
    """All parameters and buffers by name, a tied one once under its first name."""
    owners = {prefix: type(module) for prefix, module in model.named_modules()}
    leaves: dict[str, TorchLeaf] = {}
    first_name: dict[int, str] = {}
    named: list[tuple[str, torch.Tensor, bool]]
    named = [(name, tensor, True) for name, tensor in model.named_parameters(remove_duplicate=False)]
    named += [(name, tensor, False) for name, tensor in model.named_buffers(remove_duplicate=False)]
    for name, tensor, parameter in named:
        if id(tensor) in first_name:
            first = leaves[first_name[id(tensor)]]
            leaves[first.name] = dataclasses.replace(first, aliases=(*first.aliases, name))
            continue
        first_name[id(tensor)] = name
        leaves[name] = TorchLeaf(name, tuple(tensor.shape), owners[name.rpartition(".")[0]], parameter)
    return leaves


@dataclasses.dataclass(frozen=True)
class Rule:
    """One torch array to one Flax leaf.

    Args:
        source: torch name.
        target: dotted Flax path.
        permutation: axes as ``np.transpose`` takes them; None leaves the array as it is. A permutation is orthogonal:
            its transpose is its inverse.
        transform: a linear function of the array given by the user instead, traceable by JAX.
        shape: the source's shape, which the transpose of ``transform`` needs.
        alternatives: permutations that fit the shapes as well, of a square array that no convention decides.
    """

    source: str
    target: str
    permutation: tuple[int, ...] | None = None
    transform: Callable[[Any], Any] | None = None
    shape: tuple[int, ...] = ()
    alternatives: tuple[tuple[int, ...] | None, ...] = ()

    def forward(self, array: np.ndarray) -> np.ndarray:
        """The Flax value of a torch value."""
        if self.transform is not None:
            return np.asarray(self.transform(array))
        return array if self.permutation is None else np.transpose(array, self.permutation)

    def transpose(self, array: np.ndarray) -> np.ndarray:
        """The torch gradient of a Flax gradient; for a permutation also the torch value of a Flax value."""
        if self.transform is not None:
            import jax

            with jax.enable_x64(True):
                like = jax.ShapeDtypeStruct(self.shape, array.dtype)
                (result,) = jax.linear_transpose(self.transform, like)(array)
                return np.asarray(result)
        return array if self.permutation is None else np.transpose(array, np.argsort(self.permutation))

    def describe(self) -> str:
        """How the array changes, in words."""
        if self.transform is not None:
            return "by the given function"
        return "as it is" if self.permutation is None else f"axes {self.permutation}"


@dataclasses.dataclass(frozen=True)
class MappingProblem:
    """A leaf that the mapping could not place.

    Args:
        name: torch name or Flax path.
        side: "torch" or "flax": on which side it has no counterpart, or "both" for two that do not fit.
        detail: one sentence.
    """

    name: str
    side: str
    detail: str


@dataclasses.dataclass(frozen=True)
class WeightMapping:
    """All rules between two models, what has no counterpart by nature, and what could not be placed.

    Args:
        rules: each target appears once.
        without_counterpart: torch names that Flax never has (``num_batches_tracked``).
        problems: what is left over on either side.
    """

    rules: tuple[Rule, ...]
    without_counterpart: tuple[str, ...] = ()
    problems: tuple[MappingProblem, ...] = ()

    def to_flax(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Flax leaves from torch arrays; rules whose source is absent are skipped."""
        return {rule.target: rule.forward(arrays[rule.source]) for rule in self.rules if rule.source in arrays}

    def gradients_to_torch(self, gradients: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray | None]:
        """Torch gradients from Flax gradients, summed where one torch array fills several Flax leaves."""
        found: dict[str, np.ndarray | None] = {}
        for rule in self.rules:
            if rule.target not in gradients:
                continue
            gradient = gradients[rule.target]
            back = None if gradient is None else rule.transpose(gradient)
            before = found.get(rule.source)
            found[rule.source] = back if before is None else before if back is None else before + back
        return found

    def to_torch(self, leaves: Mapping[str, np.ndarray]) -> Arrays:
        """Torch values from Flax values.

        Raises:
            UsageError: for a rule whose function can't be inverted.
        """
        arrays: Arrays = {}
        for rule in self.rules:
            if rule.target not in leaves:
                continue
            if rule.transform is not None:
                raise UsageError(f"{rule.source}: its mapping is a function, which has no known inverse")
            arrays[rule.source] = rule.transpose(leaves[rule.target])
        return arrays

    def raise_for_problems(self) -> None:
        """Raises one ``UsageError`` that lists everything missing, unexpected or misshapen."""
        if self.problems:
            raise UsageError("weights do not fit:\n" + "\n".join(f"  {p.name}: {p.detail}" for p in self.problems))


# Torch module class -> {torch leaf name: (Flax leaf name, permutation)}. A permutation of "kernel" reverses the roles
# of input and output axes: torch keeps (out, in, *window), Flax (*window, in, out).
_LeafTable = dict[str, tuple[str, tuple[int, ...] | None]]
_NORM: _LeafTable = {
    "weight": ("scale", None),
    "bias": ("bias", None),
    "running_mean": ("mean", None),
    "running_var": ("var", None),
}
_LEAF_RULES: list[tuple[tuple[type[torch.nn.Module], ...], _LeafTable]] = [
    ((torch.nn.Linear,), {"weight": ("kernel", (1, 0)), "bias": ("bias", None)}),
    ((torch.nn.Conv1d,), {"weight": ("kernel", (2, 1, 0)), "bias": ("bias", None)}),
    ((torch.nn.Conv2d,), {"weight": ("kernel", (2, 3, 1, 0)), "bias": ("bias", None)}),
    ((torch.nn.Conv3d,), {"weight": ("kernel", (2, 3, 4, 1, 0)), "bias": ("bias", None)}),
    ((torch.nn.Embedding,), {"weight": ("embedding", None)}),
    ((torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm), _NORM),
]
_NEVER_IN_FLAX = ("num_batches_tracked",)


def _conventions(leaf: TorchLeaf) -> list[tuple[str, tuple[int, ...] | None]]:
    """Flax leaf names and permutations that ``leaf`` may have, likeliest first."""
    name = leaf.name.rpartition(".")[2]
    for owners, table in _LEAF_RULES:
        if issubclass(leaf.owner, owners) and name in table:
            return [table[name]]
    same: list[tuple[str, tuple[int, ...] | None]] = [(name, None)]
    if len(leaf.shape) < 2:
        return same
    # A matrix of the user's own: torch's habit is (out, in), Flax's is (in, out).
    reverse = tuple(reversed(range(len(leaf.shape))))
    swapped = [("kernel", reverse), ("kernel", None)] if name == "weight" else []
    return [*swapped, (name, reverse), *same]


def propose_mapping(
    torch_model: torch.nn.Module,
    flax_shapes: Mapping[str, tuple[int, ...]],
    given: Mapping[str, Any] | None = None,
) -> WeightMapping:
    """The mapping that names, conventions and shapes propose.

    Args:
        torch_model: any module.
        flax_shapes: shape of every Flax leaf (parameters, statistics and buffers) by dotted path.
        given: torch name -> Flax path, or (Flax path, linear function); these come first.

    Returns:
        The mapping; what could not be placed is in ``problems``.

    Raises:
        UsageError: ``given`` names an array or path that does not exist.
    """
    leaves = torch_leaves(torch_model)
    rules, problems = _given_rules(given or {}, leaves, flax_shapes)
    taken = {rule.target for rule in rules} | {problem.name for problem in problems}
    done = set(given or {})
    without: list[str] = []
    for name, leaf in leaves.items():
        if name in done:
            continue
        if name.rpartition(".")[2] in _NEVER_IN_FLAX:
            without.append(name)
            continue
        rule, problem = _place(leaf, flax_shapes, taken, rules)
        if rule is not None:
            rules.append(rule)
            taken.add(rule.target)
        if problem is not None:
            problems.append(problem)
            taken |= {problem.name} if problem.side == "both" else set()
    misfits = {problem.name for problem in problems}
    for path, shape in flax_shapes.items():
        if path not in taken and path not in misfits:
            detail = f"Flax has it, shape {shape}; nothing in the torch model fits"
            problems.append(MappingProblem(path, "flax", detail))
    return WeightMapping(tuple(rules), tuple(without), tuple(problems))


def _given_rules(
    given: Mapping[str, Any], leaves: Mapping[str, TorchLeaf], flax_shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[Rule], list[MappingProblem]]:
    rules: list[Rule] = []
    problems: list[MappingProblem] = []
    for name, target in given.items():
        path, transform = target if isinstance(target, tuple) else (target, None)
        if name not in leaves:
            raise UsageError(f"mapping: the torch model has no {name!r}; it has {', '.join(leaves)}")
        if path not in flax_shapes:
            raise UsageError(f"mapping: the Flax model has no {path!r}; it has {', '.join(flax_shapes)}")
        if path in {rule.target for rule in rules}:
            raise UsageError(f"mapping: {path!r} is given twice; every Flax array is written once")
        leaf, shape = leaves[name], tuple(flax_shapes[path])
        if transform is not None:
            result = _shape_after(transform, leaf)
            if result == shape:
                rules.append(Rule(name, path, None, transform, leaf.shape))
            else:
                detail = f"expected shape {shape}, found {result} from {name} by the given function"
                problems.append(MappingProblem(path, "both", detail))
            continue
        conventions = [permutation for _, permutation in _conventions(leaf)]
        fitting = [permutation for permutation in conventions if _fits(leaf, permutation, shape)]
        if fitting:
            rules.append(Rule(name, path, fitting[0], shape=leaf.shape))
        else:
            problems.append(_misfit(leaf, path, conventions[0], shape))
    return rules, problems


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


def _fits(leaf: TorchLeaf, permutation: tuple[int, ...] | None, shape: tuple[int, ...]) -> bool:
    order: Sequence[int] = range(len(leaf.shape)) if permutation is None else permutation
    return tuple(leaf.shape[axis] for axis in order) == tuple(shape)


def _place(
    leaf: TorchLeaf, flax_shapes: Mapping[str, tuple[int, ...]], taken: set[str], rules: Sequence[Rule]
) -> tuple[Rule | None, MappingProblem | None]:
    prefix = leaf.name.rpartition(".")[0]
    misfit: MappingProblem | None = None
    for flax_name, permutation in _conventions(leaf):
        path = f"{prefix}.{flax_name}" if prefix else flax_name
        if path not in flax_shapes or path in taken:
            continue
        if _fits(leaf, permutation, flax_shapes[path]):
            fitting = [p for name, p in _conventions(leaf) if name == flax_name and _fits(leaf, p, flax_shapes[path])]
            return Rule(leaf.name, path, permutation, shape=leaf.shape, alternatives=tuple(fitting[1:])), None
        misfit = misfit or _misfit(leaf, path, permutation, flax_shapes[path])
    if misfit is not None:
        return None, misfit
    detail = f"torch has it, shape {leaf.shape}; nothing in the Flax model fits"
    return None, MappingProblem(leaf.name, "torch", detail)


def _misfit(leaf: TorchLeaf, path: str, permutation: tuple[int, ...] | None, found: tuple[int, ...]) -> MappingProblem:
    order: Sequence[int] = range(len(leaf.shape)) if permutation is None else permutation
    expected = tuple(leaf.shape[axis] for axis in order)
    slip = ""
    if permutation is not None and found == leaf.shape:
        slip = ": it looks untransposed (torch stores (out, in), Flax (in, out))"
    elif sorted(expected) == sorted(found) and expected != found:
        slip = ": the axes look swapped"
    return MappingProblem(path, "both", f"expected shape {expected} from {leaf.name}, found {tuple(found)}{slip}")
