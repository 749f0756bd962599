"""In which arithmetic a network is trained: the policy, and the dynamic loss scale that float16 needs.

Parameters, optimiser state, softmax and loss are float32 throughout; only the network's own products run lower.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["BACKOFF", "FLOAT32", "GROWTH", "INITIAL_SCALE", "INTERVAL", "LossScale", "Policy", "all_finite"]

# The defaults of torch.amp.GradScaler.
INITIAL_SCALE, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000

_COMPUTE: dict[str, Any] = {"float32": None, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
# JAX's names. Left unsaid, JAX takes TF32 for float32 products on recent GPUs; PyTorch does not.
_PRODUCTS = {"float32": "highest", "tf32": "tensorfloat32"}


@dataclass(frozen=True)
class Policy:
    """Precision of a network's arithmetic.

    Args:
        precision: ``"bfloat16"``, ``"float16"``, or ``"float32"``, which leaves the parameters' own (float64 stays).
        matmul: how float32 matrices are multiplied: ``"float32"``, or ``"tf32"`` (10 bits of mantissa, several times as
            fast on recent GPUs; CPUs have only float32). Without effect on lower precisions.

    Raises:
        ValueError: another name.
    """

    precision: str = "float32"
    matmul: str = "float32"

    def __post_init__(self) -> None:
        for name, found, known in (("precision", self.precision, _COMPUTE), ("matmul", self.matmul, _PRODUCTS)):
            if found not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}; found {found!r}")

    @property
    def scales_loss(self) -> bool:
        """Whether gradients are so short of exponent bits that the loss has to be scaled."""
        return self.precision == "float16"

    def cast(self, tree: Any) -> Any:
        """The floating-point arrays of ``tree`` in the precision that the network computes in."""
        dtype = _COMPUTE[self.precision]
        if dtype is None:
            return tree
        return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    def products(self) -> AbstractContextManager[Any]:
        """While open, code that is traced multiplies matrices as the policy says."""
        return jax.default_matmul_precision(_PRODUCTS[self.matmul] if _COMPUTE[self.precision] is None else "default")

    def on(self, platform: str) -> dict[str, str]:
        """What really happens on ``"cpu"``, ``"gpu"`` or ``"tpu"``: ``precision`` and ``matmul``."""
        lower = _COMPUTE[self.precision] is not None
        matmul = self.precision if lower else ("float32" if platform == "cpu" else self.matmul)
        return {"precision": self.precision, "matmul": matmul}


FLOAT32 = Policy()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossScale:
    """The factor on the loss that keeps float16 gradients from vanishing, by the rules of ``torch.amp.GradScaler``.

    A step with an infinite or NaN gradient is skipped and halves the scale; 2000 good steps in a row double it, unless
    float32 could not hold the result.

    Args:
        value: the scale, a float32 scalar.
        good: good steps since the last change, an int32 scalar.
        skipped: steps skipped so far, an int32 scalar.
        interval: good steps in a row that double the scale.
    """

    value: jax.Array
    good: jax.Array
    skipped: jax.Array
    interval: int = field(default=INTERVAL, metadata={"static": True})

    @classmethod
    def create(cls, value: float = INITIAL_SCALE, interval: int = INTERVAL) -> "LossScale":
        """The scale before the first step."""
        zero = jnp.zeros((), jnp.int32)
        return cls(jnp.asarray(value, jnp.float32), zero, zero, interval)

    def scale(self, loss: jax.Array) -> jax.Array:
        """``loss`` times the scale, whose gradients ``unscale`` brings back."""
        return loss * self.value.astype(loss.dtype)

    def unscale(self, gradients: Any) -> Any:
        """Gradients of the loss from those of the scaled loss; exact as long as the scale is a power of two."""
        return jax.tree.map(lambda g: g / self.value.astype(g.dtype), gradients)

    def update(self, finite: jax.Array) -> "LossScale":
        """The scale after a step whose gradients were ``finite``, or not."""
        grown = self.value * GROWTH
        due = self.good + 1 == self.interval
        good_value = jnp.where(due & jnp.isfinite(grown), grown, self.value)
        return replace(
            self,
            value=jnp.where(finite, good_value, self.value * BACKOFF),
            good=jnp.where(finite & ~due, self.good + 1, 0),
            skipped=self.skipped + jnp.where(finite, 0, 1).astype(jnp.int32),
        )


def all_finite(tree: Any) -> jax.Array:
    """Whether no number in ``tree`` is infinite or NaN, a boolean scalar."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
