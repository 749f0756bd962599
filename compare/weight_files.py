"""Weights from and to files. Nothing that is read can run code: a pickle is loaded as plain tensors or refused."""

import os
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from compare.result import UsageError

__all__ = ["as_tensor", "read_weights", "write_weights"]

SAFETENSORS, TORCH = (".safetensors",), (".pt", ".pth", ".bin")


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The arrays of a ``.safetensors`` or PyTorch (``.pt``, ``.pth``, ``.bin``) file by name.

    Raises:
        UsageError: the file is absent, damaged, of another kind, or a pickle of anything but plain tensors (a pickle
            can run code while it is read, so such a one is never unpickled).
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: expected a weights file, found {'a folder' if path.is_dir() else 'nothing'}")
    if path.suffix in SAFETENSORS:
        try:
            return load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise UsageError(f"{path}: not a whole safetensors file ({error})") from error
    if path.suffix in TORCH:
        return _read_torch(path)
    raise UsageError(f"{path}: expected a file name that ends in {', '.join(SAFETENSORS + TORCH)}")


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: what can't be read is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path}: refused, it is damaged or holds more than plain tensors, and unpickling that could run code; "
            "save model.state_dict() instead"
        ) from error
    except Exception as error:  # whatever a reader says to bytes that nobody foresaw
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"{path}: not a whole PyTorch file ({reason})") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: expected a state_dict, found a {type(content).__name__}")
    odd = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise UsageError(f"{path}: expected a state_dict of tensors, found other values under {', '.join(odd[:5])}")
    return {str(name): tensor for name, tensor in content.items()}


def as_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape, dtype and bits, bfloat16 included."""
    if isinstance(array, torch.Tensor):
        return array.detach()
    array = np.array(array, order="C")
    if array.dtype.name == "bfloat16":  # NumPy has none of its own, and torch does not know JAX's
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def write_weights(path: str | Path, arrays: Mapping[str, np.ndarray | torch.Tensor]) -> None:
    """Writes a ``.safetensors`` file: whole, or not at all.

    Raises:
        UsageError: the name has another suffix, or the file can't be written.
    """
    path = Path(path)
    if path.suffix not in SAFETENSORS:
        raise UsageError(f"{path}: expected a file name that ends in .safetensors")
    tensors = {name: as_tensor(array).contiguous().clone() for name, array in arrays.items()}
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            save_file(tensors, temporary)
            Path(temporary).chmod(0o644)  # mkstemp makes files that nobody else may read
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: can't be written ({getattr(error, 'strerror', None) or error})") from error
