"""Schedules against their formulas; PyTorch's own are compared in tests/against_torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcjax.config import UsageError
from fcjax.schedules import Schedule, make_schedule

T = 40


def values(schedule: Schedule) -> list[float]:
    with jax.enable_x64(True):
        return [float(schedule(jnp.int32(t))) for t in range(T + 3)]


def expected(name: str, warmup: int) -> list[float]:
    result = []
    for t in range(T + 3):
        if t < warmup:
            result.append((t + 1) / warmup)
            continue
        u = t - warmup
        cosine = (1 + np.cos(np.pi * min(1.0, u / (T - warmup)))) / 2
        result.append({"constant": 1.0, "cosine": cosine, "step": 0.3 ** (u // 7)}[name])
    return result


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("name", ["constant", "cosine", "step"])
def test_every_schedule_follows_its_formula(name: str, warmup: int) -> None:
    found = values(make_schedule(name, T, warmup=warmup, every=7, decay=0.3))
    np.testing.assert_allclose(found, expected(name, warmup), rtol=0, atol=1e-14)  # float64's rounding
    if name != "constant" or warmup:
        assert np.abs(np.subtract(found, expected(name, warmup + 1))).max() > 1e-3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"schedule: expected one of cosine, constant, step; found 'linear'"):
        make_schedule("linear", T)
    with pytest.raises(UsageError, match="warmup: expected fewer than the 40 steps of the run, found 40"):
        make_schedule("cosine", T, warmup=40)
