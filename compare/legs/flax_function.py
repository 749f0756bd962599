"""NNX and Linen models alike as one pure function of their leaves and the call."""

import contextlib
import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from compare.legs.watch import FlaxWatch
from compare.result import UsageError
from compare.structure import Call, flatten, rebuild

__all__ = ["FlaxFunction", "LeafKind", "flax_function", "mode_keywords"]

LeafKind = Literal["parameter", "statistic", "buffer"]
Mode = Literal["eval", "train"]

# Keyword arguments that say in which mode a Flax call runs, with their values in training.
_MODE_FLAGS = {"train": True, "training": True, "deterministic": False, "use_running_average": False}


Apply = Callable[[Mapping[str, Any], Call, FlaxWatch | None], tuple[Any, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class FlaxFunction:
    """A Flax model without its state.

    Args:
        leaves: every parameter, statistic and buffer by dotted path, as the model itself holds them: not to be changed.
        kinds: what each leaf is.
        apply: ``(leaves, call, watch) -> (output, leaves after the call)``, traceable by JAX; ``watch`` records
            checkpoints, None does not.
        apply_raised: the same with every ``dtype`` of its modules float64, for 64-bit mode.
    """

    leaves: Mapping[str, np.ndarray]
    kinds: Mapping[str, LeafKind]
    apply: Apply
    apply_raised: Apply

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every leaf."""
        return {path: tuple(leaf.shape) for path, leaf in self.leaves.items()}


def flax_function(
    model: Any,
    mode: Mode,
    flax_call: Mapping[str, Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
    example: Callable[[], Call] | None = None,
) -> FlaxFunction:
    """``model`` as a pure function; the model itself stays as it is.

    Args:
        model: an ``nnx.Module`` or a ``linen.Module``.
        mode: "eval" or "train": sets NNX's own switches, and the mode flags in the call's signature.
        flax_call: {"eval": {...}, "train": {...}}: further static keyword arguments; "method" and "mutable" are
            understood as Linen understands them.
        variables: of a Linen model; initialised from ``example`` when None.
        example: gives the Flax call that a Linen model is initialised with.

    Raises:
        UsageError: ``model`` is neither.
    """
    static = dict((flax_call or {}).get(mode, {}))
    if isinstance(model, nnx.Module):
        return _nnx_function(model, mode, static)
    if isinstance(model, linen.Module):
        return _linen_function(model, mode, static, variables, example)
    found = f"{type(model).__module__}.{type(model).__name__}"
    raise UsageError(f"flax_model: expected a flax.nnx.Module or a flax.linen.Module, found {found}")


def mode_keywords(method: Callable[..., Any], mode: Mode, static: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a Flax call: the flags in its signature that say in which mode it runs, and ``static``."""
    parameters = inspect.signature(method).parameters
    flags = {name: value == (mode == "train") for name, value in _MODE_FLAGS.items() if name in parameters}
    return {**flags, **static}


def _nnx_function(model: nnx.Module, mode: Mode, static: dict[str, Any]) -> FlaxFunction:
    own = nnx.clone(model)
    own.train() if mode == "train" else own.eval()
    method = static.pop("method", "__call__")
    bound = getattr(own, method, None)  # a model that is only converted need not have it
    keywords = mode_keywords(bound, mode, static) if bound else {}
    takes_rngs = bound is not None and "rngs" in inspect.signature(bound).parameters
    graphdef, state = nnx.split(own)
    flat = dict(nnx.to_flat_state(state))
    kept = {path: v for path, v in flat.items() if not isinstance(v, nnx.RngState)}
    names = {path: ".".join(str(part) for part in path) for path in kept}
    order = {path: number for number, path in enumerate(_definition_order(model, (), set()))}
    defined = sorted(kept, key=lambda path: order.get(tuple(map(str, path)), len(order)))
    leaves = {names[path]: np.asarray(_value(kept[path])) for path in defined}
    kinds: dict[str, LeafKind] = {names[path]: _nnx_kind(variable) for path, variable in kept.items()}

    def apply(
        graphdef: Any, values: Mapping[str, Any], call: Call, watch: FlaxWatch | None
    ) -> tuple[Any, dict[str, Any]]:
        filled = [(path, _replaced(v, values[names[path]] if path in names else _value(v))) for path, v in flat.items()]
        merged = nnx.merge(graphdef, nnx.from_flat_state(filled))
        extra = {"rngs": jax.random.key(0)} if takes_rngs and mode == "train" and "rngs" not in call.kwargs else {}
        with watch.nnx(merged) if watch else contextlib.nullcontext():
            output = getattr(merged, method)(*call.args, **{**extra, **keywords, **call.kwargs})
        after = {path: _value(variable) for path, variable in nnx.to_flat_state(nnx.state(merged))}
        return output, {names[path]: value for path, value in after.items() if path in names}

    for _, module in nnx.iter_modules(own):
        for name in [name for name, value in vars(module).items() if _is_low(name, value)]:
            setattr(module, name, jnp.float64)
    raised = nnx.split(own)[0]
    return FlaxFunction(leaves, kinds, functools.partial(apply, graphdef), functools.partial(apply, raised))


def _is_low(name: str, value: Any) -> bool:
    """Whether an attribute is a floating type of less than 64 bits: a module's ``dtype`` or ``param_dtype``."""
    if not name.endswith("dtype") or value is None:
        return False
    try:
        return jnp.issubdtype(value, jnp.floating) and jnp.dtype(value).itemsize < 8
    except TypeError:
        return False


def _raised_linen(model: linen.Module) -> linen.Module:
    """A copy in which every floating ``dtype`` is float64, those of modules among its fields included."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name, None)
        if field.name not in ("parent", "name") and isinstance(value, linen.Module):
            changed[field.name] = _raised_linen(value)
        elif _is_low(field.name, value):
            changed[field.name] = jnp.float64
    return model.clone(**changed) if changed else model


def _definition_order(node: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, ...]]:
    """Paths of the variables in the order in which attributes were set; the state itself is sorted by name."""
    if isinstance(node, nnx.Variable):
        yield path
        return
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, list | tuple | nnx.List):
        children: Any = enumerate(node)
    elif isinstance(node, Mapping):
        children = node.items()
    else:
        children = vars(node).items() if isinstance(node, nnx.Pytree) else ()
    for name, child in children:
        yield from _definition_order(child, (*path, str(name)), seen)


def _value(variable: Any) -> Any:
    return variable[...] if isinstance(variable, nnx.Variable) else variable


def _replaced(variable: Any, value: Any) -> Any:
    return variable.replace(value) if isinstance(variable, nnx.Variable) else value


def _nnx_kind(variable: Any) -> LeafKind:
    if isinstance(variable, nnx.Param):
        return "parameter"
    return "statistic" if isinstance(variable, nnx.BatchStat) else "buffer"


def _linen_function(
    model: linen.Module,
    mode: Mode,
    static: dict[str, Any],
    variables: Mapping[str, Any] | None,
    example: Callable[[], Call] | None,
) -> FlaxFunction:
    method = static.pop("method", None)
    mutable = static.pop("mutable", None)
    bound = getattr(type(model), method) if isinstance(method, str) else method or type(model).__call__
    keywords = mode_keywords(bound, mode, static)
    if variables is None:
        if example is None:
            raise UsageError("flax_variables: a Linen model needs its variables, or inputs to initialise it from")
        call = example()
        # In the precision that JAX has now; as float64 a model's own casts to the dtype of its input would warn.
        call = rebuild(call, {path: jnp.asarray(array) for path, array in flatten(call).items()})
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        variables = model.init(keys, *call.args, method=method, **{**keywords, **call.kwargs})
    flat = {
        tuple(_key_name(key) for key in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]
    }
    structure = jax.tree.structure(variables)
    names = _linen_names(list(flat))
    # JAX sorts by name; the dictionaries themselves stand in the order in which modules were first called.
    defined = [path for path in _insertion_order(variables, ()) if path in flat]
    leaves = {names[path]: np.asarray(flat[path]) for path in dict.fromkeys((*defined, *flat))}
    kinds: dict[str, LeafKind] = {
        names[path]: {"params": "parameter", "batch_stats": "statistic"}.get(path[0], "buffer")  # type: ignore[misc]
        for path in flat
    }
    changing = mutable if mutable is not None else [c for c in variables if c != "params"] if mode == "train" else False

    def apply(
        model: linen.Module, values: Mapping[str, Any], call: Call, watch: FlaxWatch | None
    ) -> tuple[Any, dict[str, Any]]:
        filled = jax.tree.unflatten(structure, [values[name] for name in names.values()])
        rngs = {"dropout": jax.random.key(0)} if mode == "train" else {}
        with watch.linen() if watch else contextlib.nullcontext():
            result = model.apply(
                filled, *call.args, rngs=rngs, mutable=changing, method=method, **{**keywords, **call.kwargs}
            )
        if changing is False:
            return result, dict(values)
        output, changed = result
        after = dict(values)
        for path, leaf in jax.tree_util.tree_flatten_with_path(changed)[0]:
            key = tuple(_key_name(part) for part in path)
            if key in names:
                after[names[key]] = leaf
        return output, after

    raised = functools.partial(apply, _raised_linen(model))
    return FlaxFunction(leaves, kinds, functools.partial(apply, model), raised)


def _insertion_order(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield from _insertion_order(child, (*path, str(name)))


def _linen_names(paths: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Dotted names without the collection, where that leaves them apart: "norm.mean" for batch_stats' norm.mean."""
    bare = Counter(path[1:] for path in paths)
    return {path: ".".join(path[1:] if path[0] == "params" or bare[path[1:]] == 1 else path) for path in paths}


def _key_name(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))
