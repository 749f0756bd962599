"""What a check ran under: versions, precision, and what it left out."""

import platform
from collections.abc import Mapping
from typing import Any

import jax
import torch

from compare.evidence import Legs
from compare.port import Port
from compare.structure import Inputs

__all__ = ["settings"]


def settings(port: Port, legs: Legs, refused: Mapping[str, str], note: str) -> dict[str, Any]:
    """For the report, by name; ``refused`` are probes with the reason, ``note`` is what the diagnosis says."""
    found = {
        "mode": port.mode,
        "seed": port.seed,
        "jax": jax.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": jax.default_backend(),
        "matmul precision": f"highest, without TF32 (yours: torch {torch.get_float32_matmul_precision()}, "
        f"jax {getattr(jax.config, 'jax_default_matmul_precision', None) or 'default'})",
        "x64": f"on in float64 runs alone (yours: {'on' if getattr(jax.config, 'jax_enable_x64', False) else 'off'})",
        "autocast": "off",
    }
    if legs.torch64.large:
        found["large model"] = (
            f"{legs.torch64.size:,} numbers: gradients and float32 on given and redrawn weights alone, probes compare "
            "float64 outputs, a difference on the inputs given ends the check, and where outputs differ causes are "
            "sought forward only"
        )
    if legs.torch64.frozen:
        found["frozen in torch"] = (
            f"{', '.join(legs.torch64.frozen)}: differentiated all the same, unless the port stops it"
        )
    if legs.flax64.islands:
        found["computed in float64 instead"] = "; ".join(legs.flax64.islands)
    if isinstance(port.inputs, Inputs) and not callable(port.inputs.flax):
        found["inputs"] = "two plain calls, neither varied nor differentiated"
    if note:
        found["diagnosis"] = note
    if refused:
        found["probes that torch refuses"] = "; ".join(f"{name} ({reason})" for name, reason in refused.items())
    return found
