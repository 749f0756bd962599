"""What goes into and comes out of every submodule, in the order of execution, with gradients.

A checkpoint is one edge of one call of one submodule. The gradient at an edge is taken by adding zeros there that the
function is differentiated by (Flax), or by keeping the gradient of a copy of the tensor (torch).
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from jax.extend import core as jex

from compare.structure import Call, flatten, is_floating, rebuild, to_numpy

__all__ = ["Checkpoint", "FlaxWatch", "Reached", "TorchWatch"]

Edge = Literal["input", "output"]

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The floating arrays at one edge of one call.

    Args:
        module: name of the submodule.
        edge: what went in, or what came out.
        arrays: values in order of appearance.
        gradients: of the same arrays; None where no gradient flows.
        clock: how many torch calls came before, where they were counted.
        indices: the integer arrays at the same edge (token ids, positions).
    """

    module: str
    edge: Edge
    arrays: tuple[np.ndarray, ...]
    gradients: tuple[np.ndarray | None, ...] = ()
    clock: int = 0
    indices: tuple[np.ndarray, ...] = ()


class FlaxWatch:
    """Records checkpoints while a Flax function is traced by JAX.

    Calls inside an inner transformation (a scan, a vmap) are left out: their values live in another trace.

    Args:
        shifts: zeros to add at each recorded array, by its number; None on the first pass, which only counts them.
    """

    def __init__(self, shifts: Mapping[str, Any] | None = None) -> None:
        self.shifts = shifts
        self.edges: list[tuple[str, Edge, list[str], list[str]]] = []
        self.values: dict[str, Any] = {}
        self._state: Any = None

    def begin(self) -> None:
        """Marks the trace whose values are recorded."""
        self._state = jex.get_opaque_trace_state()

    def see(self, module: str, edge: Edge, structure: Any) -> Any:
        """Records the floating leaves of ``structure`` and returns it, shifted."""
        if jex.get_opaque_trace_state() != self._state:
            return structure
        everything = flatten(structure)
        leaves = {path: leaf for path, leaf in everything.items() if is_floating(leaf)}
        keys, changed, indices = [], {}, []
        for path, leaf in leaves.items():
            key = str(len(self.values))
            shifted = jnp.asarray(leaf) if self.shifts is None else leaf + self.shifts[key].astype(leaf.dtype)
            self.values[key] = changed[path] = shifted
            keys.append(key)
        for leaf in everything.values():
            if isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.ndim:
                indices.append(f"indices {len(self.values)}")
                self.values[indices[-1]] = jnp.asarray(leaf)
        self.edges.append((module, edge, keys, indices))
        return rebuild(structure, changed) if changed else structure

    @contextlib.contextmanager
    def nnx(self, model: nnx.Module) -> Iterator[None]:
        """Watches every ``__call__`` of the submodules of ``model``."""
        paths: dict[int, str] = {}
        for path, module in nnx.iter_modules(model):
            paths.setdefault(id(module), ".".join(str(part) for part in path))
        classes = {type(module) for _, module in nnx.iter_modules(model) if hasattr(module, "__call__")}  # noqa: B004
        with contextlib.ExitStack() as stack:
            for cls in classes:
                stack.enter_context(mock.patch.object(cls, "__call__", self._watched(cls.__call__, paths)))
            yield

    def _watched(self, call: Callable[..., Any], paths: Mapping[int, str]) -> Callable[..., Any]:
        # One module's call may reach its parent class's __call__ through super(): that is the same call, seen once.
        active: list[int] = []

        def watched(module: Any, *args: Any, **kwargs: Any) -> Any:
            path = paths.get(id(module), "")
            if not path or id(module) in active:
                return call(module, *args, **kwargs)
            active.append(id(module))
            try:
                seen = self.see(path, "input", Call(args, kwargs))
                return self.see(path, "output", call(module, *seen.args, **seen.kwargs))
            finally:
                active.pop()

        return watched

    @contextlib.contextmanager
    def linen(self) -> Iterator[None]:
        """Watches every ``__call__`` of Linen submodules."""

        def interceptor(next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
            path = ".".join(context.module.path)
            if context.method_name != "__call__" or not path:
                return next_method(*args, **kwargs)
            seen = self.see(path, "input", Call(args, kwargs))
            return self.see(path, "output", next_method(*seen.args, **seen.kwargs))

        with linen.intercept_methods(interceptor):
            yield

    def checkpoints(self, values: Mapping[str, Any], gradients: Mapping[str, Any]) -> tuple[Checkpoint, ...]:
        """The recorded edges with the numbers that the compiled function gave for them."""
        return tuple(
            Checkpoint(
                module,
                edge,
                tuple(np.asarray(values[key]) for key in keys),
                tuple(np.asarray(gradients[key]) for key in keys) if gradients else (),
                indices=tuple(np.asarray(values[key]) for key in indices),
            )
            for module, edge, keys, indices in self.edges
        )


class Reached(Exception):  # noqa: N818
    """The last checkpoint that is wanted has been recorded."""


class TorchWatch:
    """Records checkpoints while a torch model runs, by hooks.

    Args:
        clock: read at each checkpoint.
        until: number of the last checkpoint that is wanted; ``Reached`` is raised there. None for all.
    """

    def __init__(self, clock: Callable[[], int], until: int | None = None) -> None:
        self._clock = clock
        self._until = until
        self._edges: list[tuple[str, Edge, list[torch.Tensor], int, list[torch.Tensor]]] = []

    def hooks(self, model: torch.nn.Module) -> list[Any]:
        """Registers the hooks on every submodule; the caller removes them."""
        found: list[Any] = []
        for name, module in model.named_modules():
            if name:
                found.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
                found.append(module.register_forward_hook(self._after(name)))
        return found

    def _before(self, name: str) -> Callable[..., Any]:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            seen = self._see(name, "input", Call(args, kwargs))
            return tuple(seen.args), dict(seen.kwargs)

        return hook

    def _after(self, name: str) -> Callable[..., Any]:
        return lambda _module, _args, output: self._see(name, "output", output)

    def _see(self, name: str, edge: Edge, structure: Any) -> Any:
        leaves = {path: leaf for path, leaf in flatten(structure).items() if isinstance(leaf, torch.Tensor)}
        changed = {}
        for path, leaf in leaves.items():
            if leaf.is_floating_point() and not isinstance(leaf, torch.nn.Parameter):
                # Also where torch would keep no gradient, as the zeros added on the Flax side have one everywhere. The
                # copy is no leaf of the graph, so that code which works in place may change it.
                changed[path] = (leaf if leaf.requires_grad else leaf.detach().requires_grad_()).clone()
                if changed[path].requires_grad:
                    changed[path].retain_grad()
        whole = [leaf for leaf in leaves.values() if leaf.dtype in _INTEGERS and leaf.dim()]
        self._edges.append((name, edge, list(changed.values()), self._clock(), whole))
        if self._until is not None and len(self._edges) > self._until:
            raise Reached
        return rebuild(structure, changed) if changed else structure

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """What was recorded, after the backward pass."""
        return tuple(
            Checkpoint(
                name,
                edge,
                tuple(to_numpy(tensor) for tensor in tensors),
                tuple(None if tensor.grad is None else to_numpy(tensor.grad) for tensor in tensors),
                clock,
                tuple(to_numpy(tensor) for tensor in whole),
            )
            for name, edge, tensors, clock, whole in self._edges
        )
