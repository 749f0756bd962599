"""Mistakes in a residual network of pre-norm blocks with dropout, NNX."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from compare import Port
from tests.corpus.mistake import Case, Family, Mistake
from tests.corpus.models import rows, seeded

Array = jax.Array


class TorchBlock(nn.Module):
    def __init__(self, width: int, hidden: int, rate: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.down(self.activation(self.up(self.norm(x)))))


class TorchResidual(nn.Module):
    """stem, two blocks, final norm, head."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.blocks = nn.ModuleList([TorchBlock(8, 12, rate) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@dataclasses.dataclass(frozen=True)
class Flaws:
    """What is wrong with the port; nothing by default."""

    epsilon: float = 1e-5
    final_epsilon: float = 1e-5
    approximate: bool = False
    activation: Any = None
    residual: bool = True
    residual_from_norm: bool = False
    post_norm: bool = False
    scale: float = 1.0
    use_bias: bool = True
    norm_bias: bool = True
    final_norm: bool = True
    twice: bool = False
    order: tuple[int, int] = (0, 1)
    dtype: Any = None
    stop: bool = False
    rate: float = 0.0
    after_up: bool = False
    final_activation: bool = False


class FlaxBlock(nnx.Module):
    def __init__(self, width: int, hidden: int, flaws: Flaws, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(
            width, epsilon=flaws.epsilon, use_fast_variance=False, use_bias=flaws.norm_bias, rngs=rngs
        )
        self.up = nnx.Linear(width, hidden, use_bias=flaws.use_bias, dtype=flaws.dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)
        self.dropout, self.flaws = nnx.Dropout(flaws.rate, rngs=rngs), flaws

    def __call__(self, x: Array) -> Array:
        flaws = self.flaws
        h = self.norm(x) if not flaws.post_norm else x
        h_in = h
        h = self.up(h)
        h = flaws.activation(h) if flaws.activation else jax.nn.gelu(h, approximate=flaws.approximate)
        if flaws.after_up:
            h = self.dropout(h)
        h = self.down(h)
        if not flaws.after_up:
            h = self.dropout(h)
        h = jax.lax.stop_gradient(h) if flaws.stop else h
        skip = h_in if flaws.residual_from_norm else x
        h = skip + flaws.scale * h if flaws.residual else h
        return self.norm(h) if flaws.post_norm else h


class FlaxResidual(nnx.Module):
    def __init__(self, first: Flaws, second: Flaws) -> None:
        rngs = nnx.Rngs(0)
        self.stem = nnx.Linear(5, 8, rngs=rngs)
        self.blocks = nnx.List([FlaxBlock(8, 12, flaws, rngs) for flaws in (first, second)])
        self.norm = nnx.LayerNorm(8, epsilon=second.final_epsilon, use_fast_variance=False, rngs=rngs)
        self.head, self.flaws = nnx.Linear(8, 3, rngs=rngs), second

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for index in (0, 0) if self.flaws.twice else self.flaws.order:
            x = self.blocks[index](x)
        x = self.norm(x) if self.flaws.final_norm else x
        x = self.head(x)
        return jax.nn.relu(x) if self.flaws.final_activation else x


def case(first: Flaws | None = None, second: Flaws | None = None, rate: float = 0.0, **fields: Any) -> Case:
    """A check of the network with these flaws in its blocks."""
    flaws = dataclasses.replace(Flaws(), rate=rate)
    port = Port(
        seeded(lambda: TorchResidual(rate)), FlaxResidual(first or flaws, second or flaws), rows(4, 5), **fields
    )
    return Case("check", (port,))


def mistake(
    name: str, words: str, places: tuple[str, ...], causes: tuple[str, ...] | None, *flaws: Any, **more: Any
) -> Any:
    """Flaws of the second block alone, unless two are given."""
    first, second = flaws if len(flaws) == 2 else (None, flaws[0])
    fields = {key: more.pop(key) for key in ("mode", "rate") if key in more}
    names = None if causes is None else frozenset(causes)
    return Mistake(name, words, lambda: case(first, second, **fields), places, names, **more)


BOTH_EPS = Flaws(epsilon=1e-6, final_epsilon=1e-6)
FAMILY = Family(
    "mlp",
    {"eval": case, "train": lambda: case(rate=0.3, mode="train")},
    (
        mistake(
            "layernorm_epsilon",
            "LayerNorm's default epsilon, 1e-6, everywhere",
            ("inside blocks.0.norm",),
            ("norm_epsilon",),
            BOTH_EPS,
            BOTH_EPS,
        ),
        mistake(
            "last_epsilon",
            "only the last norm has the default epsilon",
            ("inside norm",),
            ("norm_epsilon",),
            Flaws(final_epsilon=1e-6),
        ),
        mistake(
            "gelu_tanh_second_block",
            "tanh GELU in one of two blocks",
            ("before blocks.1.down", "inside blocks.1"),
            ("gelu_approximation",),
            Flaws(approximate=True),
        ),
        mistake(
            "relu_for_gelu",
            "ReLU for GELU",
            ("before blocks.1.down", "inside blocks.1"),
            ("activation_swapped",),
            Flaws(activation=jax.nn.relu),
        ),
        mistake(
            "missing_residual",
            "skip connection missing in the second block",
            ("inside blocks.1", "before norm"),
            ("term_missing",),
            Flaws(residual=False),
        ),
        mistake(
            "residual_from_norm",
            "skip taken after the norm",
            ("inside blocks.1", "before norm"),
            ("residual_from_norm", "residual_from"),
            Flaws(residual_from_norm=True),
        ),
        mistake(
            "post_norm",
            "post-norm for pre-norm",
            ("before blocks.1.norm", "inside blocks.1", "before blocks.1.up"),
            ("norm_order",),
            Flaws(post_norm=True),
        ),
        mistake(
            "branch_scaled",
            "residual branch halved",
            ("inside blocks.1", "before norm"),
            ("constant_factor", "residual_scale"),
            Flaws(scale=0.5),
        ),
        mistake(
            "bias_omitted",
            "use_bias=False in one Linear",
            ("inside blocks.1.up",),
            ("bias_missing",),
            Flaws(use_bias=False),
        ),
        mistake(
            "norm_bias_omitted",
            "LayerNorm without its bias",
            ("inside blocks.1.norm",),
            ("norm_bias_missing",),
            Flaws(norm_bias=False),
        ),
        mistake(
            "final_norm_missing",
            "final norm forgotten",
            ("inside norm", "before norm", "before head"),
            ("module_missing", "norm_missing"),
            Flaws(final_norm=False),
        ),
        mistake(
            "block_used_twice",
            "the first block called twice",
            ("inside blocks.1", "before blocks.1"),
            ("module_reused", "weights_shared"),
            Flaws(twice=True),
        ),
        mistake(
            "blocks_exchanged",
            "blocks called in the other order",
            ("before blocks.0", "before blocks.1", "inside blocks.0", "before blocks.0.norm", "before blocks.1.norm"),
            ("order",),
            Flaws(order=(1, 0)),
        ),
        mistake(
            "bfloat16_layer", "dtype=bfloat16 left in one layer", (), ("lower_precision",), Flaws(dtype=jnp.bfloat16)
        ),
        mistake(
            "branch_stopped",
            "stop_gradient left around the branch",
            ("inside blocks.1", "before norm", "inside blocks.1.down"),
            ("gradient_stopped", "stop_gradient_extra"),
            Flaws(stop=True),
            direction="backward",
        ),
        mistake(
            "dropout_rate",
            "0.3 in torch, 0.5 in Flax",
            ("inside blocks.1.dropout",),
            ("dropout_rate",),
            Flaws(rate=0.3),
            Flaws(rate=0.5),
            rate=0.3,
            mode="train",
        ),
        mistake(
            "dropout_elsewhere",
            "dropout after the activation in place of the block's end",
            ("inside blocks.1", "before blocks.1.down", "before blocks.1.dropout"),
            ("dropout_place",),
            Flaws(rate=0.3),
            Flaws(rate=0.3, after_up=True),
            rate=0.3,
            mode="train",
        ),
        mistake(
            "final_activation",
            "an activation after the head",
            ("inside", "inside head"),
            ("activation_extra",),
            Flaws(final_activation=True),
        ),
        mistake(
            "two_in_a_row",
            "tanh GELU in the first block and a skip missing in the second",
            ("before blocks.0.down", "inside blocks.0"),
            ("gelu_approximation",),
            Flaws(approximate=True),
            Flaws(residual=False),
            behind=frozenset({"term_missing"}),
        ),
        mistake(
            "epsilon_behind_bias",
            "bias missing in the first block, default epsilon in the last norm",
            ("inside blocks.0.up",),
            ("bias_missing",),
            Flaws(use_bias=False),
            Flaws(final_epsilon=1e-6),
            behind=frozenset({"norm_epsilon"}),
        ),
    ),
)
