"""The Flax leg: traced once per precision and shape, compiled, and run on every case."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np

from compare.case_weights import Held
from compare.legs.dtypes import narrow_dtype, shared_16_bit_type, wide
from compare.legs.flax_dropout import replay_in_flax
from compare.legs.flax_function import FlaxFunction
from compare.legs.lift import independent_outputs
from compare.legs.memory import give_back
from compare.legs.program import compile_program
from compare.legs.run import Case, Reduce, Run, reduced
from compare.legs.watch import Checkpoint, FlaxWatch
from compare.mapping.weight_mapping import WeightMapping
from compare.result import UsageError
from compare.structure import Call, as_call, flatten, is_floating, rebuild, renamed

__all__ = ["FlaxLeg", "LayoutError"]

_ONE_WAY = "Reverse-mode differentiation does not work for lax.while_loop"  # as jax words it

Arguments = tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], tuple[Any, ...]]


class LayoutError(Exception):
    """A function of the user's that brings one layout to the other (``Inputs.flax``) does not take this call."""


class FlaxLeg:
    """Runs a Flax model on cases, in float64 or float32.

    Args:
        function: the model as a pure function.
        mapping: from torch's arrays to the model's leaves.
        precision: "float64" (islands of lower precision lifted) or "float32".
        to_flax: from the torch call to the Flax call; None where they are alike; or the Flax call itself, and then
            there are no gradients for the torch call's inputs.
        select: brings the output to torch's structure and layout; None keeps it.
        loss: a function of the selected outputs, compared as one more output.
        ranks: torch's outputs, path -> number of axes; empty as long as torch was not run.
    """

    def __init__(
        self,
        function: FlaxFunction,
        mapping: WeightMapping,
        precision: Literal["float64", "float32"],
        to_flax: Callable[..., Any] | Call | None = None,
        select: Callable[[Any], Any] | None = None,
        loss: Callable[[Any], Any] | None = None,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        self.function = function
        self.mapping = mapping
        self.precision = precision
        self.to_flax = to_flax
        self.select = select
        self.loss = loss
        self.ranks = {} if ranks is None else ranks
        self.islands: tuple[str, ...] = ()
        self.constants: tuple[str, ...] = ()
        self._compiled: dict[str, Callable[[Arguments, int | None, Reduce | None], Run]] = {}
        self._masks: tuple[Any, ...] = ()
        self._traced: dict[str, Callable[[Arguments], tuple[Checkpoint, ...]]] = {}

    def run(self, case: Case, constants_seed: int | None = None, reduce: Reduce | None = None) -> Run:
        """Runs ``case`` forward, and backward if it has cotangents.

        Args:
            case: weights, inputs, cotangents and dropout masks.
            constants_seed: then ``constants`` are moved by a rounding of their own precision.
            reduce: what is kept of each gradient; None for all of it.
        """
        with self._precision():
            arguments = self._arguments(case)
            key = _signature(arguments)
            if key not in self._compiled:
                self._compiled[key] = self._compile(case.call, arguments)
            return self._compiled[key](arguments, constants_seed, reduce)

    def with_tables(self, case: Case, own: bool, reduce: Reduce | None = None) -> Run:
        """``case`` as it is traced outside 64-bit mode, lifted; its tables too, or ``own`` as the port holds them."""
        islands, constants = self.islands, self.constants
        try:
            with self._precision():
                arguments = self._arguments(case)
                return self._compile(case.call, arguments, own)(arguments, None, reduce)
        finally:
            self.islands, self.constants = islands, constants

    def trace(self, case: Case) -> tuple[Checkpoint, ...]:
        """What goes into and comes out of every submodule in ``case``, with gradients."""
        with self._precision():
            arguments = self._arguments(case)
            key = _signature(arguments)
            if key not in self._traced:
                self._traced[key] = self._compile_trace(case.call, arguments)
            return self._traced[key](arguments)

    def calls(self, case: Case) -> tuple[str, ...]:
        """The submodules in the order of their calls, by a trace that computes nothing."""
        with self._precision():
            return tuple(module for module, *_ in self._seen(case.call, self._arguments(case)).edges)

    def _seen(self, call: Call, arguments: Arguments) -> FlaxWatch:
        watch = FlaxWatch()

        def function(given: Arguments) -> Any:
            nonlocal watch
            watch = FlaxWatch()  # a trace that breaks off in 64-bit mode has seen some
            return self._watched(call, given, watch)

        self._traced_function(function, arguments)
        return watch

    def _compile_trace(self, call: Call, arguments: Arguments) -> Callable[[Arguments], tuple[Checkpoint, ...]]:
        watch = self._seen(call, arguments)
        floating = {key: value for key, value in watch.values.items() if is_floating(value)}
        shifts = {key: np.zeros(value.shape, value.dtype) for key, value in floating.items()}

        def function(given: tuple[Arguments, dict[str, Any]]) -> Any:
            arguments, shifts = given

            def shifted(shifts: dict[str, Any]) -> Any:
                nonlocal watch
                watch = FlaxWatch(shifts)
                return self._watched(call, arguments, watch)

            if one_way:
                return shifted(shifts)[1], {}
            differentiable, vjp, values = jax.vjp(shifted, shifts, has_aux=True)
            cotangents = {path: arguments[4][path].astype(value.dtype) for path, value in differentiable.items()}
            return values, vjp(cotangents)[0]

        one_way = False
        try:
            closed, shape = self._traced_function(function, (arguments, shifts))
        except ValueError as error:
            if _ONE_WAY not in str(error):
                raise
            one_way = True
            closed, shape = self._traced_function(function, (arguments, shifts))
        program = compile_program(closed, jax.tree.leaves((arguments, shifts)), self.precision)

        def run(given: Arguments) -> tuple[Checkpoint, ...]:
            values, gradients = jax.tree.unflatten(
                jax.tree.structure(shape), program.run(jax.tree.leaves((given, shifts)))
            )
            return watch.checkpoints(values, gradients)

        return run

    def _watched(self, call: Call, arguments: Arguments, watch: FlaxWatch) -> Any:
        parameters, others, floating, integers, cotangents, masks = arguments
        outputs, _ = self._forward(call, {**parameters, **others}, {**floating, **integers}, masks, watch)
        return _differentiable(outputs, cotangents), watch.values

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        # TF32 is on by default on recent GPUs, and torch does not use it: neither does a comparison.
        with jax.enable_x64(self.precision == "float64"), jax.default_matmul_precision("highest"):
            yield

    def _arguments(self, case: Case) -> Arguments:
        kinds, own = self.function.kinds, {path: leaf.dtype for path, leaf in self.function.leaves.items()}
        parameter_types = [dtype for path, dtype in own.items() if kinds[path] == "parameter"]
        low = None if self.precision == "float64" else shared_16_bit_type(parameter_types)
        parameters: dict[str, Any] = {}
        others: dict[str, Any] = {}
        weights = case.weights
        if self.precision == "float32" and isinstance(weights, Held):
            weights = weights.narrow
        # One by one, so that only the device's arrays are all there at once.
        for path, leaf in itertools.chain(self.mapping.flax_leaves(weights), self.function.leaves.items()):
            if kinds[path] != "parameter":
                others.setdefault(path, self._cast(leaf, own[path]))
            elif path not in parameters:
                parameters[path] = jax.device_put(self._cast(leaf, low))
        give_back()
        inputs = flatten(case.call)
        floating = {path: self._cast(array, low) for path, array in inputs.items() if is_floating(array)}
        integers = {path: _canonical(array) for path, array in inputs.items() if not is_floating(array)}
        cotangents = {path: self._cast(array) for path, array in case.cotangents.items()}
        self._masks = case.masks
        return parameters, others, floating, integers, cotangents, tuple(_canonical(mask) for mask in case.masks)

    def _cast(self, array: np.ndarray, dtype: Any = None) -> np.ndarray:
        # By NumPy: JAX would compile a program for each shape that it converts.
        narrow = self.precision == "float32" and dtype is not None and np.dtype(dtype).itemsize == 2
        if dtype is not None and (narrow or not is_floating(np.empty(0, dtype))):
            return np.asarray(array).astype(jax.dtypes.canonicalize_dtype(dtype), copy=False)
        return np.asarray(array).astype(self.precision, copy=False)

    def _compile(
        self, call: Call, arguments: Arguments, own_tables: bool | None = None
    ) -> Callable[[Arguments, int | None, Reduce | None], Run]:
        def flat_function(given: Arguments) -> Any:
            return self._forward_and_backward(call, *given)

        without = ""
        try:
            closed, shape = self._traced_function(flat_function, arguments, own_tables is not None)
        except ValueError as error:
            if _ONE_WAY not in str(error):
                raise
            without = "a while_loop in the Flax model can't be differentiated backward"
            closed, shape = self._traced_function(
                lambda given: self._forward_and_backward(call, given[0], given[1], given[2], given[3], {}, given[5]),
                arguments,
                own_tables is not None,
            )
        structure = jax.tree.structure(shape)
        by_function = {rule.target for rule in self.mapping.rules if rule.transform is not None}  # no known inverse
        constant = jax.tree.unflatten(structure, independent_outputs(closed))
        # Gradients take the place of their parameters.
        donated = len(arguments[0]) if arguments[4] and not without else 0
        program = compile_program(closed, jax.tree.leaves(arguments), self.precision, bool(own_tables), donated)
        self.islands, self.constants = program.islands, program.constants

        def run(given: Arguments, constants_seed: int | None, reduce: Reduce | None) -> Run:
            results = program.run(jax.tree.leaves(given), constants_seed)
            values = jax.tree.unflatten(structure, [wide(result) for result in results])
            outputs, parameters, inputs, statistics = values
            gradients = {path: None if constant[1][path] else array for path, array in parameters.items()}
            inputs = {} if isinstance(self.to_flax, Call) else inputs
            from_inputs = {path: None if constant[2][path] else array for path, array in inputs.items()}
            return Run(
                outputs=outputs,
                without_gradients=without,
                parameter_gradients=reduced(reduce, "parameter_gradients", self.mapping.gradients_to_torch(gradients)),
                input_gradients=reduced(reduce, "input_gradients", from_inputs),
                statistics=self.mapping.to_torch({p: a for p, a in statistics.items() if p not in by_function}),
            )

        return run

    def _traced_function(self, function: Callable[[Any], Any], arguments: Any, narrow: bool = False) -> tuple[Any, Any]:
        """The jaxpr of ``function``, in 64-bit mode unless ``narrow``, and the structure of what it returns."""
        if not narrow:
            try:
                return jax.make_jaxpr(function, return_shape=True)(arguments)
            except Exception:
                if self.precision == "float32":
                    raise
        # Some right ports can't be traced in 64-bit mode (indices of unlike width). Their own trace can be lifted.
        with jax.enable_x64(False):
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, narrow_dtype(leaf.dtype)), arguments)
            return jax.make_jaxpr(function, return_shape=True)(shapes)

    def _forward_and_backward(
        self,
        call: Call,
        parameters: dict[str, Any],
        others: dict[str, Any],
        floating: dict[str, Any],
        integers: dict[str, Any],
        cotangents: dict[str, Any],
        masks: tuple[Any, ...],
    ) -> Any:
        def forward(parameters: dict[str, Any], floating: dict[str, Any]) -> Any:
            outputs, after = self._forward(call, {**parameters, **others}, {**floating, **integers}, masks, None)
            return _differentiable(outputs, cotangents), (outputs, {path: after[path] for path in others})

        if not cotangents:
            _, (outputs, statistics) = forward(parameters, floating)
            return outputs, {}, {}, statistics
        differentiable, vjp, (outputs, statistics) = jax.vjp(forward, parameters, floating, has_aux=True)
        given = {path: cotangents[path].astype(value.dtype) for path, value in differentiable.items()}
        parameter_gradients, input_gradients = vjp(given)
        return outputs, parameter_gradients, input_gradients, statistics

    def _forward(
        self,
        call: Call,
        leaves: Mapping[str, Any],
        inputs: Mapping[str, Any],
        masks: tuple[Any, ...],
        watch: FlaxWatch | None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        given = rebuild(call, inputs)
        if isinstance(self.to_flax, Call):
            flax_call = self.to_flax
        else:
            flax_call = given if self.to_flax is None else self._translated(self.to_flax, given)
        if watch is not None:
            watch.begin()
        with replay_in_flax(masks, self._masks):
            in_float64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]  # within enable_x64
            apply = self.function.apply_raised if in_float64 else self.function.apply
            returned, after = apply(leaves, flax_call, watch)
        return self._outputs(returned), after

    def _translated(self, to_flax: Callable[..., Any], given: Call) -> Call:
        try:
            return as_call(to_flax(*given.args, **given.kwargs))
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise LayoutError(f"inputs: the function flax= does not take this call: {text}") from error

    def _outputs(self, returned: Any) -> dict[str, Any]:
        selected = returned if self.select is None else self.select(returned)
        outputs = flatten(selected)
        if not outputs:
            found = type(returned).__name__
            raise UsageError(f"the Flax model returned {found}, in which there is no array to compare")
        outputs = renamed(outputs, self.ranks)
        if self.loss is not None:
            outputs["loss"] = self.loss(selected)
        return outputs


def _canonical(array: Any) -> np.ndarray:
    """``array`` in the width that JAX takes it in."""
    found = np.asarray(array)
    return found.astype(jax.dtypes.canonicalize_dtype(found.dtype), copy=False)


def _signature(arguments: Arguments) -> str:
    """What a compiled program depends on: structure, shapes and dtypes."""
    return str((jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), arguments), jax.tree.structure(arguments)))


def _differentiable(outputs: Mapping[str, Any], cotangents: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs that have a cotangent of their shape; another shape is another check's finding."""
    return {
        path: value for path, value in outputs.items() if path in cotangents and value.shape == cotangents[path].shape
    }
