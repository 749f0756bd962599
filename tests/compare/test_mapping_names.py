"""Names propose: numbers by rank, words by their synonyms; what they say goes before any order."""

import pytest
import torch
from torch import nn

from compare.mapping.names import Names, similarity
from compare.mapping.proposal import propose_mapping
from compare.mapping.table import rows, table

Shapes = dict[str, tuple[int, ...]]


def linear(*paths: str, size: int = 4) -> Shapes:
    return {f"{p}.kernel": (size, size) for p in paths} | {f"{p}.bias": (size,) for p in paths}


def square(*names: str) -> nn.Module:
    model = nn.Module()
    for name in names:
        setattr(model, name, nn.Linear(4, 4))
    return model


def pairs(model: nn.Module, shapes: Shapes) -> dict[str, str]:
    mapping = propose_mapping(model, shapes)
    assert mapping.problems == ()
    return {
        r.source.removesuffix(".weight"): r.target.removesuffix(".kernel")
        for r in mapping.rules
        if "kernel" in r.target
    }


def sequential() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))


@pytest.mark.parametrize("pattern", ["layers.{}", "layers_{}", "Dense_{}", "net.layers.{}", "fc{}", "Linear_{}"])
def test_a_sequential_under_other_names(pattern: str) -> None:
    model = sequential()
    del model[3]
    numbers = (0, 2, 3) if "layers" in pattern else (1, 2, 3) if "fc" in pattern else (0, 1, 2)
    names = [pattern.format(n) for n in numbers]
    assert pairs(model, linear(*reversed(names))) == dict(zip(("0", "2", "3"), names, strict=True))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("fc1", "fc2"), ("dense1", "dense2")),
        (("fc1", "fc2"), ("Dense_0", "Dense_1")),
        (("q_proj", "k_proj", "v_proj", "o_proj"), ("query", "key", "value", "out")),
        (("encoder", "decoder"), ("Encoder_0", "Decoder_0")),
        (("self_attn", "crossAttn"), ("selfAttention", "cross_attention")),
        (("first_layer", "last_layer"), ("firstLayer", "lastLayer")),
    ],
)
def test_the_same_module_by_another_word(ours: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    """In whatever order they are defined."""
    assert pairs(square(*ours), linear(*reversed(theirs))) == dict(zip(ours, theirs, strict=True))


def test_names_go_before_order() -> None:
    model = square("fc1", "fc2")
    swapped_definition = linear("fc2", "fc1")
    mapping = propose_mapping(model, swapped_definition, orders=lambda: (["fc1", "fc2"], ["fc2", "fc1"]))
    assert {r.source: r.target for r in mapping.rules}["fc1.weight"] == "fc1.kernel"
    assert mapping.other is None
    assert mapping.choices == ()


def test_order_decides_where_names_say_nothing() -> None:
    model, shapes = square("a", "b"), linear("x", "y")
    by_calls = propose_mapping(model, shapes, orders=lambda: (["a", "b"], ["y", "x"]))
    found = {r.source: (r.target, r.found) for r in by_calls.rules}
    assert found["a.weight"] == ("y.kernel", "order")
    assert not any(choice.blind for choice in by_calls.choices)
    by_definition = propose_mapping(model, shapes)
    assert {r.source: r.target for r in by_definition.rules}["a.weight"] == "x.kernel"
    assert [(len(choice.options), choice.blind) for choice in by_definition.choices] == [(2, True)]


def test_similarity_is_of_words_and_ranks() -> None:
    ours = Names(dict.fromkeys(("layers.0.fc1", "layers.0.fc2", "layers.4.fc1"), "linear"))
    theirs = Names(dict.fromkeys(("Layer_0.Dense_0", "Layer_0.Dense_1", "Layer_1.Dense_0"), "linear"))
    name = ours.components("layers.4.fc1")
    likeness = {path: similarity(name, theirs.components(path)) for path in theirs._levels}
    assert max(likeness, key=lambda path: likeness[path]) == "Layer_1.Dense_0"
    assert similarity(name, name) == 1.0


def test_a_buffer_needs_a_name_not_only_a_shape() -> None:
    model = square("fc")
    model.register_buffer("mask", torch.ones(4, 4))
    mapping = propose_mapping(model, {**linear("fc"), "extra": (4, 4)}, kinds={"extra": "buffer"})
    assert (mapping.without_counterpart, mapping.flax_only) == (("mask",), ("extra",))
    assert mapping.problems == ()
    named = propose_mapping(model, {**linear("fc"), "causal.mask": (4, 4)})
    assert {r.source: r.target for r in named.rules}["mask"] == "causal.mask"


def test_a_missing_bias_is_not_filled_from_elsewhere() -> None:
    model, shapes = square("fc1", "fc2"), linear("fc1", "fc2", "fc3")
    del shapes["fc1.bias"], shapes["fc3.kernel"]
    assert {(p.name, p.side) for p in propose_mapping(model, shapes).problems} == {
        ("fc1.bias", "torch"),
        ("fc3.bias", "flax"),
    }


def test_part_of_a_mapping_or_a_function() -> None:
    model, shapes = square("a", "b"), linear("x", "y")
    for given in ({"a.weight": "y.kernel"}, lambda name: "y.kernel" if name == "a.weight" else None):
        found = {r.source: (r.target, r.found) for r in propose_mapping(model, shapes, given).rules}
        assert found["a.weight"] == ("y.kernel", "given")
        assert found["b.weight"][0] == "x.kernel"
        assert set(found) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_the_table_says_how_each_pair_was_found() -> None:
    model = square("fc")
    model.register_buffer("mask", torch.ones(2, 3))
    shown = rows(propose_mapping(model, {**linear("fc"), "head.scale": (9,)}))
    assert {"torch": "fc.weight", "flax": "fc.kernel", "transform": "transposed", "found": "name"} in shown
    text = table(shown)
    assert "mask" in text
    assert "head.scale" in text
    assert "not placed: Flax has it, shape (9,)" in text


@pytest.mark.parametrize(
    ("ours", "theirs"), [("to_k", "key"), ("to_q", "wq"), ("w_o", "out"), ("tok_embed", "token_embed")]
)
def test_a_letter_behind_a_word_keeps_its_meaning(ours: str, theirs: str) -> None:
    last = [Names({name: "linear"}).components(name)[-1].word for name in (ours, theirs)]
    assert last[0] == last[1]
    assert Names({"tok": "embedding"}).components("tok")[0].word == "token"
