"""Training loops of a small net, in torch and in Flax."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx
from torch import nn
from torch.optim import lr_scheduler

from tests.corpus.mistake import Case, Family, Mistake
from tests.corpus.models import ids, rows, seeded

Array = jax.Array
STEPS = 6


class TorchNet(nn.Module):
    """5-6-3, with an unused layer on request."""

    def __init__(self, unused: bool = False) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        if unused:
            self.aux = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.norm(self.fc1(x))))


class FlaxNet(nnx.Module):
    def __init__(self, unused: bool = False, stopped: bool = False) -> None:
        rngs = nnx.Rngs(0)
        self.fc1, self.fc2 = nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(6, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.stopped = stopped
        if unused:
            self.aux = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = self.fc1(x)
        return self.fc2(jnp.tanh(self.norm(jax.lax.stop_gradient(h) if self.stopped else h)))


def regression(steps: int = STEPS) -> list[Any]:
    return [(rows(4, 5, seed=2 * i), rows(4, 3, seed=2 * i + 1)) for i in range(steps)]


def classes(steps: int = STEPS) -> list[Any]:
    return [(rows(4, 5, seed=2 * i), ids(4, vocabulary=3, seed=i)) for i in range(steps)]


def mse(outputs: Any, targets: Any) -> Any:
    return ((outputs - targets) ** 2).mean()


def jax_ce(logits: Array, targets: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def train(
    torch_optimizer: Any, optax_optimizer: Any, models: Any = None, batches: Any = None, **fields: Any
) -> Callable[[], Case]:
    """A comparison of two loops; mean squared error on a regression unless told otherwise."""

    def make() -> Case:
        pair = models() if models else (seeded(TorchNet), FlaxNet())
        losses = {"torch_loss": mse, "jax_loss": mse}
        given = {"torch_optimizer": torch_optimizer, "optax_optimizer": optax_optimizer, **losses, **fields}
        return Case("check_training", (*pair, (batches or regression)()), given)

    return make


def classify(torch_loss: Any, jax_loss: Any) -> Callable[[], Case]:
    return train(sgd(), optax.sgd(0.1), batches=classes, torch_loss=torch_loss, jax_loss=jax_loss)


def sgd(rate: float = 0.1, **settings: Any) -> Callable[[Any], Any]:
    return lambda parameters: torch.optim.SGD(parameters, rate, **settings)


def adam(rate: float = 1e-2, **settings: Any) -> Callable[[Any], Any]:
    return lambda parameters: torch.optim.Adam(parameters, rate, **settings)


def adamw(rate: float = 1e-2, **settings: Any) -> Callable[[Any], Any]:
    return lambda parameters: torch.optim.AdamW(parameters, rate, **settings)


def scheduled(make: Callable[[Any], Any], schedule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def both(parameters: Any) -> Any:
        optimizer = make(parameters)
        return optimizer, schedule(optimizer)

    return both


def no_decay_on_vectors(parameters: Any) -> Any:
    """As in many training scripts: biases and norms don't decay."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, 1e-2)


def matrices(parameters: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, parameters)


def cosine(steps: int = STEPS) -> Callable[[Any], Any]:
    return lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, steps)


def warmup(length: int) -> Callable[[Any], Any]:
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / length))


def stairs(optimizer: Any) -> Any:
    return lr_scheduler.StepLR(optimizer, 2, 0.5)


def plain_sgd_decay(rate: float, decay: float) -> Any:
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate))


def uncorrected_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam as typed from memory, without the bias correction."""

    def update(gradients: Any, state: Any, parameters: Any = None) -> Any:
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, gradients)
        nu = jax.tree.map(lambda n, g: b2 * n + (1 - b2) * g * g, state.nu, gradients)
        updates = jax.tree.map(lambda m, n: m / (jnp.sqrt(n) + eps), mu, nu)
        return updates, state._replace(count=state.count + 1, mu=mu, nu=nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def unused(stopped: bool = False) -> Callable[[], Any]:
    return lambda: (seeded(lambda: TorchNet(True)), FlaxNet(True, stopped))


def off_by_one(schedule: Any) -> Any:
    return lambda step: schedule(step + 1)


@dataclasses.dataclass(frozen=True)
class Loop:
    """Two loops with a mistake, the same without, and what a report should say."""

    words: str
    wrong: Callable[[], Case]
    right: Callable[[], Case] | None
    quantity: str
    step: int
    causes: tuple[str, ...] | None
    behind: tuple[str, ...] = ()


def family(name: str, loops: Mapping[str, Loop]) -> Family:
    """A family of loops."""
    return Family(
        name,
        {entry: loop.right for entry, loop in loops.items() if loop.right},
        tuple(
            Mistake(
                entry,
                loop.words,
                loop.wrong,
                (),
                None if loop.causes is None else frozenset(loop.causes),
                frozenset(loop.behind) or None,
                quantity=loop.quantity,
                step=loop.step,
            )
            for entry, loop in loops.items()
        ),
    )
