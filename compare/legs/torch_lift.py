"""Float32 and lower islands of a torch model, lifted to float64.

Code that casts by ``.float()``, builds a table in float32 or holds a plain tensor besides its parameters does not
follow ``model.double()``. Lifted, it computes in float64 throughout, as the Flax leg does.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["TorchLift", "raise_plain_tensors"]

_LOW = {torch.float32, torch.float16, torch.bfloat16}
_CASTS = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}


class TorchLift(TorchFunctionMode):
    """While it is entered, whatever would become a float of less than 64 bits becomes float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CASTS:
            return args[0].double()
        args = tuple(torch.float64 if isinstance(arg, torch.dtype) and arg in _LOW else arg for arg in args)
        kwargs = {
            name: torch.float64 if isinstance(value, torch.dtype) and value in _LOW else value
            for name, value in kwargs.items()
        }
        return func(*args, **kwargs)


def raise_plain_tensors(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Brings floating tensors that are plain attributes to ``dtype``, and pins an epsilon that depends on the dtype.

    ``RMSNorm(eps=None)`` takes the epsilon of its input's dtype: in float64 it would not be the layer that is used.
    """
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                vars(module)[name] = value.to(dtype)
        if isinstance(module, torch.nn.RMSNorm) and module.eps is None:
            parameter = next(module.parameters(), None)
            module.eps = torch.finfo(torch.float32 if parameter is None else parameter.dtype).eps
