"""Each cause in the bank is found where it is planted. The "port" is torch too: thousands of runs stay cheap."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compare.cases import with_cotangents
from compare.diagnose import Diagnosis, diagnose
from compare.evidence import Evidence
from compare.legs.run import Case
from compare.legs.torch_leg import TorchLeg
from compare.mapping.rules import Rule
from compare.mapping.weight_mapping import WeightMapping
from compare.structure import Call

Function = Callable[..., torch.Tensor]


class Steps(nn.Module):
    """Layers of every kind, and a forward pass that is given as a function of them and of x."""

    def __init__(self, forward: Callable[["Steps", torch.Tensor], Any]) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.norm, self.rms, self.group = nn.LayerNorm(6), nn.RMSNorm(6, eps=1e-6), nn.GroupNorm(2, 4)
        self.conv, self.deconv = nn.Conv1d(4, 4, 3, padding=1), nn.ConvTranspose1d(4, 4, 3, padding=1)
        self.batch, self.attention = nn.BatchNorm1d(4), nn.MultiheadAttention(6, 2, batch_first=True)
        self.lstm, self.gru = nn.LSTM(6, 3, batch_first=True, bidirectional=True), nn.GRU(6, 5, batch_first=True)
        self.way = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.way(self, x)


class Twin:
    """Stands for the Flax leg: the same weights, another forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.leg = TorchLeg(model, "float64")

    constants: tuple[str, ...] = ()

    def trace(self, case: Case) -> Any:
        return self.leg.run(case, trace=True).checkpoints


def weights(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    model = Steps(lambda m, x: x)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: tensor.numpy()
        if "num_batches" in name
        else np.abs(random.normal(1.0, 0.3, tuple(tensor.shape)))
        if "running_var" in name
        else random.normal(0.2, 0.5, tuple(tensor.shape))
        for name, tensor in ((name, tensor.detach()) for name, tensor in named.items())
    }


def diagnosed(right: Callable[..., Any], wrong: Callable[..., Any], shape: tuple[int, ...] = (3, 4, 6)) -> Diagnosis:
    """What the search says if torch computes ``right`` and the port ``wrong``."""
    torch.set_num_threads(1)
    model, twin = Steps(right), Twin(Steps(wrong))
    reference = TorchLeg(model, "float64")
    evidence = []
    for seed in range(2):
        x = np.random.default_rng(10 + seed).normal(size=shape)
        case = Case(f"case {seed}", weights(seed), Call((x,)))
        case = with_cotangents(case, reference.run(case).outputs, seed)
        ours, theirs = reference.run(case), twin.leg.run(case)
        evidence.append(Evidence(case, ours, ours, theirs))
    names = [name for name in weights(0) if "num_batches" not in name]
    mapping = WeightMapping(tuple(Rule(name, name) for name in names))
    legs: Any = dataclasses.make_dataclass("Pair", ["torch64", "flax64"])(reference, twin)
    return diagnose(legs, mapping, evidence)


def attend(m: Steps, x: torch.Tensor, scale: float, causal: bool = False, dim: int = -1) -> torch.Tensor:
    q, k, v = (fc(x).reshape(*x.shape[:2], 2, 3).transpose(1, 2) for fc in (m.fc1, m.fc2, m.fc1))
    scores = q @ k.transpose(-1, -2) * scale
    if causal:
        scores = scores.masked_fill(torch.triu(torch.ones(4, 4), 1).bool(), -math.inf)
    return (torch.softmax(scores, dim) @ v).transpose(1, 2).reshape(x.shape)


def norm(x: torch.Tensor, m: Steps, eps: float = 1e-5, **other: Any) -> torch.Tensor:
    return F.layer_norm(x, (6,), **{"weight": m.norm.weight, "bias": m.norm.bias, "eps": eps, **other})


Case_ = tuple[str, Callable[..., Any], Callable[..., Any]]
PLANTED: dict[str, Case_] = {
    "layers exchanged": (
        "layers_exchanged",
        lambda m, x: m.fc2(F.gelu(m.fc1(x))),
        lambda m, x: m.fc1(F.gelu(m.fc2(x))),
    ),
    "bias after the activation": (
        "bias_moved",
        lambda m, x: m.fc2(F.relu(m.fc1(x))),
        lambda m, x: m.fc2(F.relu(F.linear(x, m.fc1.weight)) + m.fc1.bias),
    ),
    "activation before the norm": (
        "norm_moved",
        lambda m, x: m.fc2(F.gelu(m.norm(m.fc1(x)))),
        lambda m, x: m.fc2(m.norm(F.gelu(m.fc1(x)))),
    ),
    "post-norm for pre-norm": (
        "norm_moved",
        lambda m, x: m.fc3(x + m.fc1(m.norm(x))),
        lambda m, x: m.fc3(m.norm(x + m.fc1(x))),
    ),
    "residual before the activation": (
        "activation_moved",
        lambda m, x: m.fc3(x + F.gelu(m.fc1(x))),
        lambda m, x: m.fc3(F.gelu(x + m.fc1(x))),
    ),
    "residual from the normalised input": (
        "wrong_array",
        lambda m, x: m.fc3(x + m.fc1(m.norm(x))),
        lambda m, x: (lambda h: m.fc3(h + m.fc1(h)))(m.norm(x)),
    ),
    "a residual too many": ("term_extra", lambda m, x: m.fc3(m.fc1(x)), lambda m, x: m.fc3(x + m.fc1(x))),
    "an activation too many": (
        "activation_extra",
        lambda m, x: m.fc2(m.fc1(x)),
        lambda m, x: m.fc2(torch.tanh(m.fc1(x))),
    ),
    "an odd epsilon": ("norm_epsilon", lambda m, x: m.fc3(m.norm(x)), lambda m, x: m.fc3(norm(x, m, 3.7e-4))),
    "epsilon 1e-12": ("norm_epsilon", lambda m, x: norm(x, m), lambda m, x: norm(x, m, 1e-12)),
    "an odd slope": (
        "leaky_slope",
        lambda m, x: F.leaky_relu(m.fc1(x), 0.2),
        lambda m, x: F.leaky_relu(m.fc1(x), 0.137),
    ),
    "attention unscaled": ("factor_missing", lambda m, x: attend(m, x, 3**-0.5), lambda m, x: attend(m, x, 1.0)),
    "attention by the model's size": (
        "constant_value",
        lambda m, x: attend(m, x, 3**-0.5),
        lambda m, x: attend(m, x, 6**-0.5),
    ),
    "softmax over the queries": (
        "softmax_axis",
        lambda m, x: attend(m, x, 3**-0.5),
        lambda m, x: attend(m, x, 3**-0.5, dim=-2),
    ),
    "mask missing": (
        "mask_missing",
        lambda m, x: attend(m, x, 3**-0.5, causal=True),
        lambda m, x: attend(m, x, 3**-0.5),
    ),
    "padding of a convolution": (
        "padding_missing",
        lambda m, x: m.conv(x),
        lambda m, x: F.conv1d(x, m.conv.weight, m.conv.bias, padding=0),
    ),
    "kernel of a transposed convolution": (
        "kernel_flipped",
        lambda m, x: m.deconv(x),
        lambda m, x: F.conv_transpose1d(x, m.deconv.weight.flip(-1), m.deconv.bias, padding=1),
    ),
    "groups of a norm": (
        "group_count",
        lambda m, x: m.group(x),
        lambda m, x: F.group_norm(x, 4, m.group.weight, m.group.bias),
    ),
    "batch statistics": (
        "batch_norm_batch_statistics",
        lambda m, x: m.batch(x),
        lambda m, x: F.batch_norm(x, None, None, m.batch.weight, m.batch.bias, training=True),
    ),
    "a factor": ("scale_factor", lambda m, x: m.fc3(F.gelu(m.fc1(x))), lambda m, x: m.fc3(F.gelu(1.37 * m.fc1(x)))),
    "a short constant": ("constant_value", lambda m, x: 2.718281828 * m.fc1(x), lambda m, x: 2.718 * m.fc1(x)),
    "halves of an axis": (
        "parts_interleaved",
        lambda m, x: m.fc3(m.fc1(x)),
        lambda m, x: m.fc3(m.fc1(x).unflatten(-1, (2, 3)).transpose(-1, -2).flatten(-2)),
    ),
    "heads split otherwise": (
        "reshape_order",
        lambda m, x: m.fc1(x).reshape(3, 4, 2, 3).transpose(1, 2).cumsum(-1),
        lambda m, x: m.fc1(x).reshape(3, 4, 3, 2).permute(0, 3, 1, 2).cumsum(-1),
    ),
    "heads of an attention": (
        "head_count",
        lambda m, x: m.attention(x, x, x)[0],
        lambda m, x: with_heads(m.attention, 3, x),
    ),
    "heads of fused attention": ("head_count", lambda m, x: fused(m, 2, x), lambda m, x: fused(m, 3, x)),
    "gates of a GRU": (
        "gate_order",
        lambda m, x: m.gru(x)[0],
        lambda m, x: torch._VF.gru(
            x,
            torch.zeros(1, 3, 5, dtype=x.dtype),
            [torch.cat([w.chunk(3)[k] for k in (1, 0, 2)]) for w in m.gru._flat_weights],
            *(True, 1, 0.0, False, False, True),
        )[0],
    ),
    "directions of an LSTM": ("halves_swapped", lambda m, x: m.lstm(x)[0], lambda m, x: m.lstm(x)[0].roll(3, -1)),
    "gradient stopped at a branch": (
        "gradient_stopped",
        lambda m, x: m.fc3(x + F.relu(m.fc1(x))),
        lambda m, x: m.fc3(x + F.relu(m.fc1(x.detach()))),
    ),
    "half a gradient": (
        "gradient_scaled",
        lambda m, x: m.fc3(torch.tanh(m.fc1(x))),
        lambda m, x: (lambda h: m.fc3((h + h.detach()) / 2))(torch.tanh(m.fc1(x))),
    ),
}


def with_heads(attention: nn.MultiheadAttention, heads: int, x: torch.Tensor) -> torch.Tensor:
    x = x.transpose(0, 1)  # (length, batch, features)
    weight, bias, out = attention.in_proj_weight, attention.in_proj_bias, attention.out_proj
    found, _ = F.multi_head_attention_forward(
        x, x, x, 6, heads, weight, bias, None, None, False, 0.0, out.weight, out.bias
    )
    return found.transpose(0, 1)


def fused(m: Steps, heads: int, x: torch.Tensor) -> torch.Tensor:
    # (batch, length, features) -> (batch, head, length, features of each), and back
    q, k = (layer(x).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in (m.fc1, m.fc2))
    return F.scaled_dot_product_attention(q, k, q).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_named(mistake: str) -> None:
    name, right, wrong = PLANTED[mistake]
    found = diagnosed(right, wrong)
    assert name in [cause.name for cause in found.causes], (found.causes, found.note)
    assert "nothing else differs" in found.causes[0].evidence
