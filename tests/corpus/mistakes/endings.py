"""Mistakes at either end of a net: ids before an embedding, code behind the last layer, a loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

from compare import Port
from tests.corpus.mistake import Case, Family, entry
from tests.corpus.models import ids, rows, seeded

Array = jax.Array
T = torch.Tensor


class TorchTokens(nn.Module):
    """Embedding, the mean over the positions, a layer; some code at either end."""

    def __init__(
        self, embed: Callable[[T], T] = lambda x: x, out: Callable[[T], T] = lambda x: x, padding: Any = None
    ) -> None:
        super().__init__()
        self.before, self.after = embed, out
        self.embed, self.fc = nn.Embedding(9, 6, padding_idx=padding), nn.Linear(6, 4)

    def forward(self, tokens: T) -> T:
        return self.after(self.fc(self.embed(self.before(tokens)).mean(1)))


class FlaxTokens(nnx.Module):
    def __init__(
        self,
        embed: Callable[[Array], Array] = lambda x: x,
        out: Callable[[Array], Array] = lambda x: x,
        padding: bool = False,
    ) -> None:
        self.before, self.after, self.padding = embed, out, padding
        self.embed, self.fc = nnx.Embed(9, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 4, rngs=nnx.Rngs(1))

    def __call__(self, tokens: Array) -> Array:
        tokens = self.before(tokens)
        x = self.embed(tokens)
        if self.padding:
            x = jnp.where((tokens == 0)[..., None], jax.lax.stop_gradient(x), x)
        return self.after(self.fc(x.mean(1)))


def embedded(
    flax: Callable[[], Any], make: Callable[[], nn.Module] = TorchTokens, batch: int = 3, **fields: Any
) -> Callable[[], Case]:
    return lambda: Case(
        "check", (Port(seeded(make), flax(), ids(batch, 5, vocabulary=9), ranges={"0": (0, 8)}, **fields),)
    )


class TorchFinal(nn.Module):
    """5-8-(code)-3 logits, and code behind them."""

    def __init__(self, code: Callable[[T], T], width: int = 3) -> None:
        super().__init__()
        self.code, self.fc1, self.fc2 = code, nn.Linear(5, 8), nn.Linear(8, width)

    def forward(self, x: T) -> T:
        return self.code(self.fc2(torch.tanh(self.fc1(x))))


class FlaxFinal(nnx.Module):
    def __init__(self, code: Callable[[Array], Array], width: int = 3) -> None:
        self.code = code
        self.fc1, self.fc2 = nnx.Linear(5, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, width, rngs=nnx.Rngs(1))

    def __call__(self, x: Array) -> Array:
        return self.code(self.fc2(jnp.tanh(self.fc1(x))))


def final(code: Callable[[T], T], flax: Callable[[Array], Array], width: int = 3, **fields: Any) -> Callable[[], Case]:
    return lambda: Case(
        "check", (Port(seeded(lambda: TorchFinal(code, width)), FlaxFinal(flax, width), rows(4, 5), **fields),)
    )


def same(x: Any) -> Any:
    return x


def straight_through(x: T) -> T:
    return x + (x.round() - x).detach()


def reversed_gradient(x: T) -> T:
    return 2 * x.detach() - x


LABELS = np.array([0, 2, 1, 2])


def torch_nll(x: T) -> T:
    return F.cross_entropy(x, torch.as_tensor(LABELS))


def jax_nll(x: Array, smoothing: float = 0.0) -> Array:
    labels = optax.smooth_labels(jax.nn.one_hot(LABELS, 3), smoothing)
    return optax.softmax_cross_entropy(x, labels).mean()


HEAD, IN_GRADIENTS = ("inside", "inside fc2"), {"direction": "backward", "checks": ("gradients",)}
AT_HEAD: dict[str, tuple[str, Any, Any, Any, tuple[str, ...] | None, dict[str, Any]]] = {
    # name: words, torch, wrong, right, causes, more
    "rounded": (
        "straight-through rounding without its gradient",
        straight_through,
        jnp.round,
        lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x),
        ("gradient_stopped", "gradient_not_stopped"),  # without the detach, torch's form is plain rounding too
        IN_GRADIENTS,
    ),
    "gradient_reversal": (
        "gradient reversal forgotten",
        reversed_gradient,
        same,
        lambda x: 2 * jax.lax.stop_gradient(x) - x,
        ("gradient_sign", "gradient_not_stopped"),
        IN_GRADIENTS,
    ),
    "log_epsilon": (
        "log(p + 1e-8) for log(p)",
        lambda x: torch.log(x.softmax(1)),
        lambda x: jnp.log(jax.nn.softmax(x) + 1e-8),
        lambda x: jnp.log(jax.nn.softmax(x)),
        ("constant_added", "term_extra"),
        {},
    ),
    "standard_deviation": (
        "exp(logvar) for exp(logvar / 2)",
        lambda x: torch.exp(0.5 * x),
        jnp.exp,
        lambda x: jnp.exp(0.5 * x),
        ("factor_missing", "constant_factor"),
        {},
    ),
    "sigmoid_missing": (
        "logits in place of probabilities",
        torch.sigmoid,
        same,
        jax.nn.sigmoid,
        ("activation_missing",),
        {},
    ),
    "softmax_extra": (
        "softmax where torch returns logits",
        same,
        jax.nn.softmax,
        same,
        ("activation_extra", "softmax_extra"),
        {},
    ),
    "naive_log_softmax": (
        "log of a softmax: -inf where torch is finite",
        lambda x: F.log_softmax(100 * x, 1),
        lambda x: jnp.log(jax.nn.softmax(100 * x)),
        lambda x: jax.nn.log_softmax(100 * x),
        None,
        {},
    ),
    "softmax_over_batch": (
        "softmax over the batch",
        lambda x: x.softmax(1),
        lambda x: jax.nn.softmax(x, 0),
        jax.nn.softmax,
        ("softmax_axis", "reduction_axis"),
        {},
    ),
    "logit_scale": (
        "learned temperature not exponentiated",
        lambda x: x * torch.tensor(0.7, dtype=x.dtype).exp(),
        lambda x: x * 0.7,
        lambda x: x * jnp.exp(0.7),
        None,
        {},
    ),
    "soft_cap": (
        "logit cap of 50 for 30",
        lambda x: 30 * torch.tanh(x / 30),
        lambda x: 50 * jnp.tanh(x / 50),
        lambda x: 30 * jnp.tanh(x / 30),
        None,
        {},
    ),
    "argsort_for_rank": (
        "argsort in place of its inverse",
        lambda x: x.gather(1, x.argsort(1).argsort(1)),
        lambda x: jnp.take_along_axis(x, x.argsort(1), 1),
        lambda x: jnp.take_along_axis(x, x.argsort(1).argsort(1), 1),
        None,
        {},
    ),
}

EMBED = ("before embed",)
FAMILY = Family(
    "endings",
    {
        "tokens": embedded(FlaxTokens),
        "padding_row": embedded(lambda: FlaxTokens(padding=True), lambda: TorchTokens(padding=0)),
        "loss": final(same, same, loss=(torch_nll, jax_nll)),
        **{
            name: final(there, right)
            for name, (_, there, _, right, _, _) in AT_HEAD.items()
            if name != "naive_log_softmax"
        },
    },
    (
        entry(
            "ids_shifted",
            "ids counted from 1",
            embedded(lambda: FlaxTokens(lambda t: jnp.maximum(t - 1, 0))),
            EMBED,
            "ids_shifted",
        ),
        entry(
            "sequence_reversed",
            "positions read backwards, then the mean: no difference but for torch's cut",
            embedded(lambda: FlaxTokens(lambda t: t[:, ::-1][:, :3]), lambda: TorchTokens(lambda t: t[:, :3])),
            EMBED,
            "sequence_reversed",
        ),
        entry(
            "cut_one_short",
            "the slice one position short",
            embedded(lambda: FlaxTokens(lambda t: t[:, :3]), lambda: TorchTokens(lambda t: t[:, :4])),
            EMBED,
        ),
        entry(
            "padding_row_trained",
            "padding_idx has no gradient in torch",
            embedded(FlaxTokens, lambda: TorchTokens(padding=0)),
            ("inside embed",),
            "padding_row_trained",
            "gradient_not_stopped",
            **IN_GRADIENTS,
        ),
        entry(
            "squeeze_without_axis",
            "squeeze() for squeeze(-1): another shape for a batch of one",
            final(lambda x: x.squeeze(-1), jnp.squeeze, 1),
            HEAD,
        ),
        entry(
            "broadcast_square",
            "(n, 1) against (n,): (n, n), then the mean: only batches of one agree",
            final(
                lambda x: (x.squeeze(1) - x[:, 0].detach() * 0.5) ** 2,
                lambda x: ((x - jax.lax.stop_gradient(x[:, 0]) * 0.5) ** 2).mean(1),
                1,
            ),
            HEAD,
        ),
        entry(
            "loss_smoothing",
            "label smoothing that torch has not",
            final(same, same, loss=(torch_nll, lambda x: jax_nll(x, 0.1))),
            (),
        ),
        entry(
            "loss_sum", "sum for mean in the loss", final(same, same, loss=(torch_nll, lambda x: 4 * jax_nll(x))), ()
        ),
        *(
            entry(name, words, final(there, wrong), HEAD, *(causes or ()), **more)
            for name, (words, there, wrong, _, causes, more) in AT_HEAD.items()
        ),
    ),
)
