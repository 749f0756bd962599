"""What training changes, as one pytree, and a Flax module taken apart into a pure function."""

import inspect
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fcjax.precision import LossScale

__all__ = ["PureModel", "TrainState", "count_parameters", "create_state", "stack_states"]

# Told apart from the streams of nnx.Rngs(seed), which fold in small numbers.
_TRAINING = 0x7472


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a training step reads and writes.

    With several replicas every leaf has a leading replica axis.

    Args:
        params: the trained arrays, as a plain ``nnx.State``.
        buffers: the other arrays of the model: running statistics, masks.
        opt_state: of the optax optimiser.
        step: number of steps taken, int32 scalar.
        key: of the order of samples and of dropout; the same throughout the run.
        loss_scale: of float16 training, else None.
        average: the moving average of ``params``, or None.
    """

    params: Any
    buffers: Any
    opt_state: Any
    step: jax.Array
    key: jax.Array
    loss_scale: LossScale | None = None
    average: Any = None

    @property
    def evaluated(self) -> Any:
        """The parameters that evaluation uses: their average, where there is one."""
        return self.params if self.average is None else self.average


@dataclass(frozen=True)
class PureModel:
    """A Flax module as pure functions of its arrays, one for training and one for evaluation.

    Args:
        train_graph, eval_graph: the module's structure after ``model.train()`` and after ``model.eval()``.
        random: random state that the module holds; never advanced, since keys are given at the call.
        takes_keys: whether the module's ``__call__`` has an argument ``rngs``.
    """

    train_graph: nnx.GraphDef
    eval_graph: nnx.GraphDef
    random: Any
    takes_keys: bool

    def train(self, params: Any, buffers: Any, x: jax.Array, keys: jax.Array) -> tuple[jax.Array, Any]:
        """Outputs in training mode, and the buffers afterwards; ``keys`` holds one key per row of ``x``."""
        model = nnx.merge(self.train_graph, params, buffers, self.random)
        outputs = model(x, rngs=keys) if self.takes_keys else model(x)
        changed = jax.tree.map(lambda new, old: new.astype(old.dtype), _buffers(model), buffers)
        return outputs, changed

    def evaluate(self, params: Any, buffers: Any, x: jax.Array) -> jax.Array:
        """Outputs in evaluation mode."""
        return nnx.merge(self.eval_graph, params, buffers, self.random)(x)

    def build(self, params: Any, buffers: Any) -> nnx.Module:
        """A module in evaluation mode that holds these arrays."""
        return nnx.merge(self.eval_graph, params, buffers, self.random)


def create_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    scale_loss: bool = False,
    average: bool = False,
) -> tuple[PureModel, TrainState]:
    """Takes ``model`` apart; the model itself stays as it is.

    Args:
        model: any module whose ``__call__`` takes a batch of inputs, and ``rngs`` if it has dropout.
        optimizer: gives the optimiser's state for the model's parameters.
        seed: of the order of samples and of dropout.
        scale_loss: starts a dynamic loss scale.
        average: starts a moving average of the parameters.

    Raises:
        ValueError: the model has no parameters, or draws from random state of its own during training.
    """
    own = nnx.clone(model)
    own.train()
    train_graph, *parts = nnx.split(own, nnx.Param, nnx.RngState, ...)
    params, random, _ = parts
    params = nnx.as_pure(params)
    buffers = _buffers(own)
    own.eval()
    eval_graph = nnx.graphdef(own)
    name = type(model).__name__
    takes_keys = "rngs" in inspect.signature(type(model).__call__).parameters
    if not jax.tree.leaves(params):
        raise ValueError(f"{name}: expected a model with parameters (nnx.Param), found none")
    if jax.tree.leaves(random) and not takes_keys:
        raise ValueError(
            f"{name}: expected keys for dropout at the call, found random state inside the model; give __call__ an "
            "argument rngs and pass it on to fcjax.layers.Dropout"
        )
    pure = PureModel(train_graph, eval_graph, nnx.as_pure(random), takes_keys)
    key = jax.random.fold_in(jax.random.key(seed), _TRAINING)
    scale = LossScale.create() if scale_loss else None
    step = jnp.zeros((), jnp.int32)
    # A copy: state is donated, and no array may be given away twice.
    averaged = jax.tree.map(lambda p: jnp.array(p, copy=True), params) if average else None
    state = TrainState(params, buffers, optimizer.init(params), step, key, scale, averaged)
    return pure, state


def stack_states(states: list[TrainState]) -> TrainState:
    """Several replicas as one state with a leading replica axis on every leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def count_parameters(params: Any) -> int:
    """Number of trained numbers; buffers and random state don't count."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _buffers(model: nnx.Module) -> Any:
    recorded = nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate)
    return nnx.as_pure(nnx.state(model, nnx.Not(recorded)))
