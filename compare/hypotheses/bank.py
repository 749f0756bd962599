"""The bank: for a torch call, everything that a port may compute in its place."""

from collections.abc import Iterator

from compare.hypotheses.activations import ACTIVATIONS, activation_knobs
from compare.hypotheses.arguments import argument_knobs, default_arguments, other_arguments
from compare.hypotheses.arithmetic import ARITHMETIC
from compare.hypotheses.attention import ATTENTION
from compare.hypotheses.edit import CallSite
from compare.hypotheses.indexing import INDEXING
from compare.hypotheses.layers import LAYERS
from compare.hypotheses.norms import NORMS, norm_knobs
from compare.hypotheses.operands import array_changes, extra_calls, reorderings, scale_knobs
from compare.hypotheses.parts import part_orders
from compare.hypotheses.recurrent import RECURRENT
from compare.hypotheses.variant import Knob, Variant

__all__ = ["FUNCTIONS", "general_variants", "knobs", "scales", "variants"]

_BANK = {**ACTIVATIONS, **NORMS, **LAYERS, **ARITHMETIC, **INDEXING, **RECURRENT, **ATTENTION}

FUNCTIONS = tuple(_BANK)
"""The calls that the bank knows."""


def variants(site: CallSite) -> Iterator[Variant]:
    """What is known to go wrong in the call at ``site``."""
    yield from default_arguments(site)
    for maker in _BANK.get(site.function, ()):
        yield from maker(site)
    yield from other_arguments(site)


def general_variants(site: CallSite) -> Iterator[Variant]:
    """What may go wrong in any call."""
    yield from reorderings(site)
    yield from part_orders(site)
    yield from extra_calls(site)
    yield from array_changes(site)


def knobs(site: CallSite) -> Iterator[Knob]:
    """Numbers of the call that may have any other value."""
    yield from norm_knobs(site)
    yield from activation_knobs(site)
    if site.function not in NORMS:
        yield from argument_knobs(site)


def scales(site: CallSite) -> Iterator[Knob]:
    """Factors and terms that torch does not have."""
    yield from scale_knobs(site)
