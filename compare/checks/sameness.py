"""Do outputs and gradients agree in one case, ties and zeros included?"""

from compare.checks.gradients import check_gradients
from compare.checks.outputs import check_outputs
from compare.evidence import Evidence

__all__ = ["same"]


def same(item: Evidence, strict: bool = True) -> bool:
    """Whether both sides compute the same in this case; unless ``strict``, but for what right ports may do."""
    return "failed" not in (check_outputs([item], strict).status, check_gradients([item], strict).status)
