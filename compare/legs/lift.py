"""Evaluates a traced JAX function in float64, float32 and bfloat16 islands inside it included.

Real ports hold islands of lower precision: a softmax or a normalisation that upcasts "to float32", a table that is
built in float32. Under 64-bit mode these stay float32, and a right port differs by 1e-8 to 1e-6. Lifting evaluates the
traced function equation by equation and leaves out every cast to a lower floating type, so that both sides agree to
1e-15 where they compute the same function.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

__all__ = ["Lifted", "independent_outputs", "lift"]

# Equations that only call an inner function: derivatives were taken before, so the body is all that counts.
_CALLS = {"pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
_CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_BODY_NAMES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Lifted:
    """A function that computes in float64 what a jaxpr computes in its own precision.

    Args:
        closed: the traced function.
        own_tables: whether what depends on no argument (a table of sines, frequencies) keeps the precision it was
            traced in: what the port really holds.

    Attributes:
        islands: where casts to a lower precision were left out, known after the first call.
        constants: numbers that the program holds in a lower precision and that can't be read back as they were
            written, known after the first call. Only these still round.
    """

    def __init__(self, closed: Any, own_tables: bool = False) -> None:
        self.closed = closed
        self._own_tables = own_tables
        self.islands: list[str] = []
        self.constants: dict[int, str] = {}
        self._moves: Any = None

    def __call__(self, *values: Any, moves: Any = None) -> list[Any]:
        """Flat arguments to flat outputs, under 64-bit mode.

        Args:
            values: the arguments; integers may be wider than they were when the function was traced.
            moves: for each of ``constants`` by how many roundings it is moved; none when None.
        """
        self._moves = moves
        given = [_as_traced(value, var.aval.dtype) for var, value in zip(self.closed.jaxpr.invars, values, strict=True)]
        return self._evaluate(self.closed.jaxpr, self.closed.consts, given)

    def _evaluate(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        environment: dict[Any, Any] = {}

        def read(atom: Any, place: Any = None) -> Any:
            return self._constant(atom, atom.val, place) if isinstance(atom, jex.Literal) else environment[atom]

        for var, value in zip(jaxpr.constvars, consts, strict=True):
            environment[var] = self._constant(var, value)
        environment.update(zip(jaxpr.invars, map(raised, values), strict=True))
        tables = dict(zip(jaxpr.constvars, consts, strict=True)) if self._own_tables else {}
        for equation in jaxpr.eqns:
            if self._own_tables and all(isinstance(atom, jex.Literal) or atom in tables for atom in equation.invars):
                given = [atom.val if isinstance(atom, jex.Literal) else tables[atom] for atom in equation.invars]
                found = _as_traced_results(equation, given)
                tables.update(zip(equation.outvars, found, strict=True))
                results = [raised(value) for value in found]
            else:
                results = self._equation(equation, [read(atom, equation) for atom in equation.invars])
            environment.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _constant(self, atom: Any, value: Any, equation: Any = None) -> Any:
        """A number of the program in float64, moved if it is one that still rounds."""
        constant = as_written(value)
        if isinstance(value, jax.core.Tracer) or not _rounds(value):
            return constant
        dtype = np.dtype(value.dtype).name
        if id(atom) not in self.constants:  # the jaxpr is kept, so that its atoms keep their identities
            shown = f"{np.asarray(value):.8g}" if np.ndim(value) == 0 else f"table of shape {np.shape(value)}"
            self.constants[id(atom)] = f"{dtype} {shown}" + (f" at {_where(equation)}" if equation else "")
        if self._moves is None:
            return constant
        move = self._moves[list(self.constants).index(id(atom))]
        if np.ndim(value):  # each entry of a table in a direction of its own
            move = jnp.sin(1e3 * move + 13.0 * jnp.arange(constant.size)).reshape(constant.shape)
        return constant * (1.0 + float(jnp.finfo(dtype).eps) * move)

    def _equation(self, equation: Any, values: list[Any]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            body = next(params[key] for key in _BODY_NAMES if key in params)
            jaxpr, consts = (body.jaxpr, body.consts) if hasattr(body, "consts") else (body, ())
            return self._evaluate(jaxpr, consts, values)
        if name == "scan":
            return self._scan(equation, values)
        if name == "while":
            return self._while(params, values)
        if name == "cond":
            branches = [self._body(branch) for branch in params["branches"]]
            return jax.lax.switch(values[0], branches, *values[1:])
        if name == "convert_element_type" and _low(params["new_dtype"]):
            self._note_island(values[0], params["new_dtype"], equation)
            return [jnp.asarray(values[0]).astype(jnp.float64)]
        if name == "reduce_precision":
            return values
        if name == "bitcast_convert_type":
            return [raised(r) for r in _as_list(equation.primitive.bind(*values, **params))]
        params = _raised_params(params)
        if params.get("update_jaxpr") is not None:  # scatter-add and its kin hold what they do to one element
            body = self._body(_closed(params["update_jaxpr"], params["update_consts"]))
            update = jax.make_jaxpr(body)(*[jnp.zeros((), values[0].dtype)] * 2)
            params = {**params, "update_jaxpr": update.jaxpr, "update_consts": tuple(update.consts)}
        results = equation.primitive.bind(*values, **params)
        return [raised(r) for r in _as_list(results)]

    def _body(self, closed: Any) -> Callable[..., list[Any]]:
        return lambda *values: self._evaluate(closed.jaxpr, closed.consts, values)

    def _scan(self, equation: Any, values: list[Any]) -> list[Any]:
        params, inner = equation.params, equation.params["jaxpr"]
        # Constants, carry and slices, in this order: slices have an axis more outside, and releases of JAX name the
        # three numbers differently.
        n_slices = _stacked(equation.invars, inner.jaxpr.invars)
        n_carry = len(equation.outvars) - _stacked(equation.outvars, inner.jaxpr.outvars)
        n_consts = len(values) - n_carry - n_slices
        body = self._body(inner)
        consts, carry, xs = values[:n_consts], values[n_consts : n_consts + n_carry], values[n_consts + n_carry :]

        def step(state: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
            results = body(*consts, *state, *slices)
            return results[:n_carry], results[n_carry:]

        final, stacked = jax.lax.scan(step, list(carry), list(xs), length=params["length"], reverse=params["reverse"])
        return [*final, *stacked]

    def _while(self, params: dict[str, Any], values: list[Any]) -> list[Any]:
        n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
        condition, body = self._body(params["cond_jaxpr"]), self._body(params["body_jaxpr"])
        cond_consts, body_consts = values[:n_cond], values[n_cond : n_cond + n_body]
        return jax.lax.while_loop(
            lambda state: condition(*cond_consts, *state)[0],
            lambda state: body(*body_consts, *state),
            list(values[n_cond + n_body :]),
        )

    def _note_island(self, value: Any, dtype: Any, equation: Any) -> None:
        if jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating):
            self.islands.append(f"{np.dtype(dtype).name} at {_where(equation)}")


def _closed(jaxpr: Any, consts: Sequence[Any]) -> Any:
    """``jaxpr`` with its constants, which it holds itself in newer releases of JAX."""
    return jaxpr if hasattr(jaxpr, "consts") else jex.ClosedJaxpr(jaxpr, consts)


def _stacked(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    """How many atoms of a scan have an axis more than those of its body."""
    return sum(a.aval.ndim > b.aval.ndim for a, b in zip(outer, inner, strict=True))


def lift(closed: Any, own_tables: bool = False) -> Lifted:
    """The lifted form of a traced function; its ``islands`` are known after the first call."""
    return Lifted(closed, own_tables)


def raised(value: Any) -> Any:
    """``value`` in float64 if it is of a lower floating type."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None and _low(dtype):
        return jnp.asarray(value).astype(jnp.float64)
    return value


def as_written(value: Any) -> Any:
    """A constant of the program in float64: the decimal number that was written, 1e-5 for 9.99999975e-06.

    The shortest decimal that rounds to a float32 is what stood in the source, unless that had more than seven digits.
    """
    scalar = getattr(value, "shape", None) == () and not isinstance(value, jax.core.Tracer)
    if scalar and value.dtype == np.float32:
        return jnp.asarray(float(str(np.float32(value))), jnp.float64)
    return raised(value)


def _rounds(value: Any) -> bool:
    """Whether a number of lower precision may stand for another: not 0.5 or 3, nor a short decimal such as 1e-5."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not _low(dtype):
        return False
    array = np.asarray(value)
    single = dtype == np.float32
    if single and array.ndim == 0 and len(np.format_float_scientific(np.float32(array)).split("e")[0].strip("-.")) <= 7:
        return False  # at most six digits: as_written has read it back
    mantissas = np.frexp(array.astype(np.float64))[0] * 2.0 ** (8 if single else 4)
    return bool(np.any(np.isfinite(mantissas) & (mantissas != np.round(mantissas))))


def _as_traced_results(equation: Any, values: Sequence[Any]) -> list[Any]:
    """What an equation returns in the precision it was traced in."""
    if equation.primitive.name not in _CALLS:
        return _as_list(equation.primitive.bind(*values, **equation.params))
    body = next(equation.params[key] for key in _BODY_NAMES if key in equation.params)
    return list(jex.jaxpr_as_fun(_closed(body, ()))(*values))


def _as_traced(value: Any, dtype: Any) -> Any:
    """``value``, an integer in the width of the trace: operands of unlike width do not mix."""
    if jnp.issubdtype(dtype, jnp.integer) and value.dtype != dtype:
        return jnp.asarray(value).astype(dtype)
    return value


def _low(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 8


def _raised_params(params: dict[str, Any]) -> dict[str, Any]:
    """Equation parameters with their floating dtypes raised (``preferred_element_type``, an iota's ``dtype``)."""
    return {
        key: np.dtype("float64") if isinstance(value, np.dtype | type) and _is_low_dtype(value) else value
        for key, value in params.items()
    }


def _is_low_dtype(value: Any) -> bool:
    try:
        return _low(value)
    except TypeError:
        return False


def _as_list(results: Any) -> list[Any]:
    return list(results) if isinstance(results, tuple | list) else [results]


def _where(equation: Any) -> str:
    try:
        from jax._src import source_info_util

        return source_info_util.summarize(equation.source_info)
    except Exception:  # only the words of a note, from where another release may keep nothing
        return "an unknown place"


def independent_outputs(closed: Any) -> list[bool]:
    """For each output of a traced function, whether it depends on no input at all: a constant zero gradient."""
    flags = _depends(closed.jaxpr, [True] * len(closed.jaxpr.invars))
    return [not flag for flag in flags]


def _depends(jaxpr: Any, inputs: Sequence[bool]) -> list[bool]:
    reached = {var for var, flag in zip(jaxpr.invars, inputs, strict=True) if flag}

    def depends(atom: Any) -> bool:
        return not isinstance(atom, jex.Literal) and atom in reached

    for equation in jaxpr.eqns:
        flags = [depends(atom) for atom in equation.invars]
        body = next((equation.params[key] for key in _BODY_NAMES if key in equation.params), None)
        if equation.primitive.name in _CALLS and body is not None:
            results = _depends(getattr(body, "jaxpr", body), flags)
        else:
            results = [any(flags)] * len(equation.outvars)
        reached.update(var for var, flag in zip(equation.outvars, results, strict=True) if flag)
    return [depends(atom) for atom in jaxpr.outvars]
