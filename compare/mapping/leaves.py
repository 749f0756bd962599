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
        constant: a parameter that is none: frozen, in no layer, among others that are trained (a fixed table of
            positions, the masks of a coupling). Flax may compute it.
        aliases: further names of the same tensor (tied weights).
    """

    name: str
    shape: tuple[int, ...]
    owner: type[torch.nn.Module]
    parameter: bool
    constant: bool = False
    aliases: tuple[str, ...] = ()


def torch_leaves(model: torch.nn.Module) -> dict[str, TorchLeaf]:
    """All parameters and buffers by name, a tied one once under its first name."""
    owners = dict(model.named_modules())
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
        owner = owners[name.rpartition(".")[0]]
        constant = parameter and not tensor.requires_grad and _holds_others(owner)
        leaves[name] = TorchLeaf(name, tuple(tensor.shape), type(owner), parameter, constant)
    return leaves


def _holds_others(module: torch.nn.Module) -> bool:
    """Whether ``module`` is none of torch's layers, and something in it is trained."""
    own = type(module).__module__.startswith("torch.nn.modules.") and not any(True for _ in module.children())
    return not own and any(parameter.requires_grad for parameter in module.parameters())
