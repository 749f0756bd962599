"""A traced Flax function, compiled: as it is in float32, with its islands lifted in float64."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.extend import core as jex

from compare.legs.lift import lift

__all__ = ["Program", "compile_program", "finds_extrema_again", "quickly_compiled"]

# A program runs a few times only, and says what is computed, not how fast: a quarter of the compile time.
_QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}

_EXTREMA = {"reduce_max", "reduce_min"}
_SHAPES = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims"}


@dataclasses.dataclass(frozen=True)
class Program:
    """What a trace was compiled to.

    Args:
        run: a function of the flat arguments, and of the seed by which ``constants`` are moved, None to leave them.
        islands: places of lower precision that were lifted.
        constants: numbers of lower precision that could not be.
    """

    run: Callable[..., Any]
    islands: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()


def compile_program(
    closed: Any,
    arguments: list[Any],
    precision: Literal["float64", "float32"],
    own_tables: bool = False,
    donated: int = 0,
) -> Program:
    """``closed``, compiled: in float64 with its islands lifted, or left as they are where that can't be done.

    Args:
        closed: the traced function.
        arguments: flat, of the shapes and dtypes that it will be called with.
        precision: that of the arguments; in float64 64-bit mode is on.
        own_tables: whether what depends on no argument keeps the precision it was traced in.
        donated: so many of the first arguments are given up, so that results of their shapes take their place.
    """
    plain = jex.jaxpr_as_fun(closed)
    exact = finds_extrema_again(closed.jaxpr)

    def lowered(function: Callable[..., Any], *moves: np.ndarray) -> Any:
        jitted = jax.jit(lambda given, kept, *moves: function(*given, *kept, *moves), donate_argnums=0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            return jitted.lower(arguments[:donated], arguments[donated:], *moves)

    def compiled(lowered: Any) -> Callable[..., Any]:
        run = lowered.compile() if exact else quickly_compiled(lowered)
        return lambda leaves, *moves: run(leaves[:donated], leaves[donated:], *moves)

    if precision == "float32":
        return _unmoved(compiled(lowered(plain)))
    lifted = lift(closed, own_tables)
    try:
        program = lowered(lifted)
        still = np.zeros(len(lifted.constants))
        if lifted.constants:  # only now known, and seldom any
            program = lowered(lambda *leaves: lifted(*leaves[:-1], moves=leaves[-1]), still)
        function = compiled(program)
    except Exception as error:
        failure = f"none, lifting failed ({type(error).__name__}: {str(error)[:100]})"
        return _unmoved(compiled(lowered(plain)), (failure,))
    islands = tuple(dict.fromkeys(lifted.islands))
    if not lifted.constants:
        return _unmoved(function, islands)

    def run(leaves: list[Any], seed: int | None = None) -> Any:
        random = np.random.default_rng(seed)
        return function(leaves, still if seed is None else random.uniform(-1, 1, still.size))

    return Program(run, islands, tuple(dict.fromkeys(lifted.constants.values())))


def _unmoved(function: Callable[..., Any], islands: tuple[str, ...] = ()) -> Program:
    return Program(lambda leaves, seed=None: function(leaves), islands)


def finds_extrema_again(jaxpr: Any) -> bool:
    """Whether a maximum is compared with what it was taken of, as its derivative does.

    Without optimisation XLA computes that again, with other roundings: then nothing equals the maximum, and its
    gradient is lost or becomes 0 / 0.
    """
    extrema: set[Any] = set()  # maxima, in whatever shape
    places: set[Any] = set()  # where they stand; softmax has them too, but no use for them
    for equation in jaxpr.eqns:
        name, read = equation.primitive.name, {id(atom) for atom in equation.invars}
        if name in _EXTREMA or (name in _SHAPES and read & extrema):
            extrema |= {id(var) for var in equation.outvars}
        if (name == "eq" and read & extrema) or (name == "convert_element_type" and read & places):
            places |= {id(var) for var in equation.outvars}
        if name == "mul" and read & places:
            return True
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        if any(hasattr(body, "eqns") and finds_extrema_again(body) for body in inner):
            return True
    return any(id(var) in places for var in jaxpr.outvars)


def quickly_compiled(lowered: Any) -> Any:
    """``lowered``, compiled in little time; as usual where this release of XLA does not know one of the options."""
    try:
        return lowered.compile(_QUICK)
    except Exception:  # however a release words it; an error of the program's own comes again
        return lowered.compile()
