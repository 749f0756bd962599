"""Dropout with replayed masks, and running statistics after a step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

import compare
from compare import Call
from compare.legs.dropout import Mask
from compare.legs.run import Case
from compare.legs.torch_leg import TorchLeg
from compare.redraw import given_weights

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")

RNGS = nnx.Rngs(0)


class TorchDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(torch.tanh(self.fc1(x)))
        x = F.dropout(torch.tanh(self.fc2(x)), 0.5, self.training)
        return self.fc3(x)


class FlaxDropout(nnx.Module):
    def __init__(self, first: Any, second: Any) -> None:
        self.fc1, self.fc2 = nnx.Linear(5, 7, rngs=RNGS), nnx.Linear(7, 6, rngs=RNGS)
        self.fc3, self.first, self.second = nnx.Linear(6, 3, rngs=RNGS), first, second

    def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
        x = self.first(jnp.tanh(self.fc1(x)), rngs=rngs)
        x = self.second(jnp.tanh(self.fc2(x)), rngs=rngs)
        return self.fc3(x)


class Unscaled(nnx.Module):
    """Keeps or drops, and forgets the 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
        return x if rngs is None else x * jax.random.bernoulli(rngs, 1 - self.rate, x.shape)


class OwnCall(nnx.Dropout):
    """A subclass whose own call forgets the scale."""

    def __call__(self, x: jax.Array, *, rngs: Any = None, **_: Any) -> jax.Array:  # type: ignore[override]
        return x if rngs is None else jnp.where(jax.random.bernoulli(rngs, 1 - self.rate, x.shape), x, 0)


class KeepForRate(nnx.Module):
    """Scales as it should, and draws with the rate where the keep probability belongs."""

    def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
        return x if rngs is None else jnp.where(jax.random.bernoulli(rngs, 0.2, x.shape), x / 0.8, 0)


class Uniform(nnx.Module):
    """A right dropout that draws uniform numbers of its own."""

    def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
        return x if rngs is None else jnp.where(jax.random.uniform(rngs, x.shape) >= 0.5, x / 0.5, 0)


class Nothing(nnx.Module):
    def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
        return x


class Doubled(nnx.Module):
    def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
        return 2 * x


class PerColumn(nnx.Module):
    """One mask for the whole batch."""

    def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
        return x if rngs is None else x * jax.random.bernoulli(rngs, 0.5, x.shape[1:]) / 0.5


DROPOUTS: dict[str, tuple[Any, Any, str]] = {
    "right": (nnx.Dropout(0.2), nnx.Dropout(0.5), ""),
    "rate": (nnx.Dropout(0.3), nnx.Dropout(0.5), "torch keeps an entry with probability 0.8, Flax with 0.7"),
    "keep probability for rate": (
        nnx.Dropout(0.8),
        nnx.Dropout(0.5),
        "torch keeps an entry with probability 0.8, Flax with 0.2",
    ),
    "no scale": (nnx.Dropout(0.2), Unscaled(0.5), "differ by more than rounding"),
    "a subclass that forgets the scale": (nnx.Dropout(0.2), OwnCall(0.5), "differ by more than rounding"),
    "drawn with the rate": (
        KeepForRate(),
        nnx.Dropout(0.5),
        "torch keeps an entry with probability 0.8, Flax with 0.2",
    ),
    "missing call": (nnx.Dropout(0.2), Nothing(), "torch drew 2 masks in this call, Flax only 1"),
    "mask of the wrong shape": (nnx.Dropout(0.2), PerColumn(), r"torch's mask has shape \(4, 6\), Flax's \(6,\)"),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout(seeded: Any, rows: Any, name: str) -> None:
    first, second, words = DROPOUTS[name]
    model, port, x = seeded(TorchDropout), FlaxDropout(first, second), rows(4, 5)
    report = compare.check(model, port, x, mode="train")
    if not words:
        assert report.passed, report.text()
        assert report.check("statistics").status == "skipped"
    else:
        assert report.status == "failed"
        with pytest.raises(AssertionError, match=words):
            report.raise_for_failure()
    if name != "missing call":
        assert compare.check(model, port, x).passed  # in evaluation none of this matters


def test_a_dropout_that_cannot_be_replayed_is_inconclusive_not_wrong(seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(TorchDropout), FlaxDropout(nnx.Dropout(0.2), Uniform()), rows(4, 5), mode="train")
    assert report.status == "inconclusive"
    assert "jax.random.uniform" in report.check("outputs").detail


def test_one_more_call_than_torch_has(seeded: Any, rows: Any) -> None:
    class Twice(nnx.Module):
        def __init__(self) -> None:
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
            return self.dropout(self.dropout(x, rngs=rngs), rngs=rngs)

    report = compare.check(seeded(TorchDropout), FlaxDropout(nnx.Dropout(0.2), Twice()), rows(4, 5), mode="train")
    assert report.status == "failed"
    assert "torch drew 2 masks in this call, Flax asks for one more" in report.check("outputs").detail


def test_dropout_left_on_in_evaluation(seeded: Any, rows: Any) -> None:
    class AlwaysOn(nnx.Module):
        def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
            return x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape) / 0.5

    report = compare.check(seeded(TorchDropout), FlaxDropout(nnx.Dropout(0.2), AlwaysOn()), rows(4, 5))
    assert report.status == "failed"
    assert "torch drew 0 masks" in report.check("outputs").detail


class TorchBatchNorm(nn.Module):
    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(5, 7), nn.BatchNorm1d(7, momentum=momentum)
        self.first = nn.BatchNorm1d(5, momentum=momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.fc(self.first(x)))


class FlaxBatchNorm(nnx.Module):
    def __init__(self, momentum: float = 0.9, **settings: Any) -> None:
        settings = {"momentum": momentum, "epsilon": 1e-5, "use_fast_variance": False, "rngs": RNGS, **settings}
        self.fc, self.norm = nnx.Linear(5, 7, rngs=RNGS), nnx.BatchNorm(7, **settings)
        self.first = nnx.BatchNorm(5, **settings)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.fc(self.first(x)))


@pytest.mark.parametrize("batch", [2, 6])
def test_the_biased_variance_is_noted(seeded: Any, rows: Any, batch: int) -> None:
    report = compare.check(seeded(TorchBatchNorm), FlaxBatchNorm(), rows(batch, 5), mode="train")
    assert report.passed, report.text()
    statistics = report.check("statistics")
    assert statistics.status == "noted", report.text()
    assert "n / (n - 1)" in statistics.detail
    assert [leaf.path for leaf in statistics.leaves if leaf.agrees] == ["norm.running_mean", "first.running_mean"]


@pytest.mark.parametrize("momentum", [0.99, 0.1, 0.899])
def test_another_momentum_fails_the_statistics_alone(seeded: Any, rows: Any, momentum: float) -> None:
    report = compare.check(seeded(TorchBatchNorm), FlaxBatchNorm(momentum), rows(6, 5), mode="train")
    assert report.status == "failed"
    assert [check.name for check in report.checks if check.status == "failed"] == ["statistics"], report.text()
    assert compare.check(seeded(TorchBatchNorm), FlaxBatchNorm(momentum), rows(6, 5)).passed


def test_another_factor_than_n_by_n_minus_1_is_a_failure(seeded: Any, rows: Any) -> None:
    class Halved(FlaxBatchNorm):
        def __call__(self, x: jax.Array) -> jax.Array:
            before = self.first.var[...]
            out = super().__call__(x)
            if not self.first.use_running_average:
                self.first.var[...] = before + (self.first.var[...] - before) * 0.99
            return out

    report = compare.check(seeded(TorchBatchNorm), Halved(), rows(6, 5), mode="train")
    assert report.check("statistics").status == "failed", report.text()


def test_statistics_left_as_they_were_fail(seeded: Any, rows: Any) -> None:
    report = compare.check(seeded(TorchBatchNorm), FlaxBatchNorm(momentum=1.0), rows(6, 5), mode="train")
    assert report.check("statistics").status == "failed", report.text()


def test_evaluation_statistics_used_in_training_fail_the_outputs(seeded: Any, rows: Any) -> None:
    call = {"train": {"use_running_average": True}}

    class Frozen(FlaxBatchNorm):
        def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
            h = self.fc(self.first(x, use_running_average=use_running_average))
            return self.norm(h, use_running_average=use_running_average)

    model, x = seeded(TorchBatchNorm), rows(6, 5)
    assert compare.check(model, Frozen(), x, mode="train").passed
    assert compare.check(model, Frozen(), x, mode="train", flax_call=call).check("outputs").status == "failed"


class TorchMany(nn.Module):
    """Every kind of dropout that hides its mask from a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, num_layers=2, dropout=0.3, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.25, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.lstm(x)[0]
        h = h + self.attention(h, h, h, need_weights=False)[0] + self.attention(h, h, h)[0]
        h = F.alpha_dropout(h, 0.4, self.training) + F.feature_alpha_dropout(h, 0.4, self.training)
        h = F.dropout1d(h.transpose(1, 2), 0.2, self.training).transpose(1, 2)
        return h + F.scaled_dot_product_attention(h, h, h, is_causal=True, dropout_p=0.5 if self.training else 0.0)


def test_masks_of_every_kind_are_replayed(rows: Any) -> None:
    """Twice the same masks, twice the same numbers; and the layers' own code agrees where nothing is dropped."""
    torch.manual_seed(0)
    model = TorchMany()
    case = Case("", given_weights(model), Call((rows(3, 4, 5).astype("float64"),)))
    leg = TorchLeg(model, "float64", "train")
    masks = leg.record_masks(case, 0)
    assert [mask.shape for mask in masks] == [
        (3, 4, 6), (3, 2, 4, 4), (6, 4, 4), (3, 4, 6), (3, 4, 1), (3, 6, 1), (3, 4, 4)
    ]  # fmt: skip
    first, second = (leg.run(dataclasses.replace(case, masks=masks)).outputs[""] for _ in range(2))
    assert np.array_equal(first, second)
    all_kept = tuple(Mask(np.ones_like(mask), 1.0) for mask in masks)
    kept = leg.run(dataclasses.replace(case, masks=all_kept)).outputs[""]
    evaluated = TorchLeg(model, "float64", "eval").run(case).outputs[""]
    assert kept.shape == evaluated.shape
    assert not np.allclose(kept, evaluated)  # scaled by 1 / (1 - p)


class TorchChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 5, 3), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.dropout(F.dropout2d(self.conv(x), 0.4, self.training), 0.2, self.training)
        return self.fc(h.mean((2, 3)))


class FlaxChannels(nnx.Module):
    def __init__(self, whole: tuple[int, ...]) -> None:
        self.conv, self.fc = nnx.Conv(2, 5, (3, 3), padding="VALID", rngs=RNGS), nnx.Linear(5, 3, rngs=RNGS)
        self.channels, self.single = nnx.Dropout(0.4, broadcast_dims=whole), nnx.Dropout(0.2)

    def __call__(self, x: jax.Array, *, rngs: Any = None) -> jax.Array:
        h = self.single(self.channels(self.conv(x), rngs=rngs), rngs=rngs)
        return self.fc(h.mean((1, 2)))


@pytest.mark.parametrize("size", [(5, 6), (7, 7)])  # of the second no shape tells: 5 channels, 5 rows, 5 columns
def test_masks_follow_the_layout_of_images(seeded: Any, rows: Any, size: tuple[int, int]) -> None:
    inputs = compare.Inputs(torch=rows(3, 2, *size), flax=lambda x: x.transpose(0, 2, 3, 1))
    report = compare.check(seeded(TorchChannels), FlaxChannels((1, 2)), inputs, mode="train")
    assert report.passed, report.text()
    wrong = compare.check(seeded(TorchChannels), FlaxChannels((1,)), inputs, mode="train")
    assert wrong.status == "failed"


def test_what_torch_hides_is_skipped_and_evaluation_is_judged(seeded: Any, rows: Any) -> None:
    class Noisy(TorchDropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.fc2(torch.tanh(self.fc1(x))))
            return self.fc3(x * torch.empty_like(x).bernoulli_(0.5) * 2 if self.training else x)

    report = compare.check(seeded(Noisy), FlaxDropout(Nothing(), nnx.Dropout(0.5)), rows(4, 5), mode="train")
    assert report.passed, report.text()
    assert report.check("training mode").status == "skipped"
    wrong = compare.check(seeded(Noisy), FlaxDropout(Nothing(), Doubled()), rows(4, 5), mode="train")
    assert not wrong.passed
