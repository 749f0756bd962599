"""The article's models in PyTorch, with its names, and ``MLP`` for any depth.

Where the printed code does not run or does not do what it says, the docstring names the fault and what is done here.
Everything is drawn from PyTorch's global generator, so ``torch.manual_seed`` fixes a model.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compare.models.torch_activations import get_torch_activation

__all__ = [
    "MLP",
    "AdaptiveWidthLinear",
    "LowRankLinear",
    "MNISTClassifier",
    "Regressor",
    "SparseLinear",
    "TorchModel",
    "TorchModelWithActivation",
    "init_weights",
]


class TorchModel(nn.Module):
    """Two fully connected layers with nothing between them: ``(..., input_size) -> (..., hidden_size2)``."""

    def __init__(self, input_size: int, hidden_size1: int, hidden_size2: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(input_size, hidden_size1)
        self.layer2 = nn.Linear(hidden_size1, hidden_size2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(x)
        return self.layer2(x)


class TorchModelWithActivation(nn.Module):
    """The same with ReLU after ``layer1``."""

    def __init__(self, input_size: int, hidden_size1: int, hidden_size2: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(input_size, hidden_size1)
        self.layer2 = nn.Linear(hidden_size1, hidden_size2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layer1(x))
        return self.layer2(x)


class MNISTClassifier(nn.Module):
    """Images to ten log-probabilities: 784-512-256-10 with ReLU and dropout 0.2, ``(batch, ...) -> (batch, 10)``.

    The article uses ``F`` without importing it. Its one dropout module is called twice; both calls draw a mask of
    their own, so that is right as it stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 512)
        self.fc2 = nn.Linear(512, 256)
        self.fc3 = nn.Linear(256, 10)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)  # (batch, 784)
        x = self.dropout(F.relu(self.fc1(x)))
        x = self.dropout(F.relu(self.fc2(x)))
        return F.log_softmax(self.fc3(x), dim=1)


class Regressor(nn.Module):
    """House prices: input_size-64-32-1 with ReLU and a linear output (``F`` was not imported here either)."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, 64)
        self.fc2 = nn.Linear(64, 32)
        self.fc3 = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class SparseLinear(nn.Module):
    """``y = x (W * mask)ᵀ + b``, with a random share of the connections missing.

    Two faults of the article are mended: ``self.bias`` was never created (an AttributeError at the first call; it
    starts at zero here), and the mask was a plain attribute, which neither follows ``.to(device)`` nor enters the
    state_dict (a registered buffer here).

    Args:
        input_dim, output_dim: sizes of the input and output vectors.
        sparsity: the probability that a connection is missing, in [0, 1).
        scale: ``"fan_in"`` (default) divides the drawn weights by the root of the number of inputs that survive;
            ``"article"`` keeps N(0, 1), which explodes through a deep net.
    """

    mask: Tensor

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        sparsity: float = 0.5,
        *,
        scale: Literal["fan_in", "article"] = "fan_in",
    ) -> None:
        super().__init__()
        if not 0.0 <= sparsity < 1.0:
            raise ValueError(f"SparseLinear: expected sparsity in [0, 1), found {sparsity}")
        if scale not in ("fan_in", "article"):
            raise ValueError(f"SparseLinear: expected scale fan_in or article, found {scale!r}")
        mask = torch.rand(output_dim, input_dim) > sparsity
        weight = torch.randn(output_dim, input_dim)
        if scale == "fan_in":
            weight = weight / mask.sum(dim=1, keepdim=True).clamp(min=1).sqrt()  # each output's surviving inputs
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(output_dim))
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class LowRankLinear(nn.Module):
    """``y = V(U(x))``: a layer whose weight matrix has rank at most ``rank``."""

    def __init__(self, input_dim: int, output_dim: int, rank: int = 32) -> None:
        super().__init__()
        self.U = nn.Linear(input_dim, rank, bias=False)
        self.V = nn.Linear(rank, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.V(self.U(x))


class AdaptiveWidthLinear(nn.Module):
    """``y = x Wᵀ`` with the first ``int(sigmoid(selector) * max_width)`` outputs active.

    The article's code is the ``"hard"`` gate: its output has only the active columns. ``int`` cuts the gradient, so
    ``selector.grad`` stays None and the width never adapts; and ``output_dim`` is never used. The other two gates are
    trainable and keep all ``max_width`` columns. With ``width = sigmoid(selector) * max_width`` output ``i`` is
    multiplied by

    - ``"soft"``: ``clamp((width - i) / ramp + 1/2, 0, 1)``;
    - ``"straight_through"``: ``1 if i < int(width) else 0``, with the gradient of the soft gate.

    Args:
        input_dim: size of the input vectors.
        output_dim: not used.
        max_width: number of outputs when all are active.
        gate: ``"hard"`` (default), ``"straight_through"`` or ``"soft"``.
        ramp: width of the soft slope in units, at least 1.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        max_width: int,
        *,
        gate: Literal["hard", "straight_through", "soft"] = "hard",
        ramp: float = 8.0,
    ) -> None:
        super().__init__()
        if gate not in ("hard", "straight_through", "soft"):
            raise ValueError(f"AdaptiveWidthLinear: expected gate hard, straight_through or soft, found {gate!r}")
        if not ramp >= 1.0:
            raise ValueError(f"AdaptiveWidthLinear: expected ramp of at least 1 unit, found {ramp}")
        self.max_width, self.gate, self.ramp = max_width, gate, ramp
        self.weight = nn.Parameter(torch.randn(max_width, input_dim))
        self.selector = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        width = torch.sigmoid(self.selector) * self.max_width  # (1,)
        active = int(width.item())
        if self.gate == "hard":
            return F.linear(x, self.weight[:active])  # (..., active)
        unit = torch.arange(self.max_width, dtype=width.dtype, device=width.device)
        gates = torch.clamp((width - unit) / self.ramp + 0.5, 0.0, 1.0)  # (max_width,)
        if self.gate == "straight_through":
            gates = (unit < active).to(width.dtype) + (gates - gates.detach())
        return F.linear(x, self.weight) * gates


def init_weights(module: nn.Module) -> None:
    """Xavier-uniform weight and bias 0.01 for every ``nn.Linear``, by ``model.apply(init_weights)``."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.constant_(module.bias, 0.01)


class MLP(nn.Module):
    """A fully connected net of any depth, ``(batch, sizes[0]) -> (batch, sizes[-1])``.

    Each hidden block is ``linear -> norm -> activation -> dropout``; with ``residual=True`` a block whose input and
    output have the same width adds its input to its output. The last layer is linear, followed by ``output``.

    Args:
        sizes: all widths, input and output included.
        activation: name of the hidden activation.
        dropout: rate after each hidden activation.
        norm: ``"layer"``, ``"batch"`` or None.
        residual: adds skip connections.
        output: name of the activation of the last layer.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        norm: Literal["layer", "batch"] | None = None,
        residual: bool = False,
        output: str = "linear",
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"MLP: expected at least two positive sizes, found {tuple(sizes)}")
        if norm not in ("layer", "batch", None):
            raise ValueError(f"norm: expected layer, batch or None; found {norm!r}")
        self.activation, self.output = get_torch_activation(activation), get_torch_activation(output)
        self.residual = residual
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in itertools.pairwise(sizes))
        normalise = nn.LayerNorm if norm == "layer" else nn.BatchNorm1d
        self.norms = nn.ModuleList(normalise(width) for width in sizes[1:-1]) if norm else nn.ModuleList()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(itertools.islice(self.layers, len(self.layers) - 1)):
            y = layer(x)
            y = self.norms[i](y) if len(self.norms) else y
            y = self.dropout(self.activation(y))
            x = x + y if self.residual and x.shape == y.shape else y
        return self.output(self.layers[-1](x))
