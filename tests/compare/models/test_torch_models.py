"""The PyTorch references: the article's names and sizes, its faults mended, its laws of initialisation."""

import ast
import importlib
import inspect
from typing import Any

import pytest
import torch
from torch import nn

from compare.models import torch_models as models

NAMES = {
    "TorchModel": (lambda: models.TorchModel(3, 5, 2), {"layer1": 20, "layer2": 12}),
    "TorchModelWithActivation": (lambda: models.TorchModelWithActivation(3, 5, 2), {"layer1": 20, "layer2": 12}),
    "MNISTClassifier": (models.MNISTClassifier, {"fc1": 785 * 512, "fc2": 513 * 256, "fc3": 257 * 10, "dropout": 0}),
    "Regressor": (lambda: models.Regressor(8), {"fc1": 9 * 64, "fc2": 65 * 32, "fc3": 33}),
    "LowRankLinear": (lambda: models.LowRankLinear(784, 512), {"U": 784 * 32, "V": 33 * 512}),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_articles_names_and_sizes(name: str) -> None:
    make, expected = NAMES[name]
    assert {child: count(module) for child, module in make().named_children()} == expected


def test_the_classifier_takes_any_image_layout_and_drops_out_only_in_training() -> None:
    torch.manual_seed(0)
    model, images = models.MNISTClassifier(), torch.rand(4, 1, 28, 28)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images.reshape(4, 784)))
    # Log-probabilities: float32 exponentials of ten classes sum to one within a few roundings.
    assert torch.allclose(model(images).exp().sum(dim=1), torch.ones(4), atol=1e-6)


@pytest.mark.parametrize("scale", ["fan_in", "article"])
def test_sparse_mask_is_a_buffer_and_missing_weights_do_nothing(scale: Any) -> None:
    torch.manual_seed(0)
    layer = models.SparseLinear(300, 20, sparsity=0.9, scale=scale)
    assert {n for n, _ in layer.named_parameters()} == {"weight", "bias"}
    assert layer.state_dict()["mask"].dtype == torch.bool
    assert layer.mask.shape == (20, 300)
    assert not layer.bias.any()
    # 6000 draws: the share of survivors has a standard deviation of 0.004.
    assert abs(layer.mask.float().mean().item() - 0.1) < 0.02
    x, before = torch.randn(4, 300), layer(torch.ones(1, 300))
    assert layer(x).shape == (4, 20)
    with torch.no_grad():
        layer.weight[~layer.mask] = 1e6
    assert torch.equal(layer(torch.ones(1, 300)), before)
    with torch.no_grad():
        layer.weight[layer.mask] += 1.0  # the twin: the others do
    assert not torch.equal(layer(torch.ones(1, 300)), before)


def test_sparse_scales() -> None:
    torch.manual_seed(0)
    article = models.SparseLinear(400, 300, scale="article")
    scaled = models.SparseLinear(400, 300)
    # Output variances of unit inputs: the number of survivors (200), or one; 120,000 draws give 1 % or better.
    assert article(torch.randn(200, 400)).var().item() == pytest.approx(200, rel=0.1)
    assert scaled(torch.randn(200, 400)).var().item() == pytest.approx(1, rel=0.1)


def test_hard_gate_slices_and_leaves_the_selector_dead() -> None:
    layer = models.AdaptiveWidthLinear(6, 4, 10)
    outputs = layer(torch.randn(5, 6))
    assert outputs.shape == (5, 7)  # sigmoid(1) * 10 = 7.3
    outputs.sum().backward()
    assert layer.selector.grad is None


@pytest.mark.parametrize("gate", ["straight_through", "soft"])
def test_the_other_gates_train_the_selector(gate: Any) -> None:
    torch.manual_seed(0)
    layer = models.AdaptiveWidthLinear(6, 4, 10, gate=gate).double()
    hard = models.AdaptiveWidthLinear(6, 4, 10).double()
    hard.load_state_dict(layer.state_dict())
    x = torch.randn(5, 6, dtype=torch.float64)
    outputs = layer(x)
    assert outputs.shape == (5, 10)
    if gate == "straight_through":
        # Products of 7 and of 10 columns may sum in another order: six terms of size 1 round to 1e-15.
        torch.testing.assert_close(outputs[:, :7], hard(x), rtol=0.0, atol=1e-13)
        assert not outputs[:, 7:].any()
    outputs.sum().backward()
    assert layer.selector.grad is not None
    assert layer.selector.grad.abs().item() > 1e-3


def test_init_weights_reaches_every_linear_layer_and_no_other() -> None:
    torch.manual_seed(0)
    model = models.MLP((300, 200, 10), norm="layer")
    model.apply(models.init_weights)
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.01))
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        largest = layer.weight.abs().max().item()
        assert 0.98 * bound < largest <= bound  # the largest of 2,000 uniform draws is within 1 % of the bound
    assert torch.equal(model.state_dict()["norms.0.weight"], torch.ones(200))
    models.LowRankLinear(5, 4, 3).apply(models.init_weights)  # U has no bias


def test_mlp_names_and_options() -> None:
    model = models.MLP((4, 6, 6, 3), activation="gelu", dropout=0.1, norm="batch", residual=True, output="softmax")
    names = {n for n, _ in model.named_parameters()}
    assert names == {f"layers.{i}.{k}" for i in range(3) for k in ("weight", "bias")} | {
        f"norms.{i}.{k}" for i in range(2) for k in ("weight", "bias")
    }
    assert torch.allclose(model(torch.randn(5, 4)).sum(dim=-1), torch.ones(5))
    plain = models.MLP((4, 6, 6, 3), activation="gelu")
    skipping = models.MLP((4, 6, 6, 3), activation="gelu", residual=True)
    skipping.load_state_dict(plain.state_dict())
    x = torch.randn(5, 4)
    assert not torch.allclose(plain(x), skipping(x))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: models.SparseLinear(3, 2, 1.0), r"expected sparsity in \[0, 1\), found 1.0"),
        (lambda: models.SparseLinear(3, 2, scale="fan_out"), "expected scale fan_in or article, found 'fan_out'"),  # type: ignore[arg-type]
        (lambda: models.AdaptiveWidthLinear(3, 2, 4, gate="firm"), "found 'firm'"),  # type: ignore[arg-type]
        (lambda: models.AdaptiveWidthLinear(3, 2, 4, ramp=0.5), "at least 1 unit, found 0.5"),
        (lambda: models.MLP((3,)), r"at least two positive sizes, found \(3,\)"),
        (lambda: models.MLP((3, 2), norm="group"), "expected layer, batch or None; found 'group'"),  # type: ignore[arg-type]
        (lambda: models.MLP((3, 2), activation="swish"), "expected one of linear, relu, .*; found 'swish'"),
    ],
)
def test_bad_arguments_are_refused_in_words(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("torch_models", {"fcjax", "jax", "flax"}),
        ("torch_activations", {"fcjax", "jax", "flax"}),
        ("numpy_models", {"fcjax", "jax", "flax", "torch", "scipy"}),
        ("numpy_mlp", {"fcjax", "jax", "flax", "torch", "scipy"}),
        ("numpy_model", {"fcjax", "jax", "flax", "torch", "scipy"}),
        ("numpy_layers", {"fcjax", "jax", "flax", "torch", "scipy"}),
        ("numpy_activations", {"fcjax", "jax", "flax", "torch", "scipy"}),
    ],
)
def test_the_legs_share_no_arithmetic(module: str, forbidden: set[str]) -> None:
    tree = ast.parse(inspect.getsource(importlib.import_module(f"compare.models.{module}")))
    found = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    found |= {str(n.module).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert found & {"numpy", "torch"}  # the walk does see imports
    assert not found & forbidden
