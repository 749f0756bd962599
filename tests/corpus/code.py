"""Functional code between two layers: fc1, some code, fc2."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import torch
from flax import nnx
from torch import nn

from compare import Port
from tests.corpus.mistake import Case, Family, Mistake
from tests.corpus.models import rows, seeded

Array = jax.Array
T = torch.Tensor


class TorchBetween(nn.Module):
    """5-12-(code)-width-3."""

    def __init__(self, code: Callable[[T], T], width: int) -> None:
        super().__init__()
        self.code, self.fc1, self.fc2 = code, nn.Linear(5, 12), nn.Linear(width, 3)

    def forward(self, x: T) -> T:
        return self.fc2(self.code(self.fc1(x)))


class FlaxBetween(nnx.Module):
    def __init__(self, code: Callable[[Array], Array], width: int) -> None:
        self.code = code
        self.fc1, self.fc2 = nnx.Linear(5, 12, rngs=nnx.Rngs(0)), nnx.Linear(width, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: Array) -> Array:
        return self.fc2(self.code(self.fc1(x)))


@dataclasses.dataclass(frozen=True)
class Code:
    """The same code in torch, as ported, and as it should have been ported; acceptable names of the mistake."""

    words: str
    torch: Callable[[T], T]
    wrong: Callable[[Array], Array]
    right: Callable[[Array], Array]
    causes: tuple[str, ...] | None = None
    width: int = 12
    direction: Any = "forward"
    places: tuple[str, ...] = ("before fc2",)

    def case(self, code: Callable[[Array], Array]) -> Case:
        model = seeded(lambda: TorchBetween(self.torch, self.width))
        return Case("check", (Port(model, FlaxBetween(code, self.width), rows(6, 5)),))


def sequence(x: Any) -> Any:
    """(batch, 12) -> (batch, 3 positions, 4 features)"""
    return x.reshape(x.shape[0], 3, 4)


def flat(x: Any) -> Any:
    return x.reshape(x.shape[0], -1)


def family(name: str, codes: Mapping[str, Code]) -> Family:
    """A family of codes, each right once and wrong once."""
    return Family(
        name,
        {entry: functools.partial(code.case, code.right) for entry, code in codes.items()},
        tuple(
            Mistake(
                entry,
                code.words,
                functools.partial(code.case, code.wrong),
                code.places,
                None if code.causes is None else frozenset(code.causes),
                direction=code.direction,
            )
            for entry, code in codes.items()
        ),
    )
