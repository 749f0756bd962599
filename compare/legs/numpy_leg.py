"""The NumPy leg: float64 forward and hand-written backward."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from compare.legs.run import Case, Run
from compare.structure import flatten

__all__ = ["NumpyLeg"]


class NumpyLeg:
    """Runs a NumPy reference on cases.

    Args:
        source: a model, or a callable that makes one from {torch name: float64 array}.
        select: brings the output, as a torch tensor, to the compared structure; None keeps it.
        loss: a function of the selected outputs, compared as one more output.
    """

    def __init__(
        self,
        source: Any,
        select: Callable[[Any], Any] | None = None,
        loss: Callable[[Any], Any] | None = None,
    ) -> None:
        self.source = source
        self.select = select
        self.loss = loss
        self.remakes = callable(source)

    def model(self, weights: Mapping[str, np.ndarray]) -> Any:
        """The model with these weights, where they reach it."""
        return self.source(dict(weights)) if self.remakes else self.source

    def parameter_count(self, weights: Mapping[str, np.ndarray]) -> int | None:
        """Number of parameters, None for a model that does not list them."""
        parameters = getattr(self.model(weights), "parameters", None)
        return None if parameters is None else sum(int(np.size(array)) for array in parameters.values())

    def run(self, case: Case) -> Run:
        """Runs ``case`` forward, and backward if it has cotangents."""
        model = self.model(case.weights)
        inputs = case.call.args[0] if len(case.call.args) == 1 and not case.call.kwargs else case.call
        masks = {"masks": list(case.masks)} if case.masks else {}
        raw, cache = model.forward(inputs, **masks)
        tensors = {path: torch.from_numpy(np.array(array)).requires_grad_() for path, array in flatten(raw).items()}
        outputs = self._selected(tensors)
        gradients: tuple[Any, Mapping[str, Any]] = ({}, {})
        if case.cotangents:
            terms = [(torch.from_numpy(np.array(case.cotangents[p])) * v).sum() for p, v in outputs.items()]
            cotangents = torch.autograd.grad(torch.stack(terms).sum(), list(tensors.values()))
            named = {path: c.numpy() for path, c in zip(tensors, cotangents, strict=True)}
            gradients = model.backward(named if set(named) != {""} else named[""], cache)
        return Run(
            outputs={path: value.detach().numpy() for path, value in outputs.items()},
            parameter_gradients=dict(gradients[1]),
            input_gradients=_by_path(gradients[0], case),
        )

    def _selected(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        structure = tensors[""] if set(tensors) == {""} else tensors
        selected = structure if self.select is None else self.select(structure)
        outputs = flatten(selected)
        if self.loss is not None:
            outputs["loss"] = self.loss(selected)
        return outputs


def _by_path(gradients: Any, case: Case) -> dict[str, np.ndarray]:
    paths = list(flatten(case.call))
    flat = flatten(gradients)
    return {paths[0]: flat[""]} if set(flat) == {""} else dict(flat)
