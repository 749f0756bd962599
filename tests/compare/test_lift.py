"""Islands of low precision inside a Flax port: lifted, so that neither they nor mistakes among them are mistaken."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

import compare
from tests.compare.applied import Applied, TorchApplied

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")

Array = jax.Array


def island(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """``function`` in float32, whatever comes in."""
    return lambda y: function(y.astype(jnp.float32)).astype(y.dtype)


def normalised(epsilon: float) -> Callable[[Array], Array]:
    return lambda y: (y - y.mean(1, keepdims=True)) / jnp.sqrt(y.var(1, keepdims=True) + epsilon)


def torch_normalised(y: torch.Tensor) -> torch.Tensor:
    return (y - y.mean(1, keepdim=True)) / torch.sqrt(y.var(1, keepdim=True, unbiased=False) + 1e-5)


# A change of 1e-7 in epsilon is 1 % of it; the shift by 1e-9 is smaller than float32 itself can hold beside 1.
@pytest.mark.parametrize("mistake", ["none", "epsilon", "shift"])
def test_a_float32_island_hides_nothing(seeded: Any, rows: Any, mistake: str) -> None:
    epsilon, shift = 1.01e-5 if mistake == "epsilon" else 1e-5, 1e-9 if mistake == "shift" else 0.0
    port = Applied(island(lambda y: normalised(epsilon)(y) + shift))
    report = compare.check(seeded(lambda: TorchApplied(torch_normalised)), port, rows(4, 5))
    assert "float32 at" in report.settings["computed in float64 instead"]
    if mistake == "none":
        assert report.passed, report.text()
        assert report.numbers["output_error"]["float64"] < 1e-13
    else:
        assert report.check("outputs").status == "failed", report.text()


def looped(y: Array) -> Array:
    def body(carry: Array, scale: Array) -> tuple[Array, Array]:
        carry = jnp.tanh(carry * scale)
        return carry, carry.sum()

    carry, sums = jax.lax.scan(body, y, jnp.arange(1.0, 4.0, dtype=jnp.float32))
    doubled = jax.lax.cond(sums[0] > 1e6, lambda v: v, lambda v: 2 * v, carry)
    return jax.lax.fori_loop(0, 3, lambda i, v: jnp.sin(v) * i + v, doubled)


def torch_looped(y: torch.Tensor) -> torch.Tensor:
    for scale in (1.0, 2.0, 3.0):
        y = torch.tanh(y * scale)
    y = 2 * y
    for i in range(3):
        y = torch.sin(y) * i + y
    return y


LIFTED: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Array], Any]]] = {
    "scan, cond and a loop": (torch_looped, island(looped)),
    "checkpoint and vmap": (lambda y: y.softmax(1), jax.checkpoint(jax.vmap(island(jax.nn.softmax)))),
    "an inner jit": (torch.tanh, jax.jit(island(jnp.tanh))),
    "sums in windows": (
        lambda y: F.avg_pool1d(y[:, None], 3)[:, 0],
        island(lambda y: nnx.avg_pool(y[..., None], (3,), (3,))[..., 0]),
    ),
    "running sums": (lambda y: y.cumsum(1), island(lambda y: jnp.cumsum(y, 1))),
    "gather and scatter": (lambda y: y[:, [2, 0, 2]], island(lambda y: y[:, jnp.array([2, 0, 2])])),
    # 64-bit mode can't trace this: the second index is wider than the first.
    "indices of unlike width": (
        lambda y: y,
        lambda y: jax.lax.dynamic_update_slice(y, y[:1], (jnp.int32(0), jnp.asarray(0))),
    ),
}


@pytest.mark.parametrize("name", LIFTED)
def test_a_right_port_agrees_to_the_last_digits(seeded: Any, rows: Any, name: str) -> None:
    torch_function, function = LIFTED[name]
    report = compare.check(seeded(lambda: TorchApplied(torch_function)), Applied(function), rows(4, 5))
    assert report.passed, report.text()
    assert report.check("outputs").status == "passed"
    assert report.numbers["output_error"]["float64"] < 1e-13


@pytest.mark.parametrize("approximate", [False, True])
def test_constants_that_still_round_are_named_and_excuse_nothing_else(
    seeded: Any, rows: Any, approximate: bool
) -> None:
    """The island's 1/sqrt 2 has seven digits, which can't be told from a number that was written so."""
    port = Applied(island(lambda y: jax.nn.gelu(y, approximate=approximate)))
    report = compare.check(seeded(lambda: TorchApplied(F.gelu)), port, rows(4, 5))
    if approximate:
        assert report.check("outputs").status == "failed", report.text()
        return
    assert report.passed, report.text()
    for name in ("outputs", "gradients"):
        assert report.check(name).status == "constants"
        assert "float32 0.70710677 at " in report.check(name).detail
    assert 1e-12 < report.numbers["output_error"]["float64"] < 1e-7  # one rounding of float32


def test_a_constant_off_by_several_roundings_fails(seeded: Any, rows: Any) -> None:
    root = 0.7071067811865476
    model = seeded(lambda: TorchApplied(lambda y: root * y))
    right = compare.check(model, Applied(island(lambda y: y * root)), rows(4, 5))
    assert right.check("outputs").status == "constants", right.text()
    wrong = compare.check(model, Applied(island(lambda y: y * (root + 4e-7))), rows(4, 5))
    assert wrong.check("outputs").status == "failed", wrong.text()


def test_complex_outputs_are_wrong_usage_and_their_parts_are_not(seeded: Any, rows: Any) -> None:
    model, port = seeded(lambda: TorchApplied(torch.fft.rfft)), Applied(jnp.fft.rfft)
    with pytest.raises(compare.UsageError, match="expected real numbers, found complex128"):
        compare.check(model, port, rows(4, 5))
    parts = (lambda z: (z.real, z.imag), lambda z: (z.real, z.imag))
    assert compare.check(model, port, rows(4, 5), outputs=parts).passed
    conjugate = Applied(lambda y: jnp.conj(jnp.fft.rfft(y)))
    assert not compare.check(model, conjugate, rows(4, 5), outputs=parts).passed
