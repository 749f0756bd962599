"""Weight mappings are total and linear: everything is placed once or listed, and gradients return by the transpose."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compare.mapping.leaves import TorchLeaf, torch_leaves
from compare.mapping.proposal import propose_mapping
from compare.mapping.rules import Rule
from compare.mapping.weight_mapping import WeightMapping
from compare.result import UsageError


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(4)), st.tuples(*[st.integers(1, 4)] * 4), st.integers(0, 1000))
def test_a_permutation_is_orthogonal(order: list[int], shape: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    rule = Rule("w", "k", tuple(order), shape=shape)
    x = random.standard_normal(shape)
    y = random.standard_normal(rule.forward(x).shape)
    # <M x, y> = <x, M^T y>, a sum of at most 256 products
    np.testing.assert_allclose(np.vdot(rule.forward(x), y), np.vdot(x, rule.transpose(y)), rtol=1e-12, atol=1e-12)
    assert np.array_equal(rule.transpose(rule.forward(x)), x)
    assert rule.describe() == f"axes {tuple(order)}"


FUNCTIONS: dict[str, Any] = {
    "transposed": lambda w: w.T,
    "scaled": lambda w: 3.0 * w,
    "heads apart": lambda w: w.T.reshape(4, 2, 3),
    "one third": lambda w: jnp.split(w, 3, axis=0)[1].T,
    "summed": lambda w: w.sum(axis=0),
    "padded": lambda w: jnp.pad(w, ((0, 1), (2, 0))),
    "flipped": lambda w: w[::-1, ::2],
}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(FUNCTIONS)), st.integers(0, 1000))
def test_the_transpose_of_a_function(name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    rule = Rule("w", "k", None, FUNCTIONS[name], (6, 4))
    x = random.standard_normal((6, 4)).astype(np.float32).astype(np.float64)
    y = random.standard_normal(rule.forward(x).shape)
    left, right = np.vdot(rule.forward(x), y), np.vdot(x, rule.transpose(y))
    # Outside 64-bit mode JAX's own functions give float32; the values are copies or short sums of float32 numbers.
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_one_array_that_fills_two_gets_the_sum_of_their_gradients() -> None:
    rules = (Rule("w", "a", (1, 0)), Rule("w", "b"), Rule("v", "c"))
    mapping = WeightMapping(rules)
    a, b = np.arange(6.0).reshape(3, 2), np.ones((2, 3))
    back = mapping.gradients_to_torch({"a": a, "b": b, "c": None})
    assert back["w"] is not None
    assert np.array_equal(back["w"], a.T + b)
    assert back["v"] is None
    assert np.array_equal(mapping.gradients_to_torch({"a": None, "b": b})["w"], b)  # type: ignore[arg-type]


def net() -> nn.Module:
    model = nn.Module()
    model.fc, model.conv = nn.Linear(3, 5), nn.Conv2d(2, 4, 3)
    model.norm, model.embed = nn.BatchNorm1d(5), nn.Embedding(7, 3)
    return model


SHAPES: dict[str, tuple[int, ...]] = {
    "fc.kernel": (3, 5),
    "fc.bias": (5,),
    "conv.kernel": (3, 3, 2, 4),
    "conv.bias": (4,),
    "norm.scale": (5,),
    "norm.bias": (5,),
    "norm.mean": (5,),
    "norm.var": (5,),
    "embed.embedding": (7, 3),
}


def test_every_array_has_its_place() -> None:
    mapping = propose_mapping(net(), SHAPES)
    assert mapping.problems == ()
    assert sorted(rule.target for rule in mapping.rules) == sorted(SHAPES)
    assert mapping.without_counterpart == ("norm.num_batches_tracked",)
    assert {rule.source for rule in mapping.rules} | set(mapping.without_counterpart) == set(torch_leaves(net()))


def test_one_error_lists_all_that_does_not_fit() -> None:
    shapes = {**SHAPES, "fc.kernel": (5, 3), "conv.kernel": (2, 3, 3, 4), "head.scale": (2,)}
    del shapes["norm.var"], shapes["embed.embedding"]
    with pytest.raises(UsageError) as caught:
        propose_mapping(net(), shapes).raise_for_problems()
    text = str(caught.value)
    assert "fc.kernel: expected shape (3, 5) from fc.weight, found (5, 3): it looks untransposed" in text
    assert (
        "conv.kernel: expected shape (3, 3, 2, 4) from conv.weight, found (2, 3, 3, 4): the axes look swapped" in text
    )
    assert "head.scale: Flax has it, shape (2,)" in text
    assert "norm.running_var: torch has it, shape (5,)" in text
    assert "embed.weight: torch has it, shape (7, 3)" in text
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"fc.weights": "fc.kernel"}, "the torch model has no 'fc.weights'"),
        ({"fc.weight": "fc.weight"}, "the Flax model has no 'fc.weight'"),
        ({"fc.bias": "fc.bias", "norm.bias": "fc.bias"}, "'fc.bias' is given twice"),
        ({"fc.weight": ("fc.kernel", lambda w: w.T + 1)}, "not linear|can trace and transpose"),
        ({"fc.weight": ("fc.kernel", lambda w: w.T * w.T)}, "can trace and transpose"),
        ({"fc.weight": ("fc.kernel", lambda w: np.sort(w))}, "can trace and transpose"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_wrong_usage(mapping: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        propose_mapping(net(), SHAPES, mapping)


@pytest.mark.parametrize("target", ["conv.kernel", ("fc.kernel", lambda w: w), ("fc.kernel", lambda w: w[:2].T)])
def test_a_given_target_of_another_shape_is_listed(target: Any) -> None:
    mapping = propose_mapping(net(), SHAPES, {"fc.weight": target})
    path = target if isinstance(target, str) else target[0]
    assert [(p.name, p.side) for p in mapping.problems if p.side == "both"] == [(path, "both")]
    assert path not in {rule.target for rule in mapping.rules}


def test_a_given_name_wins_over_the_conventional_one() -> None:
    square = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shapes: dict[str, tuple[int, ...]] = {"0.kernel": (4, 4), "0.bias": (4,), "1.kernel": (4, 4), "1.bias": (4,)}
    mapping = propose_mapping(square, shapes, {"0.weight": "1.kernel", "1.weight": ("0.kernel", lambda w: w)})
    found = {rule.source: rule for rule in mapping.rules}
    assert mapping.problems == ()
    assert found["0.weight"].target == "1.kernel"
    assert found["0.weight"].permutation == (1, 0)
    assert found["1.weight"].transform is not None


def test_tied_weights_are_one_leaf_with_two_names() -> None:
    model = nn.Module()
    model.embed, model.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
    model.head.weight = model.embed.weight
    leaves = torch_leaves(model)
    assert leaves == {"embed.weight": TorchLeaf("embed.weight", (7, 3), nn.Embedding, True, aliases=("head.weight",))}
    assert propose_mapping(model, {"embed.embedding": (7, 3)}).problems == ()


def test_a_function_has_no_inverse() -> None:
    mapping = WeightMapping((Rule("w", "k", None, lambda w: 2 * w, (3,)),))
    with pytest.raises(UsageError, match="no known inverse"):
        mapping.to_torch({"k": np.ones(3)})
    assert np.array_equal(mapping.to_flax({"w": torch.ones(3).numpy()})["k"], 2 * np.ones(3))
