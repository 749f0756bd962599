"""What each dropout of a call does: its mask and its scale, as drawn, on both sides."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch.overrides import TorchFunctionMode

from compare.legs.flax_function import mode_keywords
from compare.port import Port
from compare.result import UsageError
from compare.structure import Call, Inputs, as_call, flatten, is_floating, rebuild, to_numpy

__all__ = ["FlaxMask", "FlaxModel", "TorchDropout", "torch_dropouts"]


@dataclasses.dataclass(frozen=True)
class TorchDropout:
    """One active dropout of the torch model.

    Args:
        module: the module in which it runs.
        rate: the probability of zero.
        shape: of its input.
    """

    module: str
    rate: float
    shape: tuple[int, ...]


class _Recorder(TorchFunctionMode):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.found: list[TorchDropout] = []
        self.stack: list[str] = [""]
        self.model = model

    def hooks(self) -> list[Any]:
        found: list[Any] = []
        for name, module in self.model.named_modules():
            found.append(module.register_forward_pre_hook(lambda _m, _a, name=name: self.stack.append(name)))
            found.append(module.register_forward_hook(self._leave))
        return found

    def _leave(self, _module: Any, _args: Any, _output: Any) -> None:
        self.stack.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.dropout:
            given = inspect.signature(func).bind(*args, **(kwargs or {}))
            given.apply_defaults()
            x, rate, training = (given.arguments[name] for name in ("input", "p", "training"))
            if training and rate > 0:
                self.found.append(TorchDropout(self.stack[-1], float(rate), tuple(x.shape)))
        return func(*args, **(kwargs or {}))


def torch_dropouts(model: torch.nn.Module, call: Call) -> list[TorchDropout]:
    """Every active dropout of one call of ``model`` in training mode, in the order of execution."""
    tensors = {
        path: torch.from_numpy(to_numpy(array)).to(torch.float64 if is_floating(array) else None)
        for path, array in flatten(call).items()
    }
    given, recorder = rebuild(call, tensors), _Recorder(model)
    hooks = recorder.hooks()
    try:
        with recorder, torch.no_grad():
            model(*given.args, **given.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.found


@dataclasses.dataclass(frozen=True)
class FlaxMask:
    """One dropout of one Flax call.

    Args:
        where: path of the module, or "jax.random.bernoulli" for one in functional code.
        mask: 1 kept, 0 dropped, NaN where the input is zero and nothing tells.
        scale: what kept values are multiplied by; NaN where nothing tells.
    """

    where: str
    mask: np.ndarray
    scale: float


class FlaxModel:
    """The Flax model, called eagerly with another key each time.

    Args:
        port: the pair.
    """

    def __init__(self, port: Port) -> None:
        self.port = port
        given = port.inputs
        call = as_call(given.torch if isinstance(given, Inputs) else given)
        if isinstance(given, Inputs):
            call = as_call(given.flax(*call.args, **call.kwargs) if callable(given.flax) else given.flax)
        self.call = rebuild(call, {path: jnp.asarray(to_numpy(array)) for path, array in flatten(call).items()})
        self._models: dict[str, Callable[[int], Any]] = {}
        self._seen: list[FlaxMask] | None = None
        self._inside = False

    def masks(self, mode: str, seed: int) -> list[FlaxMask]:
        """The dropouts of one call in ``mode``, in the order of execution."""
        if mode not in self._models:
            self._models[mode] = self._caller(mode)
        self._seen = []
        with self._watching():
            self._models[mode](seed)
        return self._seen

    def _caller(self, mode: Any) -> Callable[[int], Any]:
        static = dict((self.port.flax_call or {}).get(mode, {}))
        if isinstance(self.port.flax_model, linen.Module):
            return self._linen(mode, static)
        model = nnx.clone(self.port.flax_model)
        model.train() if mode == "train" else model.eval()
        method = getattr(model, static.pop("method", "__call__"))
        keywords = mode_keywords(method, mode, static)
        parameters = inspect.signature(method).parameters

        def call(seed: int) -> Any:
            extra = {} if "rngs" not in parameters else {"rngs": _key(parameters["rngs"], seed)}
            extra = extra if mode == "train" and "rngs" not in self.call.kwargs else {}
            return method(*self.call.args, **{**extra, **keywords, **self.call.kwargs})

        return call

    def _linen(self, mode: Any, static: dict[str, Any]) -> Callable[[int], Any]:
        model, method = self.port.flax_model, static.pop("method", None)
        static.pop("mutable", None)
        bound = getattr(type(model), method) if isinstance(method, str) else method or type(model).__call__
        keywords = {**mode_keywords(bound, mode, static), **self.call.kwargs}
        variables = self.port.flax_variables
        if variables is None:
            keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
            variables = model.init(keys, *self.call.args, method=method, **keywords)

        def call(seed: int) -> Any:
            rngs = {"dropout": jax.random.key(seed)} if mode == "train" else {}
            changing = [name for name in variables if name != "params"]
            return model.apply(variables, *self.call.args, rngs=rngs, method=method, mutable=changing, **keywords)

        return call

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch("jax.random.bernoulli", self._bernoulli(jax.random.bernoulli)))
            for cls in _dropouts(nnx.Dropout):
                stack.enter_context(mock.patch.object(cls, "__call__", self._module(cls.__call__)))
            stack.enter_context(linen.intercept_methods(self._intercept))
            yield

    def _module(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(module: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return self._see(type(module).__name__, inputs, lambda: call(module, inputs, *args, **kwargs))

        return watched

    def _intercept(self, next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if not isinstance(context.module, linen.Dropout) or context.method_name != "__call__":
            return next_method(*args, **kwargs)
        inputs = args[0] if args else kwargs["inputs"]
        return self._see(".".join(context.module.path), inputs, lambda: next_method(*args, **kwargs))

    def _see(self, where: str, inputs: Any, call: Callable[[], Any]) -> Any:
        if self._inside:
            return call()
        self._inside = True
        try:
            output = call()
        finally:
            self._inside = False
        if output is not inputs and not isinstance(output, jax.core.Tracer):
            before, after = np.asarray(inputs, np.float64), np.asarray(output, np.float64)
            known, kept = before != 0, after != 0
            ratios = after[known & kept] / before[known & kept]
            scale = float(np.median(ratios)) if ratios.size else np.nan
            self._note(FlaxMask(where, np.where(known, kept.astype(np.float64), np.nan), scale))
        return output

    def _bernoulli(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            mask = draw(*args, **kwargs)
            if not self._inside and not isinstance(mask, jax.core.Tracer):
                self._note(FlaxMask("jax.random.bernoulli", np.asarray(mask, np.float64), np.nan))
            return mask

        return watched

    def _note(self, mask: FlaxMask) -> None:
        if self._seen is None:
            raise UsageError("a dropout ran outside of a call")
        self._seen.append(mask)


def _dropouts(cls: Any) -> list[Any]:
    """The class and its subclasses that have a call of their own."""
    own = [cls] if "__call__" in vars(cls) else []
    return own + [found for child in cls.__subclasses__() for found in _dropouts(child)]


def _key(parameter: inspect.Parameter, seed: int) -> Any:
    wants_stream = "Rngs" in str(parameter.annotation) and "Array" not in str(parameter.annotation)
    return nnx.Rngs(dropout=seed) if wants_stream else jax.random.key(seed)
