"""Data that is streamed in chunks trains bit for bit like data that lies on the devices."""

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given

from fcjax.checkpoint import named_leaves
from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset, Scaling, Split
from fcjax.memory_size import memory_size
from fcjax.models import MLP
from fcjax.trainer import FitResult, fit

RNG = np.random.default_rng(0)
# 37 rows in batches of 8 on 3 devices: 5 steps, the last of 5 rows, and a share of 3 rows with padding.
CONFIG = TrainConfig(epochs=3, batch_size=8, devices="3", learning_rate=1e-2, input_dropout=0.1)


def part(rows: int) -> Split:
    x = RNG.integers(0, 255, size=(rows, 5), dtype=np.uint8)
    return Split(x, (x[:, :1] * 0.4 - x[:, 1:2] * 0.2 + 30).astype(np.float32))


TRAIN, TEST = part(37), part(19)
SCALES = Scaling.fit_pixels(TRAIN.inputs), Scaling.fit(TRAIN.targets)
DATA = Dataset("line", "regression", TRAIN, TEST, None, None, *SCALES)
# A row takes 9 bytes, a step on 3 devices 27 on each of them: two chunks of two steps at a time, and one of one step.
STREAMED: dict[str, Any] = {"device_memory": "108"}


@pytest.fixture(autouse=True)
def _test_set_of_three_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcjax.feeding.EVALUATION_BATCH", 8)


def net(rngs: nnx.Rngs) -> MLP:
    return MLP((5, 6, 1), dropout=0.3, norm="batch", rngs=rngs)


def net64(rngs: nnx.Rngs) -> MLP:
    model = MLP((5, 6, 1), dropout=0.3, rngs=rngs)
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model, nnx.Param)))
    return model


def train(model: Any = net, data: Dataset = DATA, **changes: Any) -> FitResult:
    return fit(model, data, replace(CONFIG, **changes), progress=changes.get("run_dir") is None)


def differences(one: FitResult, other: FitResult) -> list[str]:
    """Every array, and every figure, that is not the same to the last bit."""
    here, there = named_leaves(one.state), named_leaves(other.state)
    found = [
        f"{name}: {np.abs(here[name] - there[name]).max():.2g}"
        for name in here.keys() | there.keys()
        if here[name].tobytes() != there[name].tobytes()
    ]
    times = ("seconds", "samples_per_second")
    lines = [[{k: v for k, v in line.items() if k not in times} for line in run.history] for run in (one, other)]
    return found + [f"epoch {a['epoch']}" for a, b in zip(*lines, strict=True) if a != b]


@pytest.mark.parametrize(
    "changes",
    [
        {"device_memory": "300", "strategy": "jit", "devices": "1", "seeds": 2, "segments": 4},
        {"device_memory": "144", "strategy": "shard", "devices": "2", "sweep": "learning_rate=1e-2,1e-3"},
    ],
    ids=["jit, replicas", "shard, sweep"],
)
def test_streamed_and_resident_training_are_the_same(
    changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    streamed = train(**changes)
    assert "data streamed, an epoch in" in capsys.readouterr().out
    resident = train(**changes | {"device_memory": None})
    assert "streamed" not in capsys.readouterr().out
    assert differences(streamed, resident) == []


def test_in_float64_too() -> None:
    with jax.enable_x64(True):
        one, other = train(net64, **STREAMED), train(net64)
    assert one.state.params["layers"][0]["kernel"].dtype == jnp.float64
    assert differences(one, other) == []


def test_the_flag_takes_amounts_of_memory_and_refuses_too_little() -> None:
    assert TrainConfig(device_memory="1.5 GiB").device_bytes == 3 * 2**29
    with pytest.raises(UsageError, match="device_memory: expected an amount of memory such as 500MB or 2GiB, found '5"):
        replace(CONFIG, device_memory="5 apples").check()
    expected = "device_memory: expected at least 54 B, for two batches of the train part on each device; found 53 B"
    with pytest.raises(UsageError, match=expected):
        train(device_memory="53")


@given(st.integers(1, 2**50), st.sampled_from(["", "B", "kB", "MB", "GB", "KiB", "mib", "GiB"]), st.booleans())
def test_amounts_are_read_as_they_are_written(number: int, unit: str, space: bool) -> None:
    base, power = 1024 if "i" in unit else 1000, " kmg".find(unit[:1].lower()) if len(unit) > 1 else 0
    assert memory_size(f"{number}{' ' * space}{unit}") == number * base**power
