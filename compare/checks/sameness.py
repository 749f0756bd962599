"""Do outputs and gradients agree in one case, ties and zeros included?"""

from compare.checks.gradients import check_gradients
from compare.checks.outputs import check_outputs
from compare.evidence import Evidence

__all__ = ["same"]


def same(item: Evidence) -> bool:
    """Whether both sides compute the same in this case."""
    return "failed" not in (check_outputs([item], True).status, check_gradients([item], True).status)
