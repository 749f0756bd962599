"""Why a port that computes the same function is less accurate in float32."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import nnx

from compare.checks.precision import float32_errors
from compare.evidence import Evidence
from compare.legs.flax_leg import FlaxLeg
from compare.legs.torch_leg import TorchLeg
from compare.result import Cause
from compare.rounding import flax_in_working_precision

__all__ = ["FAST_VARIANCE", "low_precision_causes", "rerun", "without_fast_variance"]

FAST_VARIANCE = Cause(
    "fast_variance",
    "normalisation layers compute the variance as E[x²] - E[x]², which cancels where the mean is large; "
    "Flax does so by default, torch does not",
    "use_fast_variance=False",
    "with two-pass variances this port is as accurate in float32 as torch's model",
)


def without_fast_variance(model: Any) -> nnx.Module | None:
    """A copy of an NNX model whose normalisation layers compute two-pass variances; None if none of them is fast."""
    if not isinstance(model, nnx.Module):
        return None
    copy = nnx.clone(model)
    fast: list[Any] = [module for _, module in nnx.iter_modules(copy) if getattr(module, "use_fast_variance", False)]
    for module in fast:
        module.use_fast_variance = False
    return copy if fast else None


def low_precision_causes(leg: FlaxLeg) -> tuple[Cause, ...]:
    """Casts to 16 bits inside the port, which a float64 run leaves out."""
    low = [island for island in leg.islands if island.startswith(("bfloat16", "float16"))]
    if not low:
        return ()
    seen = "without these casts the port agrees with torch in float64"
    return (Cause("lower_precision", f"values are cast to {'; '.join(low)}", "compute in torch's precision", seen),)


def rerun(evidence: Sequence[Evidence], leg: FlaxLeg, torch64: TorchLeg) -> tuple[Evidence, ...]:
    """The cases in which float32 is less accurate, with another Flax leg's float32 runs."""
    found = []
    for item in evidence:
        if not all(leaf.agrees for leaves in float32_errors(item) for leaf in leaves):
            reference = torch64.run(item.case) if item.condensed else item.reference
            flax32, gradients32 = flax_in_working_precision(leg, item.case, reference, item.error32)
            found.append(dataclasses.replace(item, flax32=flax32, gradients32=gradients32))
    return tuple(found)
