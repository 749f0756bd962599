"""In which order both models call their modules."""

import dataclasses

from compare.evidence import Legs
from compare.legs.run import Case

__all__ = ["call_orders"]


def call_orders(legs: Legs, case: Case) -> tuple[list[str], list[str]] | None:
    """Names of the modules of both sides in the order of their first calls; None where one of them does not run.

    Args:
        legs: of the port; the mapping of the Flax legs need not be known.
        case: without cotangents.
    """
    try:
        if legs.torch64.mode == "train":
            case = dataclasses.replace(case, masks=legs.torch64.record_masks(case, seed=0))
        ours = [checkpoint.module for checkpoint in legs.torch64.run(case, trace=True).checkpoints]
        theirs = legs.flax32.calls(case)  # carries of a scan may not be traceable in 64-bit mode
    except Exception:  # the checks say so in their own words
        return None
    return list(dict.fromkeys(ours)), list(dict.fromkeys(theirs))
