"""Which integer inputs are indices into which table: what they may range over, beyond the values observed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Lookup", "Lookups"]


@dataclasses.dataclass(frozen=True)
class Lookup:
    """What an integer input looks up.

    Args:
        size: number of rows of the smallest table.
        padding: the row that takes no gradient, if there is one.
    """

    size: int
    padding: int | None = None


class Lookups(TorchFunctionMode):
    """Watches a forward pass for inputs that end up as indices.

    Args:
        inputs: tensors of the call by path.
        found: filled with what each path looks up.
    """

    def __init__(self, inputs: Mapping[str, torch.Tensor], found: dict[str, Lookup]) -> None:
        super().__init__()
        self._inputs = {p: t for p, t in inputs.items() if not t.is_floating_point() and t.dtype != torch.bool}
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("embedding", "embedding_bag"):
            indices, table = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["weight"]
            padding = args[2] if len(args) > 2 and name == "embedding" else kwargs.get("padding_idx")
            self._note(indices, int(table.shape[0]), padding)
        elif name == "one_hot":
            classes = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
            if classes > 0:
                self._note(args[0], classes, None)
        elif name == "__getitem__" and isinstance(args[1], torch.Tensor) and args[0].is_floating_point():
            self._note(args[1], int(args[0].shape[0]), None)
        return func(*args, **kwargs)

    def _note(self, indices: torch.Tensor, size: int, padding: int | None) -> None:
        for path, tensor in self._inputs.items():
            if not _same_numbers(tensor, indices):
                continue
            before = self._found.get(path)
            if before is None or size < before.size:
                self._found[path] = Lookup(size, None if padding is None else padding % size)


def _same_numbers(tensor: torch.Tensor, indices: torch.Tensor) -> bool:
    """Whether ``indices`` are ``tensor``, a view of it (a slice, another shape), or a copy in another width."""
    if indices.is_floating_point() or indices.dtype == torch.bool:
        return False
    if tensor.untyped_storage().data_ptr() == indices.untyped_storage().data_ptr():
        return True
    return tensor.numel() == indices.numel() and bool((tensor.reshape(-1) == indices.reshape(-1)).all())
