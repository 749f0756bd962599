"""The one training step and the one evaluation step; alone, or as one of several devices that share a batch."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp
import optax

from fcjax.batch_norm import whole_batch
from fcjax.distillation import Distillation
from fcjax.hashing import folded
from fcjax.layers import drop, row_keys
from fcjax.losses import Loss
from fcjax.metrics import Sums, measure
from fcjax.precision import FLOAT32, Policy, all_finite
from fcjax.train_state import PureModel, TrainState

if TYPE_CHECKING:
    from fcjax.datasets import Scaling

__all__ = ["ORDER", "Batch", "Learner", "stream_key"]

# Streams of a run's key: one for the order of samples (by epoch), one for dropout (by step).
ORDER, DROPOUT = 0, 1
# Tell what happens to the inputs from the dropout of the layers, which count from 0.
INPUTS, ADVERSARY = 2**16, 2**16 + 1


def stream_key(key: jax.Array, stream: int, position: jax.Array) -> jax.Array:
    """The key for ``position`` (an epoch, a step) in ``stream``."""
    return folded(folded(key, stream), position)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """One device's share of a global batch, as stored.

    Args:
        inputs: shape ``(share, ...)``, any dtype.
        targets: labels of shape ``(share,)``, or values of shape ``(share, outputs)``.
        rows: each sample's row in the global batch, shape ``(share,)``.
        mask: False for padding, shape ``(share,)``.
        count: number of real rows in the *global* batch, a scalar.
        soft_targets: what a teacher says of each sample, or None; see ``Split``.
    """

    inputs: jax.Array
    targets: jax.Array
    rows: jax.Array
    mask: jax.Array
    count: jax.Array
    soft_targets: jax.Array | None = None


@dataclass(frozen=True)
class Learner:
    """What is learned and how: a model with its loss, optimiser and scaling. Its methods are pure.

    Args:
        model: the model, taken apart.
        task: ``"classification"`` or ``"regression"``.
        loss: one number per example, of the scaled targets.
        optimizer: an optax transformation.
        input_scaling, target_scaling: ``(x - mean) / std``, applied inside the step; None leaves values as they are.
        axis_name: names the devices that share each batch; None where there is only one.
        policy: the precision of the network; loss and parameters keep theirs.
        training_loss: what training minimises, where that is not ``loss`` itself.
        input_dropout: rate at which inputs are set to 0 while training.
        average_decay: of the moving average of the parameters, where the state has one.
        adversarial: how far training inputs are moved at most; see ``_moved``.
        distillation: how much of the training loss is the distance from a teacher's answers, where there are any.

    A model that gives several answers to a sample while training, ``(batch, members, outputs)``, is trained on the mean
    of their losses.
    """

    model: PureModel
    task: str
    loss: Loss
    optimizer: optax.GradientTransformation
    input_scaling: "Scaling | None" = None
    target_scaling: "Scaling | None" = None
    axis_name: str | None = None
    policy: Policy = FLOAT32
    training_loss: Loss | None = None
    input_dropout: float = 0.0
    average_decay: float = 0.0
    adversarial: float = 0.0
    distillation: Distillation | None = None

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        """One update with the gradient of ``Σ loss / count`` over the global batch.

        With a loss scale, a step whose gradients overflow changes nothing but the scale, and its samples don't count.

        Returns:
            The new state, the same on every device, and the sums over this device's rows before the update.
        """
        gradients, sums, buffers = self._gradients(state, batch)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, state.params)
        chex.assert_trees_all_equal_shapes_and_dtypes(buffers, state.buffers)
        average = None if state.average is None else self._averaged(state, params)
        after = replace(state, params=params, buffers=buffers, opt_state=opt_state, average=average)
        if state.loss_scale is not None:
            finite = all_finite(gradients)
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
            after = replace(after, loss_scale=state.loss_scale.update(finite))
            sums = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), sums)
        return replace(after, step=state.step + 1), sums

    def _gradients(self, state: TrainState, batch: Batch) -> tuple[Any, Sums, Any]:
        """Gradients and buffers, the same on every device, and this device's sums."""
        x, y = self._prepare(state, batch)
        keys = row_keys(stream_key(state.key, DROPOUT, state.step), batch.rows)
        scale = state.loss_scale
        if self.input_dropout:
            x = drop(x, self.input_dropout, folded(keys, INPUTS))
        if self.adversarial:
            x = self._moved(state, x, y, keys)

        def objective(params: Any) -> tuple[jax.Array, tuple[Sums, Any]]:
            with whole_batch(batch.mask, self.axis_name):
                outputs, buffers = self.model.train(self.policy.cast(params), state.buffers, x, keys)
            losses = self._training_losses(outputs, y, batch)
            sums = self._measure(outputs, y, batch, losses)
            # Divided here, by the number of real rows of all devices: a mean of the devices' means would be wrong
            # wherever shares are uneven.
            loss = sums["loss"] / batch.count
            return loss if scale is None else scale.scale(loss), (sums, buffers)

        with self.policy.products():
            gradients, (sums, buffers) = jax.grad(objective, has_aux=True)(state.params)
        # The gradients are summed, never the loss: a psum inside the loss would give each device a wrong gradient.
        gradients = self.total(gradients)
        return gradients if scale is None else scale.unscale(gradients), sums, self._average(buffers)

    def evaluation_step(self, state: TrainState, batch: Batch) -> Sums:
        """The sums over this device's rows, with the model in evaluation mode."""
        x, y = self._prepare(state, batch)
        with self.policy.products(), whole_batch(None, None):
            outputs = self.model.evaluate(self.policy.cast(state.evaluated), state.buffers, x)
        return self._measure(outputs, y, batch, self._losses(outputs, y, self.loss))

    def _moved(self, state: TrainState, x: jax.Array, y: jax.Array, keys: jax.Array) -> jax.Array:
        """Inputs ``x + u r √d g/‖g‖``: moved along the gradient g of each sample's own loss, ``u ~ U(0, 1)``.

        With ``r`` the setting ``adversarial`` and ``d`` the number of inputs of a sample, so that the root mean square
        of the change is ``u r``. The gradient is that of the net in evaluation mode, where no sample sees another.
        After Goodfellow et al. 2015 and, for the norm, Miyato et al. 2018; the random distance is in place of a second
        pass over samples as they are.
        """
        params = self.policy.cast(state.params)

        def objective(x: jax.Array) -> jax.Array:
            return self._losses(self.model.evaluate(params, state.buffers, x), y, self.loss).sum()

        with self.policy.products(), whole_batch(None, None):
            gradient = jax.grad(objective)(x).astype(state_dtype(state))
        rows = gradient.reshape(len(x), -1)
        norm = jnp.sqrt(jnp.square(rows).sum(axis=1))
        distance = self.adversarial * rows.shape[1] ** 0.5 * jax.vmap(_uniform)(keys).astype(norm.dtype)
        step = jnp.where(norm > 0, distance / jnp.where(norm > 0, norm, 1), 0)
        return x + (rows * step[:, None]).reshape(x.shape).astype(x.dtype)

    def total(self, tree: Any) -> Any:
        """Sum over the devices."""
        return tree if self.axis_name is None else jax.lax.psum(tree, self.axis_name)

    def _average(self, buffers: Any) -> Any:
        """Mean over the devices: statistics of a module's own making may differ between them."""
        if self.axis_name is None:
            return buffers
        mean = lambda x: jax.lax.pmean(x, self.axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x  # noqa: E731
        return jax.tree.map(mean, buffers)

    def _prepare(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Inputs scaled, in the network's precision; targets scaled, in the parameters'."""
        rows = batch.rows.shape[0]
        chex.assert_shape([batch.rows, batch.mask], (rows,))
        chex.assert_type([batch.rows, batch.mask, batch.count], [int, bool, int])
        chex.assert_equal(batch.inputs.shape[0], rows)
        dtype = state_dtype(state)
        x = self.policy.cast(_scale(batch.inputs.astype(dtype), self.input_scaling))
        if self.task == "classification":
            return x, batch.targets
        return x, _scale(batch.targets.astype(dtype), self.target_scaling)

    def _averaged(self, state: TrainState, params: Any) -> Any:
        """The moving average after an update to ``params``; as PyTorch's ``AveragedModel`` it starts with the first."""
        taken = state.step if state.loss_scale is None else state.step - state.loss_scale.skipped
        decay = jnp.where(taken == 0, 0.0, self.average_decay)
        return jax.tree.map(lambda a, p: (a + (1 - decay) * (p - a)).astype(a.dtype), state.average, params)

    def _measure(self, outputs: jax.Array, targets: jax.Array, batch: Batch, losses: jax.Array) -> Sums:
        chex.assert_shape(losses, batch.rows.shape)
        chex.assert_type(losses, jnp.floating)
        return measure(self.task, _together(outputs), targets, losses, batch.mask)

    def _training_losses(self, outputs: jax.Array, targets: jax.Array, batch: Batch) -> jax.Array:
        """What training minimises, one number per sample: the loss, or its mixture with the teacher's."""
        losses = self._losses(outputs, targets, self.training_loss or self.loss)
        soft = batch.soft_targets
        if self.distillation is None or soft is None:
            return losses
        if self.task == "regression":
            soft = _scale(soft, self.target_scaling)
        taught = self._losses(outputs, soft, self.distillation.loss(self.task))
        return (1.0 - self.distillation.share) * losses + self.distillation.share * taught

    def _losses(self, outputs: jax.Array, targets: jax.Array, loss: Loss) -> jax.Array:
        """One number per sample; of several answers to it, the mean of their losses."""
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))  # no loss in half precision
        if outputs.ndim == 3:  # (batch, members, outputs)
            return jax.vmap(loss, in_axes=(1, None))(outputs, targets).mean(axis=0)
        return loss(outputs, targets)


def state_dtype(state: TrainState) -> Any:
    """The precision of the parameters."""
    return jnp.result_type(*jax.tree.leaves(state.params))


def _together(outputs: jax.Array) -> jax.Array:
    """One answer per sample, ``(batch, outputs)``, in no less than float32."""
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    return outputs.mean(axis=1) if outputs.ndim == 3 else outputs


def _uniform(key: jax.Array) -> jax.Array:
    return jax.random.uniform(folded(key, ADVERSARY))


def _scale(x: jax.Array, scaling: "Scaling | None") -> jax.Array:
    if scaling is None:
        return x
    return (x - jnp.asarray(scaling.mean, x.dtype)) / jnp.asarray(scaling.std, x.dtype)
