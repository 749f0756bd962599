"""Ports that are right, written the way people write them, pass; where luck is possible, a near miss fails."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional as F

import compare
from compare.models import torch_models

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")

Array = jax.Array
RNGS = nnx.Rngs(0)


class LinenModelWithActivation(linen.Module):
    """A2."""

    @linen.compact
    def __call__(self, x: Array) -> Array:
        x = jax.nn.relu(linen.Dense(5, name="layer1")(x))
        return linen.Dense(2, name="layer2")(x)


class LinenMNISTClassifier(linen.Module):
    """A3."""

    @linen.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        x = x.reshape(x.shape[0], -1)  # (batch, 784)
        for size, name in ((512, "fc1"), (256, "fc2")):
            x = jax.nn.relu(linen.Dense(size, name=name)(x))
            x = linen.Dropout(0.2, deterministic=not train)(x)
        return jax.nn.log_softmax(linen.Dense(10, name="fc3")(x))


class LinenNorm(linen.Module):
    momentum: float = 0.9

    @linen.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = linen.Dense(7, name="fc")(x)
        return linen.BatchNorm(not train, momentum=self.momentum, use_fast_variance=False, name="norm")(x)


class TorchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(5, 7), nn.BatchNorm1d(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.fc(x))


def passes(*args: Any, **fields: Any) -> compare.Report:
    report = compare.check(*args, **fields)
    assert report.passed, report.text()
    return report


def test_linen_port_of_a2(seeded: Any, rows: Any) -> None:
    model = seeded(lambda: torch_models.TorchModelWithActivation(3, 5, 2))
    report = passes(model, LinenModelWithActivation(), rows(4, 3))
    assert report.numbers["parameters"]["flax"] == 32


class LinenMask(linen.Module):
    """Keeps every other feature; the mask takes its dtype from the inputs."""

    start: int

    @linen.compact
    def __call__(self, x: Array) -> Array:
        mask = (jnp.arange(x.shape[-1]) % 2 == self.start).astype(x.dtype)
        return linen.Dense(2, name="fc")(x * mask)


class TorchMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 2)
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x * self.get_buffer("mask"))


def test_linen_is_initialised_on_inputs_of_its_own_precision(seeded: Any, rows: Any) -> None:
    passes(seeded(TorchMask), LinenMask(0), rows(4, 5))  # warnings are errors here: none of a float64 cut short
    assert compare.check(seeded(TorchMask), LinenMask(1), rows(4, 5)).status == "failed"


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_linen_port_of_a3(seeded: Any, rows: Any, mode: Any) -> None:
    passes(seeded(torch_models.MNISTClassifier), LinenMNISTClassifier(), rows(2, 28, 28), mode=mode)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_linen_batch_norm(seeded: Any, rows: Any, mode: Any) -> None:
    report = passes(seeded(TorchNorm), LinenNorm(), rows(6, 5), mode=mode)
    if mode == "train":
        assert report.check("statistics").status == "noted"
        wrong = compare.check(seeded(TorchNorm), LinenNorm(momentum=0.99), rows(6, 5), mode="train")
        assert wrong.check("statistics").status == "failed"


class TorchConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Linear(3 * 3 * 4, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = F.relu(self.conv(x))  # (batch, 3, 3, 4)
        return {"maps": maps, "logits": self.fc(maps.flatten(1))}


class FlaxConv(nnx.Module):
    def __init__(self, torch_order: bool = True) -> None:
        self.torch_order = torch_order
        self.conv = nnx.Conv(2, 3, (3, 3), strides=2, padding=1, rngs=RNGS)
        self.fc = nnx.Linear(3 * 3 * 4, 5, rngs=RNGS)

    def __call__(self, x: Array) -> dict[str, Array]:
        maps = jax.nn.relu(self.conv(x))  # (batch, 3, 4, 3)
        flat = maps.transpose(0, 3, 1, 2) if self.torch_order else maps
        return {"maps": maps, "logits": self.fc(flat.reshape(x.shape[0], -1))}


def _to_torch_layout(out: dict[str, Any]) -> dict[str, Any]:
    return {**out, "maps": out["maps"].transpose(0, 3, 1, 2)}


@pytest.mark.parametrize("torch_order", [True, False], ids=["torch's order", "flattened in Flax's order"])
def test_convolution_in_another_layout(seeded: Any, rows: Any, torch_order: bool) -> None:
    inputs = compare.Inputs(torch=rows(2, 2, 6, 8), flax=lambda x: x.transpose(0, 2, 3, 1))
    report = compare.check(seeded(TorchConv), FlaxConv(torch_order), inputs, outputs=_to_torch_layout)
    assert report.passed == torch_order, report.text()
    agrees = {leaf.path: leaf.agrees for leaf in report.check("outputs").leaves}
    assert agrees == {"maps": True, "logits": torch_order}


def test_two_plain_calls_redraw_the_weights_only(seeded: Any, rows: Any) -> None:
    x = rows(2, 2, 6, 8)
    inputs = compare.Inputs(torch=x, flax=x.transpose(0, 2, 3, 1))
    report = passes(seeded(TorchConv), FlaxConv(), inputs, outputs=(None, _to_torch_layout))
    assert "over 5 cases" in report.check("outputs").detail


class TorchText(nn.Module):
    """Tied weights: the embedding is the output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.fc(self.embed(tokens))) * scale[..., None])


class FlaxText(nnx.Module):
    def __init__(self) -> None:
        self.embed, self.fc = nnx.Embed(11, 6, rngs=RNGS), nnx.Linear(6, 6, rngs=RNGS)

    def __call__(self, tokens: Array, scale: Array) -> Array:
        return self.embed.attend(jnp.tanh(self.fc(self.embed(tokens))) * scale[..., None])


def test_tied_embedding_integers_and_keywords(seeded: Any, rows: Any) -> None:
    tokens = np.random.default_rng(0).integers(0, 11, (3, 4))
    inputs = {"scale": rows(3, 4), "tokens": tokens}
    report = passes(seeded(TorchText), FlaxText(), inputs, ranges={"tokens": (0, 10)})
    assert report.numbers["parameters"]["torch"] == report.numbers["parameters"]["flax"] == 66 + 42
    assert {leaf.path for leaf in report.check("gradients").leaves} >= {"embed.weight", "input kwargs.scale"}


class TorchDeep(nn.Module):
    def __init__(self, depth: int, residual: bool) -> None:
        super().__init__()
        self.layers, self.residual = nn.ModuleList(nn.Linear(6, 6) for _ in range(depth)), residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = (x if self.residual else 0) + torch.tanh(layer(x))
        return x


class FlaxDeep(nnx.Module):
    def __init__(self, depth: int, residual: bool) -> None:
        self.layers = nnx.List([nnx.Linear(6, 6, rngs=RNGS) for _ in range(depth)])
        self.residual = residual

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = (x if self.residual else 0) + jnp.tanh(layer(x))
        return x


@pytest.mark.parametrize(("depth", "residual"), [(30, False), (12, True)], ids=["30 tanh layers", "deep residual"])
def test_deep_nets(seeded: Any, rows: Any, depth: int, residual: bool) -> None:
    passes(seeded(lambda: TorchDeep(depth, residual)), FlaxDeep(depth, residual), rows(3, 6))


@pytest.mark.parametrize("size", [1e4, 1e-4])
def test_saturated_tanh_and_inputs_of_any_size(seeded: Any, rows: Any, size: float) -> None:
    passes(seeded(lambda: TorchDeep(2, False)), FlaxDeep(2, False), np.float32(size) * rows(3, 6))


class TorchGroups(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.group, self.rms = nn.GroupNorm(2, 6), nn.RMSNorm(6, eps=1e-6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.group(x), self.rms(x)


class FlaxGroups(nnx.Module):
    def __init__(self, epsilon: float = 1e-6) -> None:
        self.group = nnx.GroupNorm(6, 2, epsilon=1e-5, use_fast_variance=False, rngs=RNGS)
        self.rms = nnx.RMSNorm(6, epsilon=epsilon, rngs=RNGS)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        return self.group(x), self.rms(x)


@pytest.mark.parametrize("epsilon", [1e-6, 1.1e-6])
def test_group_norm_and_rms_norm(seeded: Any, rows: Any, epsilon: float) -> None:
    report = compare.check(seeded(TorchGroups), FlaxGroups(epsilon), rows(4, 6))
    assert report.passed == (epsilon == 1e-6), report.text()


@dataclasses.dataclass
class Output:
    """What many libraries return: named arrays, some absent."""

    logits: Any
    hidden: tuple[Any, ...]
    loss: Any = None


class TorchStructured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> Output:
        h = torch.tanh(self.fc1(x))
        return Output(self.fc2(h), (x, h))


class FlaxStructured(nnx.Module):
    def __init__(self) -> None:
        self.fc1, self.fc2 = nnx.Linear(5, 7, rngs=RNGS), nnx.Linear(7, 3, rngs=RNGS)

    def __call__(self, x: Array) -> Output:
        h = jnp.tanh(self.fc1(x))
        return Output(self.fc2(h), (x, h))


def test_dataclasses_tuples_and_absent_values(seeded: Any, rows: Any) -> None:
    report = passes(seeded(TorchStructured), FlaxStructured(), rows(4, 5))
    assert {leaf.path for leaf in report.check("outputs").leaves} == {"logits", "hidden.0", "hidden.1"}


def test_loss_is_compared_with_its_gradient(seeded: Any, rows: Any) -> None:
    def torch_loss(out: Output) -> torch.Tensor:
        return out.logits.square().mean()

    model, x = seeded(TorchStructured), rows(4, 5)
    report = passes(model, FlaxStructured(), x, loss=(torch_loss, lambda out: jnp.square(out.logits).mean()))
    assert "loss" in {leaf.path for leaf in report.check("outputs").leaves}
    summed = compare.check(model, FlaxStructured(), x, loss=(torch_loss, lambda out: jnp.square(out.logits).sum()))
    assert [leaf.path for leaf in summed.check("outputs").leaves if not leaf.agrees] == ["loss"]


class FlaxFlip(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return jnp.flip(jnp.cumsum(x, axis=1), axis=1)


class FlaxFlipOfOneAxisOnly(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return jnp.cumsum(x, axis=1)


class TorchFlip(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x, dim=1).flip(1)


def test_a_model_without_parameters(rows: Any) -> None:
    passes(TorchFlip(), FlaxFlip(), rows(3, 4))
    assert compare.check(TorchFlip(), FlaxFlipOfOneAxisOnly(), rows(3, 4)).status == "failed"


def test_a_batch_of_one_and_an_empty_batch(seeded: Any, rows: Any) -> None:
    model = seeded(TorchStructured)
    passes(model, FlaxStructured(), rows(1, 5))
    assert compare.check(model, FlaxStructured(), rows(0, 5)).status == "inconclusive"
