"""B8: each Flax initialiser draws from the law of PyTorch's own function: two-sample tests over many draws."""

import math
from collections.abc import Callable

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from numpy.typing import NDArray
from scipy import stats

from compare.models import torch_models
from fcjax import initializers, models

Sample = NDArray[np.float32]
FAN_IN, FAN_OUT = 300, 200


def torch_draws(fill: Callable[[torch.Tensor], object]) -> Sample:
    torch.manual_seed(0)
    weight = torch.empty(FAN_OUT, FAN_IN)  # PyTorch's layout
    fill(weight)
    return weight.numpy().ravel()


def torch_biases() -> Sample:
    torch.manual_seed(0)
    return torch.cat([torch.nn.Linear(FAN_IN, 1000).bias.detach() for _ in range(60)]).numpy()


def flax_draws(initializer: initializers.Initializer) -> Sample:
    return np.asarray(initializer(jax.random.key(0), (FAN_IN, FAN_OUT), np.float32)).ravel()


def relu_kaiming(function: Callable[..., object]) -> Callable[[torch.Tensor], object]:
    return lambda weight: function(weight, nonlinearity="relu")


PAIRS: dict[str, tuple[Callable[[], Sample], initializers.Initializer]] = {
    "Linear's weight": (
        lambda: torch_draws(lambda w: torch.nn.init.kaiming_uniform_(w, a=math.sqrt(5))),
        initializers.torch_linear_kernel(),
    ),
    "Linear's bias": (torch_biases, initializers.torch_linear_bias(FAN_IN)),
    "xavier_uniform_": (lambda: torch_draws(torch.nn.init.xavier_uniform_), initializers.xavier_uniform()),
    "xavier_normal_": (lambda: torch_draws(torch.nn.init.xavier_normal_), initializers.xavier_normal()),
    "kaiming_uniform_": (
        lambda: torch_draws(relu_kaiming(torch.nn.init.kaiming_uniform_)),
        initializers.kaiming_uniform(),
    ),
    "kaiming_normal_": (
        lambda: torch_draws(relu_kaiming(torch.nn.init.kaiming_normal_)),
        initializers.kaiming_normal(),
    ),
}


def same_law(a: Sample, b: Sample) -> bool:
    """60,000 draws each: a right law fails one seed in ten thousand, and a scale 3 % off is seen."""
    spread = abs(a.std() / b.std() - 1) if b.std() > 0 else math.inf
    reach = abs(np.abs(a).max() / np.abs(b).max() - 1) if np.abs(b).max() > 0 else math.inf
    # Largest of 60,000: uniform draws reach the bound to 1e-4, normal ones scatter by 6 % or so.
    return bool(stats.ks_2samp(a, b).pvalue > 1e-4) and spread < 0.015 and reach < 0.25


@pytest.mark.parametrize("name", PAIRS)
def test_same_law_as_torch(name: str) -> None:
    torch_side, flax_side = PAIRS[name]
    assert same_law(flax_draws(flax_side), torch_side())


@pytest.mark.parametrize("name", PAIRS)
def test_twin_flax_own_defaults_are_not_torchs(name: str) -> None:
    sample = PAIRS[name][0]()
    assert not same_law(flax_draws(nnx.initializers.lecun_normal()), sample)
    assert not same_law(flax_draws(nnx.initializers.zeros), sample)
    others = [initializer for other, (_, initializer) in PAIRS.items() if other.split("'")[0] != name.split("'")[0]]
    assert not any(same_law(flax_draws(initializer), sample) for initializer in others)


@pytest.mark.parametrize("parameter", ["kernel", "bias"])
def test_whole_models_start_from_the_same_law(parameter: str) -> None:
    torch.manual_seed(0)
    ours = [models.Regressor(8, rngs=nnx.Rngs(seed)).fc2 for seed in range(40)]
    theirs = [torch_models.Regressor(8).fc2 for _ in range(40)]
    flax_sample = np.concatenate([np.asarray(getattr(layer, parameter)[...]).ravel() for layer in ours])
    name = "weight" if parameter == "kernel" else "bias"
    torch_sample = torch.cat([getattr(layer, name).detach().ravel() for layer in theirs]).numpy()
    assert stats.ks_2samp(flax_sample, torch_sample).pvalue > 1e-4
    assert stats.ks_2samp(flax_sample * 1.7, torch_sample).pvalue < 1e-6  # the twin: Flax's default spread


def test_init_weights_has_the_same_law_on_both_legs() -> None:
    torch.manual_seed(0)
    theirs = torch_models.MLP((FAN_IN, FAN_OUT, 7))
    default = theirs.layers[0].weight.detach().numpy().ravel().copy()  # type: ignore[operator]
    theirs.apply(torch_models.init_weights)
    ours = models.MLP((FAN_IN, FAN_OUT, 7), rngs=nnx.Rngs(0))
    initializers.init_weights(ours, nnx.Rngs(1))
    weight = theirs.state_dict()["layers.0.weight"].numpy().ravel()
    assert same_law(np.asarray(ours.layers[0].kernel[...]).ravel(), weight)
    assert not same_law(np.asarray(ours.layers[0].kernel[...]).ravel(), default)
    for i in range(2):
        np.testing.assert_array_equal(
            nnx.state(ours.layers[i])["bias"][...], theirs.state_dict()[f"layers.{i}.bias"].numpy()
        )
