"""Mistakes in clipping and accumulating gradients, each an edit of the training program."""

import functools
from collections.abc import Iterator
from typing import Any

from compare.training.mistake import Mistake
from compare.training.program import Program
from compare.training.trajectory import Clip

__all__ = ["accumulation", "clipping"]


def clipping(program: Program) -> Iterator[Mistake]:
    """Another kind of clipping, at another place or threshold; none, or one that torch has not."""
    clip = program.clip
    if clip is not None:
        summary = "the gradients are not clipped"
        yield Mistake("clip", "clip_missing", summary, "clip first in the chain", lambda p: p.change(clip=None))
    if not isinstance(clip, Clip):
        if clip is None:
            yield from _clip_extra()
        return
    c = clip.value
    if clip.kind == "norm":
        yield Mistake(
            "clip",
            "clip_epsilon",
            "torch divides by the norm + 1e-6, optax.clip_by_global_norm by the norm itself",
            "accept it as an expected failure, or clip by norm + 1e-6",
            lambda p: p.change(clip_epsilon=0.0),
        )
        other: tuple[str, str, Clip] = ("clip_value_for_norm", "clipped by value", Clip("value", c))
        right = "optax.clip_by_global_norm"
    else:
        other, right = ("clip_norm_for_value", "clipped by their global norm", Clip("norm", c)), "optax.clip"
    summary = f"the gradients are {other[1]}, torch clips by {clip.kind}"
    for epsilon in (0.0, 1e-6):
        if clip.kind == "norm" or other[2].kind == "norm":
            yield _clip_mistake(other[0], summary, right, clip=other[2], clip_epsilon=epsilon)
        places = {
            "parameter": ("clip_per_parameter", "each parameter is clipped by its own norm, torch by the norm of all"),
            "always": ("clip_always", "gradients below the largest norm are scaled up to it"),
            "batch": ("clip_before_accumulation", "each batch is clipped before accumulation, torch clips the sum"),
            "update": ("clip_after_moments", "the update is clipped after the moments, torch clips the gradient"),
        }
        for place, (name, words) in places.items():
            if place == "batch" and program.accumulate == 1:
                continue
            yield _clip_mistake(name, words, f"{right} first in the chain", clip_epsilon=epsilon, clip_place=place)
        for factor in (0.01, 0.1, 0.2, 0.5, 2.0, 5.0, 10.0, 100.0):
            words = f"the gradients are clipped at {c * factor:g}, torch clips at {c:g}"
            fields = {"clip": Clip(clip.kind, c * factor), "clip_epsilon": epsilon}
            yield _clip_mistake("clip_threshold", words, f"{right}({c:g})", **fields)


def _clip_mistake(name: str, summary: str, fix: str, **fields: object) -> Mistake:
    return Mistake("clip", name, summary, fix, lambda program: program.change(**fields))


def _clip_extra() -> Iterator[Mistake]:
    for value in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0):
        for kind in ("norm", "value"):
            summary = f"the gradients are clipped by {kind} at {value:g}, torch does not clip"
            clip = Clip(kind, value)
            yield _clip_mistake("clip_extra", summary, "leave the clipping out", clip=clip, clip_epsilon=0.0)


def accumulation(program: Program) -> Iterator[Mistake]:
    """A mean for a sum over batches, or another number of them."""
    k = program.accumulate
    if k > 1:
        yield Mistake(
            "accumulation",
            "accumulation_mean",
            f"optax.MultiSteps averages the gradients of {k} batches, torch's backward adds them up",
            f"multiply the gradients by {k}, or divide torch's loss by {k}",
            lambda p: p.change(reduce="mean"),
        )
    for other in (1, 2, 3, 4, 8):
        if other == k:
            continue
        name = "accumulation_missing" if other == 1 else "accumulation_steps" if k > 1 else "accumulation_extra"
        summary = f"an optimiser step every {other} batches, torch steps every {k}"
        for reduce in ("sum", "mean"):
            fix = f"optax.MultiSteps(..., every_k_schedule={k})"
            yield Mistake("accumulation", name, summary, fix, functools.partial(_every_batches, other, reduce))


def _every_batches(batches: int, reduce: Any, program: Program) -> Program:
    rates = [rate for rate in program.rates for _ in range(program.accumulate)]
    return program.change(accumulate=batches, reduce=reduce, rates=tuple(rates[batches - 1 :: batches]))
