"""The Flax training loop: gradient, optax update, new parameters; one compiled step, in float64."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend import core as jex

from compare.legs.flax_dropout import replay_in_flax
from compare.legs.flax_function import FlaxFunction
from compare.legs.lift import independent_outputs, lift
from compare.legs.program import quickly_compiled
from compare.mapping.weight_mapping import WeightMapping
from compare.result import UsageError
from compare.structure import Call, as_call, flatten, is_floating, rebuild
from compare.training.trajectory import Batch, Snapshot, Training

__all__ = ["run_optax", "schedule_values"]

Arrays = dict[str, np.ndarray]


def run_optax(
    training: Training, function: FlaxFunction, mapping: WeightMapping, start: Mapping[str, np.ndarray], masks: Any
) -> tuple[Snapshot, ...]:
    """Runs the loop over all batches, from torch's weights.

    Args:
        training: the pair of loops.
        function: the Flax model.
        mapping: from torch's arrays to its leaves.
        start: torch's parameters and buffers.
        masks: dropout masks of every batch.

    Returns:
        One snapshot per batch, in Flax's names and layout.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        return _Loop(training, function, mapping, start).run(masks)


def schedule_values(schedule: Any, counts: Sequence[int]) -> list[float]:
    """An optax schedule at ``counts``, in float64: optax itself computes in float32 from a 32-bit count."""
    if not callable(schedule):
        return [float(schedule)] * len(counts)
    with jax.enable_x64(True):
        values = []
        for count in counts:
            given = jnp.asarray(count, jnp.int64)
            (value,) = lift(jax.make_jaxpr(schedule)(given))(given)
            values.append(float(value))
    return values


class ParameterTree:
    """The parameters in the structure that users hand to optax: an ``nnx.State``, or Linen's nested dictionary.

    Args:
        model: the Flax model.
        paths: dotted paths of its parameters.
    """

    def __init__(self, model: Any, paths: Sequence[str]) -> None:
        self.paths = list(paths)
        self._state = nnx.state(nnx.clone(model), nnx.Param) if isinstance(model, nnx.Module) else None

    def build(self, arrays: Mapping[str, Any]) -> Any:
        """The tree that holds ``arrays``."""
        if self._state is not None:
            flat = [(path, v.replace(arrays[_dotted(path)])) for path, v in nnx.to_flat_state(self._state)]
            return nnx.from_flat_state(flat)
        tree: dict[str, Any] = {}
        for path in self.paths:
            *folders, leaf = path.split(".")
            place = tree
            for folder in folders:
                place = place.setdefault(folder, {})
            place[leaf] = arrays[path]
        return tree

    def flat(self, tree: Any) -> dict[str, Any]:
        """The arrays of such a tree, by dotted path."""
        names = self.keys()
        return {names[key]: leaf for key, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}

    def keys(self) -> dict[tuple[Any, ...], str]:
        """JAX's key path of every leaf -> dotted path."""
        named = self.build({path: np.asarray(i) for i, path in enumerate(self.paths)})
        return {key: self.paths[int(leaf)] for key, leaf in jax.tree_util.tree_flatten_with_path(named)[0]}


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(str(part) for part in path)


class _Loop:
    def __init__(
        self, training: Training, function: FlaxFunction, mapping: WeightMapping, start: Mapping[str, np.ndarray]
    ) -> None:
        self.training = training
        self.port = training.port
        self.function = function
        self.optimizer = training.optax_optimizer
        if not (hasattr(self.optimizer, "init") and hasattr(self.optimizer, "update")):
            found = type(self.optimizer).__name__
            raise UsageError(f"optax_optimizer: expected an optax.GradientTransformation, found {found}")
        leaves = {**function.leaves, **mapping.to_flax(start)}
        kinds = function.kinds
        self.parameters = {p: jnp.asarray(np.array(a), "float64") for p, a in leaves.items() if kinds[p] == "parameter"}
        self.others = {p: _raised(a) for p, a in leaves.items() if kinds[p] != "parameter"}
        self.tree = ParameterTree(self.port.flax_model, list(self.parameters))
        # Counts in 64 bits: from 32-bit ones JAX computes schedules in float32.
        self.state = jax.tree.map(_wide, self.optimizer.init(self.tree.build(self.parameters)))
        # What is declared float32 (MultiSteps' accumulator) is traced so, and then evaluated in float64.
        self.declared = self.state
        self.flax_scaler = training.scalers[1]
        self._compiled: dict[str, Callable[..., Any]] = {}

    def run(self, masks: Any) -> tuple[Snapshot, ...]:
        counts = [number // self.training.accumulate for number in range(len(self.training.batches))]
        schedule = self.training.learning_rate
        rates = [None] * len(counts) if schedule is None else schedule_values(schedule, counts)
        step = self._step if self.training.flax_step is None else self._own_step
        return tuple(step(batch, masks[number], rates[number]) for number, batch in enumerate(self.training.batches))

    def _step(self, batch: Batch, masks: Any, rate: float | None) -> Snapshot:
        inputs = {path: _raised(array) for path, array in flatten(batch.call).items()}
        target = {path: _raised(array) for path, array in flatten(batch.target).items()}
        given = (self.parameters, self.others, self.state, inputs, target, tuple(jnp.asarray(m) for m in masks))
        loss, gradients, none, others, updates, state = self._program(batch, given)(given)
        scale, finite = self._rescale(gradients)
        before = self.parameters
        if finite:
            self.state = state
            self.parameters = {path: before[path] + updates[path] for path in before}
        self.others = others
        return Snapshot(
            loss=np.asarray(loss),
            gradients={path: None if none[path] else np.asarray(array) for path, array in gradients.items()},
            learning_rate=rate,
            moments=self._moments(),
            update={path: np.asarray(u if finite else np.zeros_like(u)) for path, u in updates.items()},
            parameters={path: np.asarray(array) for path, array in self.parameters.items()},
            loss_scale=scale,
        )

    def _program(self, batch: Batch, given: Any) -> Callable[..., Any]:
        key = str((jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), given), id(batch.to_flax)))
        if key not in self._compiled:
            traced = (*given[:2], self.declared, *given[3:])
            closed, shape = jax.make_jaxpr(lambda g: self._traced(batch, *g), return_shape=True)(traced)
            structure = jax.tree.structure(shape)
            none = jax.tree.unflatten(structure, independent_outputs(closed))[1]
            compiled = _compile(closed, jax.tree.leaves(given))

            def program(given: Any) -> Any:
                loss, gradients, *rest = jax.tree.unflatten(structure, compiled(jax.tree.leaves(given)))
                return loss, gradients, none, *rest

            self._compiled[key] = program
        return self._compiled[key]

    def _traced(
        self, batch: Batch, parameters: Any, others: Any, state: Any, inputs: Any, target: Any, masks: Any
    ) -> Any:
        def loss_of(parameters: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            call = rebuild(batch.call, inputs)
            if isinstance(batch.to_flax, Call):
                call = batch.to_flax
            elif batch.to_flax is not None:
                call = as_call(batch.to_flax(*call.args, **call.kwargs))
            with replay_in_flax(masks):
                returned, after = self.function.apply({**parameters, **others}, call, None)
            selected = returned if self.port.flax_select is None else self.port.flax_select(returned)
            loss = jnp.asarray(self.training.jax_loss(selected, rebuild(batch.target, target)))
            if loss.size != 1:
                raise UsageError(f"jax_loss: expected a scalar, found shape {loss.shape}: the reduction is missing")
            return loss.reshape(()), {path: after[path] for path in others}

        (loss, after), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
        tree = self.tree.build(parameters)
        updates, state = self.optimizer.update(self.tree.build(gradients), state, tree)
        return loss, gradients, after, self.tree.flat(updates), state

    def _rescale(self, gradients: Mapping[str, Any]) -> tuple[float | None, bool]:
        """The loss scale after this step, and whether the step is taken."""
        if self.flax_scaler is None:
            return None, True
        scaler = self.flax_scaler
        scale = float(scaler.scale)
        finite = all(bool(jnp.isfinite(gradient * scale).all()) for gradient in gradients.values())
        if hasattr(scaler, "value_and_grad"):  # flax's DynamicScale: it learns of overflow from a gradient
            factor = 1.0 if finite else np.nan
            self.flax_scaler = scaler.value_and_grad(lambda x: x * factor)(jnp.float32(1.0))[0]
        else:
            self.flax_scaler = scaler.update(finite)
        return float(self.flax_scaler.scale), finite

    def _moments(self) -> dict[tuple[str, str], np.ndarray]:
        """State arrays of a parameter, by the name of the field that holds them; where two have the same, neither."""
        keys = self.tree.keys()
        found: dict[tuple[str, str], list[np.ndarray]] = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(self.state)[0]:
            for cut in range(1, len(path)):
                if path[cut:] in keys:
                    roles = [key.name for key in path[:cut] if hasattr(key, "name")]
                    found.setdefault((roles[-1] if roles else "", keys[path[cut:]]), []).append(np.asarray(leaf))
                    break
        return {name: arrays[0] for name, arrays in found.items() if len(arrays) == 1}

    def _own_step(self, batch: Batch, _masks: Any, rate: float | None) -> Snapshot:
        """One step of the user's own, on ``(parameters, state, batch) -> (parameters, state, loss)``."""
        call = rebuild(batch.call, {path: _raised(array) for path, array in flatten(batch.call).items()})
        inputs = call.args[0] if len(call.args) == 1 and not call.kwargs else call
        target = rebuild(batch.target, {path: _raised(array) for path, array in flatten(batch.target).items()})
        step = self.training.flax_step
        assert step is not None
        before = self.parameters
        tree, self.state, loss = step(self.tree.build(before), self.state, (inputs, target))
        self.parameters = self.tree.flat(tree)
        after = {path: np.asarray(array) for path, array in self.parameters.items()}
        update = {path: after[path] - np.asarray(before[path]) for path in after}
        return Snapshot(np.asarray(loss, np.float64).reshape(()), {}, rate, self._moments(), update, after)


def _compile(closed: Any, leaves: list[Any]) -> Callable[[list[Any]], Any]:
    lifted, plain = lift(closed), jex.jaxpr_as_fun(closed)
    try:
        return quickly_compiled(jax.jit(lambda leaves: lifted(*leaves)).lower(leaves))
    except Exception:  # what can't be lifted runs as it is, and its own precision shows
        return quickly_compiled(jax.jit(lambda leaves: plain(*leaves)).lower(leaves))


def _raised(array: Any) -> jax.Array:
    return jnp.asarray(np.array(array), "float64") if is_floating(array) else jnp.asarray(np.array(array))


def _wide(leaf: Any) -> Any:
    return leaf.astype(jnp.int64) if getattr(leaf, "dtype", None) == jnp.int32 else leaf
