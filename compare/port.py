"""One pair of models, and everything a check needs to know about it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from compare.result import CheckResult, UsageError

__all__ = ["Port"]


@dataclasses.dataclass(frozen=True)
class Port:
    """A PyTorch model and its Flax port.

    Args:
        torch_model: the reference, a ``torch.nn.Module``.
        flax_model: the port, a ``flax.nnx.Module`` or ``flax.linen.Module``.
        inputs: an array, a tuple (positional), a dictionary (keywords), ``Call`` or, where layouts differ, ``Inputs``.
        name: how the report calls it; the torch class's name when empty.
        flax_variables: of a Linen model; initialised from the inputs when None.
        outputs: None, ``(torch_select, flax_to_torch)``, or one function that serves Flax alone: they bring both
            outputs to the same structure and layout.
        weights: "torch" copies torch's parameters and buffers into a copy of the Flax model first; None compares the
            values as they stand.
        mapping: torch name -> Flax path, or (Flax path, linear function), for what automation can't know; or a function
            of the torch name that returns one of these, or None to leave that array to automation.
        mode: "eval" or "train"; in training mode torch's dropout masks are replayed on every leg.
        flax_call: {"eval": {...}, "train": {...}}: static keyword arguments of the Flax call.
        frozen: paths of inputs that probes must not touch, "0" for the first positional argument.
        ranges: input path -> (low, high), bounds of integer inputs; those observed when absent.
        loss: (torch_loss, jax_loss): functions of the outputs, compared as one more output with its gradient.
        numpy_model: an object with ``forward(inputs) -> (outputs, cache)`` and
            ``backward(cotangents, cache) -> (input gradients, {torch name: gradient})``; or a callable that makes one
            from a state {torch name: float64 array}, which lets redrawn weights reach it too.
        formula: the number of parameters by formula, counted besides the three legs where given.
        strict: whether differences that arise only at ties and zeros count as failures.
        seed: of redrawn weights, probes, cotangents and masks.
        expected_failures: check name -> reason: such a failure is reported as a note.
        profile: whether the report of a port that passes holds the error of every layer too, which takes a traced run
            of both models more. One that fails always does.
    """

    torch_model: torch.nn.Module
    flax_model: Any
    inputs: Any
    _: dataclasses.KW_ONLY
    name: str = ""
    flax_variables: Mapping[str, Any] | None = None
    outputs: Callable[[Any], Any] | tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None] | None = None
    weights: Literal["torch"] | None = "torch"
    mapping: Mapping[str, Any] | Callable[[str], Any] | None = None
    mode: Literal["eval", "train"] = "eval"
    flax_call: Mapping[str, Mapping[str, Any]] | None = None
    frozen: Sequence[str] = ()
    ranges: Mapping[str, tuple[int, int]] | None = None
    loss: tuple[Callable[[Any], Any], Callable[[Any], Any]] | None = None
    numpy_model: Any = None
    formula: int | None = None
    strict: bool = False
    seed: int = 0
    expected_failures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    profile: bool = False

    def __post_init__(self) -> None:
        """Raises ``UsageError`` for a field of the wrong kind."""
        if not isinstance(self.torch_model, torch.nn.Module):
            found = type(self.torch_model)
            raise UsageError(f"torch_model: expected a torch.nn.Module, found {found.__module__}.{found.__name__}")
        if self.mode not in ("eval", "train"):
            raise UsageError(f"mode: expected 'eval' or 'train', found {self.mode!r}")
        if self.weights not in ("torch", None):
            raise UsageError(f"weights: expected 'torch' or None, found {self.weights!r}")
        if self.inputs is None:
            raise UsageError("inputs: expected an array, a tuple, a dictionary or a compare.Call, found None")

    @property
    def title(self) -> str:
        """The name in the report."""
        return self.name or type(self.torch_model).__name__

    def excused(self, result: CheckResult) -> CheckResult:
        """``result``, a note instead of a failure where ``expected_failures`` gives a reason."""
        reason = self.expected_failures.get(result.name)
        if reason is None or result.status != "failed":
            return result
        return dataclasses.replace(result, status="noted", detail=f"{result.detail}; expected: {reason}")

    @property
    def torch_select(self) -> Callable[[Any], Any] | None:
        """What brings the torch output to the compared structure."""
        return self.outputs[0] if isinstance(self.outputs, tuple) else None

    @property
    def flax_select(self) -> Callable[[Any], Any] | None:
        """What brings the Flax output to the compared structure."""
        return self.outputs[1] if isinstance(self.outputs, tuple) else self.outputs
