"""Structures keep their kind when their leaves are replaced: models read attributes off what submodules return."""

import collections
import dataclasses
from typing import Any

import numpy as np
import pytest

from compare.structure import Call, flatten, rebuild


@dataclasses.dataclass
class ModelOutput(collections.OrderedDict):
    """A dataclass that is a mapping of the fields that are not None, as ``transformers`` has it."""

    last: Any = None
    hidden: Any = None
    cache: Any = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


Pair = collections.namedtuple("Pair", ["left", "right"])
A, B = np.arange(3.0), np.ones((2, 2))
NODES: list[Any] = [
    ModelOutput(last=A, hidden=(B, None)),
    collections.OrderedDict(a=A, b=[B]),
    collections.defaultdict(lambda: A, a=A, b=B),
    {"a": A, 3: B},
    Pair(A, {"x": B}),
    (A, [B, "a string"]),
    Call(args=(A,), kwargs={"b": B}),
]


@pytest.mark.parametrize("node", NODES, ids=lambda node: type(node).__name__)
def test_rebuilding_keeps_the_kind_and_replaces_every_leaf(node: Any) -> None:
    leaves = flatten(node)
    rebuilt = rebuild(node, {path: -leaf for path, leaf in leaves.items()})
    assert type(rebuilt) is type(node)
    found = flatten(rebuilt)
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(found[path], -leaf)
    for path, leaf in flatten(node).items():
        assert leaf is leaves[path]  # the node itself is left alone


def test_a_rebuilt_model_output_answers_by_attribute_and_by_key() -> None:
    rebuilt = rebuild(ModelOutput(last=A, hidden=B), {"last": -A, "hidden": -B})
    np.testing.assert_array_equal(rebuilt.last, -A)
    np.testing.assert_array_equal(rebuilt["last"], -A)
    assert rebuilt.cache is None
