"""Laws of initialisation by name: what a sample was drawn from."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from compare.laws.statistics import ks_one_sample

__all__ = ["Fans", "Law", "fans_of", "recognise"]

_erf = np.vectorize(math.erf, otypes=[np.float64])

# Standard deviation of a standard normal cut off at two: jax.nn.initializers divide by it.
_CUT = 0.87962566103423978


@dataclasses.dataclass(frozen=True)
class Fans:
    """Inputs and outputs of the layer that a parameter belongs to; 0 where there is none."""

    inputs: int
    outputs: int


@dataclasses.dataclass(frozen=True)
class Law:
    """A named law.

    Args:
        name: part of the cause's identifier, "lecun_normal".
        words: with its figures.
        fix: the Flax initialiser that draws from it.
        cumulative: its distribution function; None for a constant.
        value: of a constant.
        edge: no value is larger.
    """

    name: str
    words: str
    fix: str
    cumulative: Callable[[np.ndarray], np.ndarray] | None
    value: float = 0.0
    edge: float = math.inf


def fans_of(name: str, shapes: dict[str, tuple[int, ...]]) -> Fans:
    """The fans of a torch parameter, a bias's from the weight beside it."""
    weight = name if len(shapes[name]) > 1 else f"{name.rpartition('.')[0]}.weight".lstrip(".")
    shape = shapes.get(weight, ())
    if len(shape) < 2:
        return Fans(0, 0)
    window = math.prod(shape[2:])
    return Fans(shape[1] * window, shape[0] * window)


def _uniform(bound: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.clip((x / bound + 1) / 2, 0, 1)


def _normal(deviation: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: (1 + _erf(x / (deviation * math.sqrt(2)))) / 2


def _truncated(deviation: float) -> Callable[[np.ndarray], np.ndarray]:
    """Normal, cut off at two, with standard deviation ``deviation`` after the cut."""
    before, tail = deviation / _CUT, (1 - math.erf(math.sqrt(2))) / 2
    return lambda x: np.clip((_normal(before)(x) - tail) / (1 - 2 * tail), 0, 1)


def _standard(fans: Fans) -> Iterator[Law]:
    """The laws that have names, of this layer."""
    i, o = fans.inputs, fans.outputs
    bound = 1 / math.sqrt(i)
    yield Law(
        "torch_default",
        f"U(±1/√fan_in) = U(±{bound:.4g})",
        'variance_scaling(1/3, "fan_in", "uniform") for weights, uniform in ±1/√fan_in for biases',
        _uniform(bound),
        edge=bound,
    )
    named = (("lecun", 1 / i, "fan_in"), ("he", 2 / i, "fan_in"), ("xavier", 2 / (i + o), "fan_avg"))
    for name, variance, fan in named:
        scale = {"lecun": 1.0, "he": 2.0, "xavier": 1.0}[name]
        deviation, edge = math.sqrt(variance), math.sqrt(3 * variance)
        yield Law(f"{name}_uniform", f"{name} uniform, U(±{edge:.4g})", f"{name}_uniform()", _uniform(edge), edge=edge)
        flax = f"{name}_normal, cut off at two standard deviations, σ {deviation:.4g}"
        yield Law(f"{name}_normal", flax, f"{name}_normal()", _truncated(deviation), edge=2 * deviation / _CUT)
        plain = f'variance_scaling({scale:g}, "{fan}", "normal")'
        yield Law(f"{name}_normal_untruncated", f"{name} normal, N(0, {deviation:.4g})", plain, _normal(deviation))
    if i != o:
        edge = 1 / math.sqrt(o)
        swapped = f"U(±1/√fan_out) = U(±{edge:.4g}): the fans are swapped"
        yield Law(
            "torch_default_fans_swapped", swapped, "in_axis and out_axis of the initialiser", _uniform(edge), edge=edge
        )
        for name, scale in (("lecun", 1.0), ("he", 2.0)):
            deviation = math.sqrt(scale / o)
            words = f"{name} normal by fan_out, σ {deviation:.4g}"
            fix = f'variance_scaling({scale:g}, "fan_out", "truncated_normal")'
            yield Law(f"{name}_normal_fan_out", words, fix, _truncated(deviation), edge=2 * deviation / _CUT)


def _fitted(sample: np.ndarray) -> Iterator[Law]:
    """Laws of any size, their parameter read off the sample."""
    deviation = float(np.sqrt(np.mean(sample**2)))
    edge = float(np.abs(sample).max()) * (1 + 1 / sample.size)
    if abs(deviation - 1) < 5 / math.sqrt(2 * sample.size):
        yield Law("standard_normal", "N(0, 1)", "normal(1.0)", _normal(1.0))
    yield Law("normal", f"N(0, {deviation:.3g})", f"normal({deviation:.3g})", _normal(deviation))
    yield Law("uniform", f"U(±{edge:.3g})", f"uniform in ±{edge:.3g}", _uniform(edge))
    words = f"a normal cut off at two standard deviations, σ {deviation:.3g}"
    yield Law("truncated_normal", words, f"truncated_normal({deviation / _CUT:.3g})", _truncated(deviation))


def recognise(sample: np.ndarray, fans: Fans) -> Law | None:
    """The law that a sample was drawn from: a constant, one of the named laws, one of any size; None if none fits.

    Args:
        sample: all values of a parameter over all draws.
        fans: of its layer.
    """
    low, high = float(sample.min()), float(sample.max())
    largest = max(abs(low), abs(high))
    if low == high:
        name = {0.0: "zeros", 1.0: "ones"}.get(low, "constant")
        return Law(name, "zeros" if low == 0 else f"constant {low:g}", f"constant({low:g})", None, low)
    for laws in ([*_standard(fans)] if fans.inputs else [], [*_fitted(sample)]):
        fits = [(ks_one_sample(sample, law.cumulative), law) for law in laws if law.cumulative is not None]
        # Naming, not judging: the likeliest law, unless the sample excludes it.
        likely = [(p, law) for p, law in fits if p > 1e-3 and largest <= law.edge * (1 + 1e-6)]
        if likely:
            return max(likely, key=lambda pair: pair[0])[1]
    return None
