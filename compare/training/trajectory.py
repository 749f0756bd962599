"""What a training loop leaves behind at each step, and what a comparison of two loops needs to know."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch

from compare.port import Port
from compare.result import UsageError
from compare.structure import Call, Inputs, as_call

__all__ = ["QUANTITIES", "Batch", "Clip", "Snapshot", "Training", "as_clip", "read_batches"]

# In the order in which a step computes them: the first that differs is where the loops part.
QUANTITIES = ("loss", "gradients", "learning_rate", "moments", "update", "parameters", "loss_scale")


@dataclasses.dataclass(frozen=True)
class Batch:
    """One element of ``batches``.

    Args:
        call: the torch call.
        to_flax: from the torch call's arguments to the Flax call; None where they are alike.
        target: what the losses take beside the outputs.
    """

    call: Call
    to_flax: Callable[..., Any] | Call | None
    target: Any


@dataclasses.dataclass(frozen=True)
class Clip:
    """Gradient clipping as torch does it.

    Args:
        kind: "norm" (``clip_grad_norm_``) or "value" (``clip_grad_value_``).
        value: largest norm, or largest absolute value.
    """

    kind: Literal["norm", "value"]
    value: float


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One step of one loop.

    Args:
        loss: of the batch.
        gradients: of the batch, before accumulation and clipping; None where no gradient flows.
        learning_rate: in force at this step.
        moments: (role, parameter) -> array, the optimiser's state after the step.
        update: what the step adds to the parameters.
        parameters: after the step.
        loss_scale: after the step.
    """

    loss: np.ndarray
    gradients: Mapping[str, np.ndarray | None]
    learning_rate: float | None
    moments: Mapping[tuple[str, str], np.ndarray]
    update: Mapping[str, np.ndarray]
    parameters: Mapping[str, np.ndarray]
    loss_scale: float | None = None


@dataclasses.dataclass(frozen=True)
class Training:
    """Two training loops.

    Args:
        port: the models; its inputs are those of the first batch.
        batches: in order; one per step.
        torch_optimizer: callable parameters -> optimizer, or -> (optimizer, learning-rate scheduler).
        optax_optimizer: a gradient transformation, or ``optax.MultiSteps``.
        torch_loss, jax_loss: functions of (outputs, target).
        learning_rate: the optax schedule or rate, where it is compared too.
        clip: in torch's loop; None, the largest norm, ("norm" | "value", size), or a callable of the parameters.
        accumulate: batches per optimiser step in torch's loop, whose gradients add up.
        scaler: a ``torch.amp.GradScaler``, or (GradScaler, Flax loss scale).
        torch_step, flax_step: loops of the user's own.
    """

    port: Port
    batches: tuple[Batch, ...]
    torch_optimizer: Callable[..., Any]
    optax_optimizer: Any
    torch_loss: Callable[[Any, Any], Any]
    jax_loss: Callable[[Any, Any], Any]
    learning_rate: Any = None
    clip: Any = None
    accumulate: int = 1
    scaler: Any = None
    torch_step: Callable[..., Any] | None = None
    flax_step: Callable[..., Any] | None = None

    @property
    def scalers(self) -> tuple[Any, Any]:
        """The torch scaler and the Flax one, each None where absent."""
        return self.scaler if isinstance(self.scaler, tuple) else (self.scaler, None)


def read_batches(batches: Iterable[Any]) -> tuple[Batch, ...]:
    """(input, target) pairs as ``Batch``es.

    Raises:
        UsageError: there are none, or one is no pair.
    """
    found = []
    for number, pair in enumerate(batches, 1):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UsageError(f"batches: expected (input, target) pairs; batch {number} is a {type(pair).__name__}")
        inputs, target = pair
        if isinstance(inputs, Inputs):
            given = inputs.flax if callable(inputs.flax) else as_call(inputs.flax)
            found.append(Batch(as_call(inputs.torch), given, target))
        else:
            found.append(Batch(as_call(inputs), None, target))
    if not found:
        raise UsageError("batches: expected at least one (input, target) pair, found none")
    return tuple(found)


def as_clip(clip: Any) -> Clip | None:
    """A number as the largest norm, a pair or single-entry dictionary by its kind.

    Raises:
        UsageError: for anything else.
    """
    if clip is None or isinstance(clip, Clip):
        return clip
    if isinstance(clip, int | float) and not isinstance(clip, bool):
        return Clip("norm", float(clip))
    if isinstance(clip, Mapping) and len(clip) == 1:
        clip = next(iter(clip.items()))
    if isinstance(clip, tuple | list) and len(clip) == 2 and clip[0] in ("norm", "value"):
        return Clip(clip[0], float(clip[1]))
    raise UsageError(f'clip: expected a largest norm, ("norm", size), ("value", size) or a callable; found {clip!r}')


def own_scaler(scaler: Any) -> Any:
    """A CPU ``GradScaler`` in the state of the one given, or None where it is disabled."""
    if scaler is None:
        return None
    if not isinstance(scaler, torch.amp.GradScaler) and callable(scaler):
        scaler = scaler()
    state = copy.deepcopy(scaler.state_dict())
    if not state:
        return None
    own = torch.amp.GradScaler("cpu")
    own.load_state_dict(state)
    return own
