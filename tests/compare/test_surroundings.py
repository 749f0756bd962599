"""What the caller has switched on, and parameters frozen in torch, change no verdict and hide no mistake."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import compare

X = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
Change = Callable[[jax.Array], jax.Array]


class TorchNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


def same(array: jax.Array) -> jax.Array:
    return array


class FlaxNet(nnx.Module):
    """Its first kernel and what the first layer returns changed on the way."""

    def __init__(self, kernel: Change = same, hidden: Change = same) -> None:
        self.fc1, self.fc2 = nnx.Linear(5, 7, rngs=nnx.Rngs(0)), nnx.Linear(7, 3, rngs=nnx.Rngs(1))
        self.kernel, self.hidden = kernel, hidden

    def __call__(self, x: jax.Array) -> jax.Array:
        assert self.fc1.bias is not None
        h = x @ self.kernel(self.fc1.kernel[...]) + self.fc1.bias[...]
        return self.fc2(jax.numpy.tanh(self.hidden(h)))


SWITCHED: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "disable_jit": jax.disable_jit,
    "transfer_guard": lambda: jax.transfer_guard("disallow"),
    "another device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("switch", SWITCHED)
def test_switches_of_the_caller_change_no_verdict(switch: str) -> None:
    right, stopped, model = FlaxNet(), FlaxNet(kernel=jax.lax.stop_gradient), TorchNet()
    with SWITCHED[switch]():
        found, wrong = compare.check(model, right, X), compare.check(model, stopped, X)
    assert found.passed, found.text()
    assert wrong.check("gradients").status == "failed", wrong.text()


def test_the_switches_are_the_callers_again() -> None:
    with torch.inference_mode(), torch.device("meta"), jax.disable_jit():
        compare.check(TorchNet().to_empty(device="cpu"), FlaxNet(), X)
        assert torch.is_inference_mode_enabled()
        assert torch.get_default_device().type == "meta"
        assert jax.config.jax_disable_jit  # type: ignore[attr-defined]


def frozen() -> nn.Module:
    model = TorchNet()
    model.fc1.weight.requires_grad_(False)
    return model


def test_a_parameter_frozen_in_torch_may_have_a_gradient_in_the_port_or_none() -> None:
    for port in (FlaxNet(), FlaxNet(kernel=jax.lax.stop_gradient)):
        report = compare.check(frozen(), port, X)
        assert report.passed, report.text()
        assert "fc1.weight" in report.settings["frozen in torch"]
    report = compare.check(TorchNet().requires_grad_(False), FlaxNet(), X)
    assert report.passed, report.text()


def test_a_frozen_parameter_hides_no_mistake() -> None:
    # What goes on through a frozen layer has a gradient in torch; and a gradient that arrives has to be the right one.
    doubled = jax.custom_jvp(same)
    doubled.defjvp(lambda primals, tangents: (primals[0], 2 * tangents[0]))
    for port in (FlaxNet(hidden=jax.lax.stop_gradient), FlaxNet(kernel=doubled)):
        assert compare.check(frozen(), port, X).check("gradients").status == "failed"


def test_checks_in_several_threads_leave_torchs_default_dtype_alone() -> None:
    found: dict[bool, str] = {}

    def check(right: bool) -> None:
        found[right] = compare.check(TorchNet(), FlaxNet(hidden=same if right else jax.numpy.negative), X).status

    threads = [threading.Thread(target=check, args=(right,)) for right in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {True: "passed", False: "failed"}
    assert torch.get_default_dtype() == torch.float32
