"""The arrays of a torch model."""

import dataclasses

import torch

__all__ = ["TorchLeaf", "torch_leaves"]


@dataclasses.dataclass(frozen=True)
class TorchLeaf:
    """A parameter or buffer of a torch model.

    Args:
        name: as in the state_dict.
        shape: its shape.
        owner: the class of the module that holds it.
        parameter: False for a buffer.
        aliases: further names of the same tensor (tied weights).
    """

    name: str
    shape: tuple[int, ...]
    owner: type[torch.nn.Module]
    parameter: bool
    aliases: tuple[str, ...] = ()


def torch_leaves(model: torch.nn.Module) -> dict[str, TorchLeaf]:
    """All parameters and buffers by name, a tied one once under its first name."""
    owners = {prefix: type(module) for prefix, module in model.named_modules()}
    leaves: dict[str, TorchLeaf] = {}
    first_name: dict[int, str] = {}
    named: list[tuple[str, torch.Tensor, bool]]
    named = [(name, tensor, True) for name, tensor in model.named_parameters(remove_duplicate=False)]
    named += [(name, tensor, False) for name, tensor in model.named_buffers(remove_duplicate=False)]
    for name, tensor, parameter in named:
        if id(tensor) in first_name:
            first = leaves[first_name[id(tensor)]]
            leaves[first.name] = dataclasses.replace(first, aliases=(*first.aliases, name))
            continue
        first_name[id(tensor)] = name
        leaves[name] = TorchLeaf(name, tuple(tensor.shape), owners[name.rpartition(".")[0]], parameter)
    return leaves
