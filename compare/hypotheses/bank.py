"""The bank: for a torch call, everything that a port may compute in its place."""

from collections.abc import Iterator

from compare.hypotheses.activations import ACTIVATIONS
from compare.hypotheses.arithmetic import ARITHMETIC, constants, stopped_gradient
from compare.hypotheses.edit import CallSite
from compare.hypotheses.layers import LAYERS
from compare.hypotheses.norms import NORMS
from compare.hypotheses.variant import Variant

__all__ = ["variants"]

_BANK = {**ACTIVATIONS, **NORMS, **LAYERS, **ARITHMETIC}


def variants(site: CallSite) -> Iterator[Variant]:
    """All variants of the call at ``site``."""
    for maker in _BANK.get(site.function, ()):
        yield from maker(site)
    yield from constants(site)
    yield stopped_gradient(site)
