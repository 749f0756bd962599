"""Learning from a teacher's answers besides the targets: the distance from them, as a share of the training loss."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from fcjax.activations import log_softmax
from fcjax.losses import Loss, squared_error

__all__ = ["Distillation"]


@dataclass(frozen=True)
class Distillation:
    """A share of the training loss is the distance from a teacher's answers.

    ``(1 - share) loss(z, y) + share T² KL(softmax(t / T) ‖ softmax(z / T))`` for outputs z and the teacher's t; in
    regression ``(1 - share) loss(z, y) + share loss(z, t)``. T² keeps the gradient's size when T changes.
    After Hinton, Vinyals and Dean 2015.

    Args:
        share: in [0, 1].
        temperature: T, above 0; the larger it is, the more the unlikely classes count.
    """

    share: float
    temperature: float

    def loss(self, task: str) -> Loss:
        """The distance, one number per sample, of outputs from soft targets, both of shape ``(batch, outputs)``."""
        return squared_error if task == "regression" else self._divergence

    def _divergence(self, outputs: Array, soft_targets: Array) -> Array:
        student, teacher = (log_softmax(z / self.temperature) for z in (outputs, soft_targets.astype(outputs.dtype)))
        return self.temperature**2 * jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
