"""What is wrong with a loss scale: GradScaler's rules with one of them changed."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compare.result import Cause
from compare.training.trajectory import Snapshot, Training, own_scaler

__all__ = ["scale_causes", "scales"]


def scales(finite: Sequence[bool], init: float, growth: float, backoff: float, interval: int) -> list[float]:
    """The loss scale after each step: backed off after an overflow, grown after ``interval`` finite steps."""
    found, scale, steps = [], init, 0
    for ok in finite:
        steps = steps + 1 if ok else 0
        if not ok:
            scale *= backoff
        elif steps == interval:
            scale, steps = scale * growth, 0
        found.append(scale)
    return found


def scale_causes(training: Training, reference: Sequence[Snapshot], found: Sequence[Snapshot]) -> list[Cause]:
    """Changed rules under which GradScaler's trajectory becomes the one that was seen."""
    scaler = own_scaler(training.scalers[0])
    if scaler is None or any(snapshot.loss_scale is None for snapshot in found):
        return []
    state = scaler.state_dict()
    rules = {
        "init": state["scale"],
        "growth": state["growth_factor"],
        "backoff": state["backoff_factor"],
        "interval": state["growth_interval"],
    }
    before = [rules["init"], *(snapshot.loss_scale for snapshot in reference)]
    finite = [_finite(snapshot, scale) for snapshot, scale in zip(reference, before, strict=False)]
    seen = [snapshot.loss_scale for snapshot in found]
    evidence = f"scales {seen[:8]}, GradScaler's are {[snapshot.loss_scale for snapshot in reference][:8]}"
    return [
        Cause(name, summary, fix, evidence)
        for name, summary, fix, changed in _changes(rules)
        if scales(finite, **{**rules, **changed}) == seen
    ]


def _finite(snapshot: Snapshot, scale: float) -> bool:
    return all(np.isfinite(g * scale).all() for g in snapshot.gradients.values() if g is not None)


def _changes(rules: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    interval = rules["interval"]
    yield (
        "loss_scale_growth_late",
        f"the scale grows after {interval + 1} finite steps (flax's DynamicScale), GradScaler's after {interval}",
        f"growth_interval={interval - 1}",
        {"interval": interval + 1},
    )
    for other in (*range(1, 21), 50, 100, 1000, 2000, 10**9):
        if other not in (interval, interval + 1):
            summary = f"the scale grows after {other} finite steps, GradScaler's after {interval}"
            yield "loss_scale_interval", summary, f"growth_interval={interval}", {"interval": other}
    for rule, name in (("growth", "loss_scale_growth"), ("backoff", "loss_scale_backoff"), ("init", "loss_scale_init")):
        for other in (0.25, 0.5, 1.0, 2.0, 4.0, 10.0, 128.0, 1024.0, 32768.0, 65536.0):
            if other != rules[rule]:
                summary = f"the scale's {rule} is {other:g}, GradScaler's is {rules[rule]:g}"
                yield name, summary, f"use {rules[rule]:g}", {rule: other}
