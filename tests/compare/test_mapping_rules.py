"""Every kind of rule is linear with its transpose, and brings values there and back."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compare.mapping.proposal import propose_mapping
from compare.mapping.weight_mapping import WeightMapping

Shapes = dict[str, tuple[int, ...]]
GATES = "ifgo"


class Scanned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(4))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(6, 18), nn.Linear(6, 6)


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(5, 4) for _ in range(3))


class BothKinds(nn.Module):
    """Attention packed in the layers of the trunk, and torch's own in the pooling at the end, all of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PackedWithOutput() for _ in range(3))
        self.pool = nn.MultiheadAttention(6, 2)


class PackedWithOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(6, 18), nn.Linear(6, 6)


class ApartWithOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(6, 6) for _ in range(4))


class Bare(nn.Module):
    """Kernels of convolutions as arrays of its own, with axes of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 4, 5, 3, 2))
        self.mixing = nn.Parameter(torch.randn(6, 7, 1, 1))
        self.image = nn.Parameter(torch.randn(1, 5, 8, 8))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight


HEADS: Shapes = {"out.kernel": (2, 3, 6), "out.bias": (6,)}
for _name in ("query", "key", "value"):
    HEADS |= {f"{_name}.kernel": (6, 2, 3), f"{_name}.bias": (2, 3)}
POOL: Shapes = {f"MAPHead_0.MultiHeadDotProductAttention_0.{leaf}": shape for leaf, shape in HEADS.items()}
IN_TRUNK: Shapes = {f"encoderblock.attn.{leaf}": (3, *shape) for leaf, shape in HEADS.items()}
IN_LIST: Shapes = {f"encoderblock_{i}.attn.{leaf}": shape for i in range(3) for leaf, shape in HEADS.items()}
PER_GATE: Shapes = {}
for _gate in GATES:
    PER_GATE |= {f"cell.i{_gate}.kernel": (3, 4), f"cell.h{_gate}.kernel": (4, 4)}
GRU: Shapes = {"hn.bias": (4,)}
for _gate in "rzn":
    GRU |= {f"i{_gate}.kernel": (3, 4), f"h{_gate}.kernel": (4, 4), f"i{_gate}.bias": (4,)}
KINDS: dict[str, tuple[Callable[[], nn.Module], Shapes]] = {
    "attention, heads apart": (lambda: nn.MultiheadAttention(6, 2), {f"self_attn.{k}": s for k, s in HEADS.items()}),
    "attention, other key size": (
        lambda: nn.MultiheadAttention(6, 2, kdim=4, vdim=5, bias=False),
        {"query.kernel": (6, 2, 3), "key.kernel": (4, 2, 3), "value.kernel": (5, 2, 3), "out.kernel": (2, 3, 6)},
    ),
    "packed in torch": (Packed, {f"attn.{k}": s for k, s in HEADS.items()}),
    "packed in Flax": (Apart, {"c_attn.kernel": (5, 12), "c_attn.bias": (12,)}),
    "packed in Flax, an output of a query's shape": (
        ApartWithOutput,
        {"qkv.kernel": (6, 18), "qkv.bias": (18,), "proj.kernel": (6, 6), "proj.bias": (6,)},
    ),
    "bare kernels": (Bare, {"weight": (3, 2, 5, 4), "mixing": (7, 6), "image": (1, 8, 8, 5)}),
    "spectral norm": (
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(5, 4))),
        {"Dense_0.kernel": (5, 4), "Dense_0.bias": (4,)},
    ),
    "packed in some layers": (BothKinds, IN_LIST | POOL),
    "packed in stacked layers": (BothKinds, IN_TRUNK | POOL),
    "LSTM, gates apart, biases merged": (
        lambda: nn.LSTM(3, 4),
        PER_GATE | {f"cell.h{g}.bias": (4,) for g in GATES},
    ),
    "LSTM, gates packed, biases merged": (
        lambda: nn.LSTMCell(3, 4),
        {"cell.dense_i.kernel": (3, 16), "cell.dense_h.kernel": (4, 16), "cell.dense_h.bias": (16,)},
    ),
    "GRU": (lambda: nn.GRU(3, 4), GRU),
    "layers stacked": (
        Scanned,
        {"ScanBlock_0.Dense_0.kernel": (4, 3, 3), "ScanBlock_0.Dense_0.bias": (4, 3)}
        | {f"ScanBlock_0.LayerNorm_0.{leaf}": (4, 3) for leaf in ("scale", "bias")},
    ),
    "tied, twice in Flax": (Tied, {"embed.embedding": (7, 3), "head.kernel": (3, 7)}),
    "transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, (2, 4))),
        {"ConvTranspose_0.kernel": (2, 4, 2, 3), "ConvTranspose_0.bias": (3,)},
    ),
    "transposed convolution, torch's kernel": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, (2, 4), bias=False)),
        {"up.kernel": (2, 4, 3, 2)},
    ),
    "grouped convolution, PReLU": (
        lambda: nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.PReLU()),
        {"Conv_0.kernel": (3, 2, 6), "Conv_0.bias": (6,), "PReLU_0.negative_slope": ()},
    ),
    "a 1x1 convolution as a linear layer": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 1)),
        {"Dense_0.kernel": (4, 6), "Dense_0.bias": (6,)},
    ),
}


def numbers(random: np.random.Generator, shapes: Shapes) -> dict[str, np.ndarray]:
    return {name: random.standard_normal(shape) for name, shape in shapes.items()}


def pair(kind: str) -> tuple[WeightMapping, Shapes, Shapes]:
    make, flax = KINDS[kind]
    model = make()
    mapping = propose_mapping(model, flax)
    assert mapping.problems == (), mapping.problems
    return mapping, {name: tuple(p.shape) for name, p in model.named_parameters()}, flax


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 1000))
def test_gradients_come_back_by_the_transpose(kind: str, seed: int) -> None:
    mapping, torch_shapes, flax_shapes = pair(kind)
    random = np.random.default_rng(seed)
    x, y = numbers(random, torch_shapes), numbers(random, flax_shapes)
    there, back = mapping.to_flax(x), mapping.gradients_to_torch(y)
    assert {path: array.shape for path, array in there.items()} == flax_shapes
    left = sum(np.vdot(there[path], y[path]) for path in y)
    right = sum(np.vdot(x[name], gradient) for name, gradient in back.items() if gradient is not None)
    np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)  # sums of at most 200 products in float64


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_values_there_and_back(kind: str) -> None:
    mapping, torch_shapes, flax_shapes = pair(kind)
    x = numbers(np.random.default_rng(0), torch_shapes)
    there = mapping.to_flax(x)
    back = mapping.to_torch(there)
    assert {name: array.shape for name, array in back.items()} == torch_shapes
    again = mapping.to_flax(back)
    assert all(np.array_equal(again[path], there[path]) for path in flax_shapes)
    for name in torch_shapes:
        if not mapping.zeroed:
            assert np.array_equal(back[name], x[name])
    assert bool(mapping.zeroed) == ("merged" in kind or kind == "GRU")


def test_gates_keep_their_order() -> None:
    """torch stacks i, f, g, o; the rows of f go to Flax's f, and the two biases are added up."""
    mapping, torch_shapes, _ = pair("LSTM, gates apart, biases merged")
    x = numbers(np.random.default_rng(0), torch_shapes)
    there = mapping.to_flax(x)
    for number, gate in enumerate(GATES):
        rows = slice(4 * number, 4 * number + 4)
        assert np.array_equal(there[f"cell.i{gate}.kernel"], x["weight_ih_l0"][rows].T)
        assert np.array_equal(there[f"cell.h{gate}.bias"], x["bias_ih_l0"][rows] + x["bias_hh_l0"][rows])


def test_a_new_bias_of_a_reset_gate_is_not_added_to_the_other() -> None:
    mapping, torch_shapes, _ = pair("GRU")
    x = numbers(np.random.default_rng(0), torch_shapes)
    there = mapping.to_flax(x)
    assert np.array_equal(there["in.bias"], x["bias_ih_l0"][8:])
    assert np.array_equal(there["hn.bias"], x["bias_hh_l0"][8:])
    assert np.array_equal(there["ir.bias"], x["bias_ih_l0"][:4] + x["bias_hh_l0"][:4])


def test_transposed_convolution_against_flax() -> None:
    """Flax correlates with the kernel, torch scatters it: reversed in space they are the same."""
    import jax.numpy as jnp
    from flax import linen

    model = nn.Sequential(nn.ConvTranspose2d(2, 3, (2, 4), stride=2))
    port = linen.ConvTranspose(3, (2, 4), strides=(2, 2), padding="VALID")
    mapping = propose_mapping(model, {"kernel": (2, 4, 2, 3), "bias": (3,)})
    there = mapping.to_flax({name: p.detach().numpy() for name, p in model.named_parameters()})
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 5)).astype(np.float32)
    found = port.apply({"params": there}, jnp.asarray(x.transpose(0, 2, 3, 1)))
    expected = model(torch.from_numpy(x)).detach().numpy()
    # float32 sums of at most 16 products
    np.testing.assert_allclose(np.asarray(found).transpose(0, 3, 1, 2), expected, rtol=1e-5, atol=1e-6)


class Coupling(nn.Module):
    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.mask = nn.Parameter(torch.tensor([0.0, 1.0]), requires_grad=trained)


@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_table_may_be_code_in_flax(trained: bool) -> None:
    mapping = propose_mapping(Coupling(trained), {"fc.kernel": (4, 3), "fc.bias": (3,)})
    assert [problem.name for problem in mapping.problems] == (["mask"] if trained else [])
    assert mapping.without_counterpart == (() if trained else ("mask",))


def test_an_image_of_its_own_has_its_channels_last_first_of_all() -> None:
    mapping = propose_mapping(Bare(), KINDS["bare kernels"][1])
    (rule,) = [rule for rule in mapping.rules if rule.source == "image"]
    assert rule.permutation == (0, 2, 3, 1)
    assert len(mapping.choices) == 1  # height and width are alike: a run decides


class Twins(nn.Module):
    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)))


@pytest.mark.parametrize("names", [("qf1", "qf2"), ("critic", "value")])
def test_modules_with_numbers_may_be_stacked(names: tuple[str, str]) -> None:
    stacked = {"Dense_0.kernel": (2, 5, 4), "Dense_0.bias": (2, 4), "Dense_1.kernel": (2, 4, 1), "Dense_1.bias": (2, 1)}
    mapping = propose_mapping(Twins(names), {f"VmapQ_0.{leaf}": shape for leaf, shape in stacked.items()})
    assert (not mapping.problems) == (names == ("qf1", "qf2"))
