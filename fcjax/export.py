"""Trained weights as a safetensors file, in Flax's layout or in PyTorch's."""

import os
import tempfile
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from fcjax.config import UsageError
from fcjax.layers import SparseLinear

__all__ = ["LAYOUTS", "export_weights", "flax_arrays", "torch_arrays"]

LAYOUTS = ("torch", "flax")
# Kind of layer -> {Flax's name: (PyTorch's name, whether its axes are swapped)}. PyTorch stores (out, in).
RULES: dict[type[nnx.Module], dict[str, tuple[str, bool]]] = {
    nnx.Linear: {"kernel": ("weight", True), "bias": ("bias", False)},
    nnx.LayerNorm: {"scale": ("weight", False), "bias": ("bias", False)},
    nnx.BatchNorm: {
        "scale": ("weight", False),
        "bias": ("bias", False),
        "mean": ("running_mean", False),
        "var": ("running_var", False),
    },
    SparseLinear: {"kernel": ("weight", True), "bias": ("bias", False), "mask": ("mask", True)},
}


def flax_arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """Parameters and buffers by dotted Flax path, such as ``fc1.kernel`` of shape ``(in, out)``."""
    state = nnx.as_pure(nnx.state(model, nnx.Not(nnx.RngState)))
    return {
        ".".join(str(entry.key) for entry in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def torch_arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """The same by PyTorch's names, such as ``fc1.weight`` of shape ``(out, in)``: a state_dict.

    Raises:
        UsageError: an array of a layer for which there is no rule; all such are listed.
    """
    kinds = {".".join(map(str, path)): type(module) for path, module in nnx.iter_modules(model)}
    result: dict[str, np.ndarray] = {}
    unknown = []
    for path, array in flax_arrays(model).items():
        module, _, name = path.rpartition(".")
        rules = next((rules for kind, rules in RULES.items() if issubclass(kinds[module], kind)), {})
        if name not in rules:
            unknown.append(f"{path} of {kinds[module].__name__}")
            continue
        torch_name, swapped = rules[name]
        result[f"{module}.{torch_name}" if module else torch_name] = array.T if swapped else array
        if torch_name == "running_mean":  # PyTorch also counts batches; with its default momentum nothing reads it
            result[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
    if unknown:
        raise UsageError(f"export: no PyTorch counterpart is known for {', '.join(unknown)}")
    return result


def export_weights(model: nnx.Module, file: Path, layout: str = "torch") -> None:
    """Writes ``file``: whole, or not at all.

    Args:
        model: in evaluation mode or not; only its arrays count.
        file: ends in ``.safetensors``.
        layout: ``"torch"`` or ``"flax"``.

    Raises:
        UsageError: another layout or ending, or the file can't be written.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout: expected one of {', '.join(LAYOUTS)}; found {layout!r}")
    if file.suffix != ".safetensors":
        raise UsageError(f"{file}: expected a file name that ends in .safetensors")
    arrays = torch_arrays(model) if layout == "torch" else flax_arrays(model)
    whole = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        os.close(handle)
        try:
            save_file(whole, temporary, {"format": "pt" if layout == "torch" else "fcjax"})
            Path(temporary).chmod(0o644)  # mkstemp makes files that nobody else may read
            os.replace(temporary, file)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{file}: can't be written ({error.strerror or error})") from None
