"""Where and why a Flax model drops other arrays than torch does."""

import dataclasses

import numpy as np

from compare.hypotheses.edit import Calls
from compare.legs.dropout import MaskMismatchError
from compare.legs.run import Case
from compare.legs.torch_leg import TorchLeg
from compare.result import Cause, Divergence

__all__ = ["mask_cause", "mask_place"]

_FIXES = {
    "dropout_on_in_eval": "model.eval(), deterministic=True, or train=False",
    "dropout_extra": "apply dropout where torch does, and nowhere else",
    "dropout_missing": "apply dropout where torch does; model.train()",
    "dropout_rate": "pass torch's rate",
    "dropout_broadcast": "drop the array that torch drops, entry by entry (broadcast_dims=())",
}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}


def mask_cause(error: MaskMismatchError, mode: str) -> Cause:
    """What is wrong, as far as the first mask that does not fit tells."""
    name = "dropout_on_in_eval" if mode == "eval" and error.kind == "dropout_extra" else error.kind
    seen = "torch's masks were replayed in the port up to there"
    return Cause(name, str(error), _FIXES[name], seen)


def mask_place(leg: TorchLeg, case: Case, error: MaskMismatchError, seed: int) -> Divergence | None:
    """The module in which torch draws that mask, or its last one."""
    calls = Calls(leg.model, recording=True)
    leg.run(dataclasses.replace(case, masks=leg.record_masks(case, seed)), edit=calls)
    drawing = [site.module for site in calls.sites if site.function in _DROPOUTS and site.arguments.get("training")]
    if not drawing:
        return None
    module = drawing[min(max(error.call - 1, 0), len(drawing) - 1)]
    return Divergence("forward", "inside", module, "", np.inf, 0.0)
