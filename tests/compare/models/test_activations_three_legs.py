"""B7: every activation and its derivative in PyTorch, Flax and NumPy, in float64, extreme inputs included.

Where the libraries genuinely differ, ``KNOWN`` says so: nowhere at finite inputs, and in three places at nan.
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from compare.models.numpy_activations import NUMPY_ACTIVATIONS, get_numpy_activation
from compare.models.torch_activations import TORCH_ACTIVATIONS, get_torch_activation
from fcjax.activations import ACTIVATIONS, get_activation

Array = NDArray[np.float64]
Leg = Callable[[str, Array, Array], tuple[Array, Array]]

VECTOR = {"softmax", "log_softmax"}
SCALAR = [name for name in ACTIVATIONS if name not in VECTOR]
INFINITE = [-np.inf, np.inf, np.nan]
EXTREMES = [-1e4, -800.0, -40.0, -20.5, -1e-300, -0.0, 0.0, 1e-300, 20.5, 36.0, 40.0, 800.0, 1e4]
# Formulas differ in their last rounding (gelu's lower tail is cut off in PyTorch: x (1 + erf) / 2 with erf near -1),
# so the difference is measured against the larger of 1 and the value. Where tanh saturates, 1 - tanh² is the rounding
# of tanh alone, and gelu_tanh multiplies it by up to x and the slope of its cubic, some hundred roundings together.
ALLOWED = 1e-13

KNOWN = {
    ("relu", "derivative", "nan"): {"torch": 1.0, "flax": 0.0, "numpy": np.nan},
    ("elu", "derivative", "nan"): {"torch": 1.0, "flax": np.nan, "numpy": np.nan},
    ("leaky_relu", "derivative", "nan"): {"torch": 0.01, "flax": 0.01, "numpy": np.nan},
}
"""What each library answers where they don't agree. The derivative at nan has no right value; NumPy passes nan on."""


@pytest.fixture(autouse=True)
def _x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def on_torch(name: str, x: Array, cotangent: Array) -> tuple[Array, Array]:
    inputs = torch.tensor(x, requires_grad=True)
    outputs = TORCH_ACTIVATIONS[name](inputs)
    (gradient,) = torch.autograd.grad(outputs, inputs, torch.tensor(cotangent))
    return outputs.detach().numpy(), gradient.numpy()


def on_flax(name: str, x: Array, cotangent: Array) -> tuple[Array, Array]:
    outputs, pullback = jax.vjp(jax.jit(ACTIVATIONS[name]), x)
    return np.asarray(outputs), np.asarray(pullback(cotangent)[0])


def on_numpy(name: str, x: Array, cotangent: Array) -> tuple[Array, Array]:
    forward, backward = NUMPY_ACTIVATIONS[name]
    return forward(x), backward(cotangent, x)


LEGS: dict[str, Leg] = {"torch": on_torch, "flax": on_flax, "numpy": on_numpy}


def same(a: Array, b: Array) -> NDArray[np.bool_]:
    """Entry by entry: equal to rounding, or the same infinity, or both nan."""
    with np.errstate(invalid="ignore"):
        close = np.abs(a - b) <= ALLOWED * np.maximum(1.0, np.abs(b))
    return close | (a == b) | (np.isnan(a) & np.isnan(b))


def differing(legs: dict[str, Leg], name: str, x: Array) -> set[tuple[str, str]]:
    """(value or derivative, input) wherever any two legs differ."""
    cotangent = np.random.default_rng(0).normal(size=x.shape) if name in VECTOR else np.ones_like(x)
    results = [leg(name, x, cotangent) for leg in legs.values()]
    found = set()
    for part, arrays in zip(("value", "derivative"), zip(*results, strict=True), strict=True):
        assert all(array.dtype == np.float64 and array.shape == x.shape for array in arrays)
        agree = same(arrays[0], arrays[1]) & same(arrays[1], arrays[2]) & same(arrays[0], arrays[2])
        found |= {(part, str(value)) for value in x[~agree]}
    return found


def test_the_three_tables_have_the_same_names() -> None:
    assert list(TORCH_ACTIVATIONS) == list(ACTIVATIONS) == list(NUMPY_ACTIVATIONS)


@pytest.mark.parametrize("name", SCALAR)
def test_three_legs_agree_on_numbers(name: str) -> None:
    ordinary = np.random.default_rng(1).normal(size=200) * 3
    assert differing(LEGS, name, np.concatenate([ordinary, EXTREMES])) == set()


@pytest.mark.parametrize("name", SCALAR)
def test_three_legs_at_what_is_not_a_number(name: str) -> None:
    expected = {(part, point) for activation, part, point in KNOWN if activation == name}
    assert differing(LEGS, name, np.array(INFINITE)) == expected


@pytest.mark.parametrize("key", KNOWN)
def test_known_differences_are_as_written(key: tuple[str, str, str]) -> None:
    name, part, point = key
    assert part == "derivative"
    found = {leg: float(run(name, np.array([float(point)]), np.ones(1))[1][0]) for leg, run in LEGS.items()}
    np.testing.assert_equal(found, KNOWN[key])


ROWS = [
    [1e4, -1e4, 0.0, 3.0],
    [1e4, 1e4, 1e4, 1e4],  # equal maxima
    [-1e4, -1e4, -9.9e3, -1e4],
    [0.0, -0.0, 1e-300, -1e-300],
    [-np.inf, 0.0, 1.0, 2.0],  # a masked-out class
    [np.inf, 0.0, 1.0, 2.0],
    [np.nan, 0.0, 1.0, 2.0],
    [-np.inf, -np.inf, -np.inf, -np.inf],
]


@pytest.mark.parametrize("name", sorted(VECTOR))
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_three_legs_agree_on_vectors(name: str, row: list[float]) -> None:
    assert differing(LEGS, name, np.array([row, [0.3, -0.2, 5.0, 1.0]])) == set()


@pytest.mark.parametrize("name", sorted(VECTOR))
def test_finite_logits_give_finite_answers(name: str) -> None:
    for leg in LEGS.values():
        values, gradient = leg(name, np.array([[1e4, -1e4, 0.0]]), np.array([[0.5, -1.0, 2.0]]))
        assert np.isfinite(values).all()
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", SCALAR)
def test_the_sign_of_zero_at_minus_zero(name: str) -> None:
    """A negative zero is kept, except by functions with f(0) != 0, and by relu.

    PyTorch's relu keeps it too (seen on a CPU); nothing but ``1/x`` could tell, so that is not held against anyone.
    """
    signs = {leg: bool(np.signbit(run(name, np.array([-0.0]), np.ones(1))[0][0])) for leg, run in LEGS.items()}
    positive = name in ("sigmoid", "softplus")
    expected = dict.fromkeys(LEGS, not positive)
    if name == "relu":
        expected = {"torch": signs["torch"], "flax": False, "numpy": False}
    assert signs == expected


def test_derivatives_at_the_tie() -> None:
    """At 0 a relu's slope is 0 and a leaky one's 0.01, from either side of zero and on every leg."""
    for name, slope in {"relu": 0.0, "leaky_relu": 0.01, "elu": 1.0}.items():
        for leg in LEGS.values():
            assert leg(name, np.array([0.0, -0.0]), np.ones(2))[1].tolist() == [slope, slope]


PLANTED: dict[str, tuple[str, Callable[[jax.Array], jax.Array]]] = {
    "the other GELU": ("gelu", lambda x: jax.nn.gelu(x, approximate=True)),
    "a maximum for relu (slope 1/2 at 0)": ("relu", lambda x: jax.numpy.maximum(x, 0)),
    "JAX's own leaky_relu (slope 1 at 0)": ("leaky_relu", jax.nn.leaky_relu),
    "log of softmax": ("log_softmax", lambda x: jax.numpy.log(jax.nn.softmax(x, axis=-1))),
    "softmax without the maximum": ("softmax", lambda x: jax.numpy.exp(x) / jax.numpy.exp(x).sum(-1, keepdims=True)),
    "softmax over the wrong axis": ("softmax", lambda x: jax.nn.softmax(x, axis=0)),
    "softplus without the maximum": ("softplus", lambda x: jax.numpy.log1p(jax.numpy.exp(x))),
    "sigmoid by exp(-x)": ("silu", lambda x: x / (1 + jax.numpy.exp(-x))),
    "float32 inside": ("tanh", lambda x: jax.numpy.tanh(x.astype("float32")).astype("float64")),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_twin_planted_mistakes_are_seen(mistake: str) -> None:
    name, function = PLANTED[mistake]

    def planted(_: str, x: Array, cotangent: Array) -> tuple[Array, Array]:
        outputs, pullback = jax.vjp(function, x)
        return np.asarray(outputs), np.asarray(pullback(cotangent)[0])

    inputs = np.array(ROWS[:4]) if name in VECTOR else np.concatenate([[0.5, -1.5], EXTREMES])
    assert differing(LEGS, name, inputs) == set()
    assert differing({**LEGS, "flax": planted}, name, inputs) != set()


def test_torchs_own_softplus_is_cut_off_beyond_twenty() -> None:
    """Why the reference sets the threshold: by default PyTorch returns x itself there, an error of exp(-x)."""
    x = torch.tensor([20.5], dtype=torch.float64)
    cut = (torch.nn.functional.softplus(x) - TORCH_ACTIVATIONS["softplus"](x)).abs().item()
    assert cut == pytest.approx(np.exp(-20.5), rel=1e-5)  # 1e-9, to the rounding of 20.5 at 4e-15


@pytest.mark.parametrize("get", [get_activation, get_torch_activation, get_numpy_activation])
def test_unknown_names_are_refused_with_the_list(get: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"activation: expected one of linear, relu, .*log_softmax; found 'swish'"):
        get("swish")
