"""Many draws of the initial parameters of both models."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import linen, nnx

from compare.evidence import sentence_of
from compare.legs.flax_function import flax_function
from compare.mapping.proposal import propose_mapping
from compare.mapping.weight_mapping import WeightMapping
from compare.result import UsageError
from compare.surroundings import own_surroundings

__all__ = ["Draws", "draw"]

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Draws:
    """Parameters of both models, stacked over draws.

    Args:
        torch: name -> (draws, ...) array.
        flax: the same parameters of the Flax model, in torch's names and layout.
        raw: Flax's own names -> array in Flax's own layout, in which a key shows.
        mapping: between the two.
    """

    torch: Mapping[str, np.ndarray]
    flax: Mapping[str, np.ndarray]
    raw: Mapping[str, np.ndarray]
    mapping: WeightMapping

    @property
    def fixed(self) -> bool:
        """Whether every draw of the Flax model is the same."""
        return all(bool((array == array[:1]).all()) for array in self.raw.values())


def draw(
    torch_factory: Callable[[], torch.nn.Module],
    flax_factory: Callable[..., Any],
    draws: int,
    mapping: Mapping[str, Any] | None,
    seed: int,
) -> Draws:
    """Calls both factories ``draws`` times, each time with another seed.

    Raises:
        UsageError: a factory raises, or returns no model.
    """
    models, torch_draws = [], []
    with own_surroundings():
        for number in range(draws):
            torch.manual_seed(seed + number)
            model = _made("torch_factory", torch_factory)
            if not isinstance(model, torch.nn.Module):
                raise UsageError(f"torch_factory: expected a torch.nn.Module, found {type(model).__name__}")
            models.append(model if number == 0 else None)
            torch_draws.append({n: p.detach().cpu().double().numpy().copy() for n, p in model.named_parameters()})
    make = _flax_maker(flax_factory)
    raw = [_parameters(_made("flax_factory", functools.partial(make, seed + number))) for number in range(draws)]
    shapes = {path: tuple(array.shape) for path, array in raw[0].items()}
    buffers = {name for name, _ in models[0].named_buffers()}  # type: ignore[union-attr]
    found = propose_mapping(models[0], shapes, mapping)  # type: ignore[arg-type]
    problems = tuple(problem for problem in found.problems if problem.name not in buffers)
    found = dataclasses.replace(found, problems=problems)
    invertible = {rule.target for rule in found.rules if rule.transform is None}
    back = [found.to_torch({path: array for path, array in arrays.items() if path in invertible}) for arrays in raw]
    names = [name for name in torch_draws[0] if name in back[0] and name not in found.zeroed]
    return Draws(
        torch={name: np.stack([arrays[name] for arrays in torch_draws]) for name in torch_draws[0]},
        flax={name: np.stack([arrays[name] for arrays in back]) for name in names},
        raw={path: np.stack([arrays[path] for arrays in raw]) for path in raw[0]},
        mapping=found,
    )


def _made(what: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} raises {sentence_of(error)}") from error


def _flax_maker(factory: Callable[..., Any]) -> Callable[[int], Any]:
    """The factory as a function of a seed, by the name of its argument without a default: rngs, key, seed, or none."""
    parameters = inspect.signature(factory).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = needed or [p for p in parameters if p.name in ("rngs", "seed", "key")]
    if not needed:
        return lambda _: factory()
    if len(needed) > 1:
        names = ", ".join(p.name for p in needed)
        raise UsageError(f"flax_factory: expected no argument, or one of rngs, key or seed; found {names}")
    (argument,) = needed
    kinds: dict[str, Callable[[int], Any]] = {"seed": int, "key": jax.random.key, "rng": jax.random.key}
    kind = kinds.get(argument.name, nnx.Rngs)
    if argument.kind is argument.KEYWORD_ONLY:
        return lambda seed: factory(**{argument.name: kind(seed)})
    return lambda seed: factory(kind(seed))


def _parameters(made: Any) -> Arrays:
    if isinstance(made, nnx.Module):
        function = flax_function(made, "eval")
        return {p: np.asarray(a, np.float64) for p, a in function.leaves.items() if function.kinds[p] == "parameter"}
    if isinstance(made, tuple) and len(made) == 2:
        made = made[1]
    if isinstance(made, Mapping):
        tree = made.get("params", made)
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {".".join(str(key.key) for key in path): np.asarray(leaf, np.float64) for path, leaf in flat}
    hint = ": return model.init(key, inputs)" if isinstance(made, linen.Module) else ""
    raise UsageError(f"flax_factory: expected an nnx.Module or Linen variables, found {type(made).__name__}{hint}")
