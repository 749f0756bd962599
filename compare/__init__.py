"""Is a PyTorch-to-Flax port right, where does it go wrong, and what is the mistake?"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compare.checking import assert_port as assert_port
    from compare.checking import check as check
    from compare.conversion import convert as convert
    from compare.laws.dropout import check_dropout as check_dropout
    from compare.laws.initialization import check_initialization as check_initialization
    from compare.mutation import mutation_score as mutation_score
    from compare.port import Port as Port
    from compare.result import Cause as Cause
    from compare.result import CheckResult as CheckResult
    from compare.result import Divergence as Divergence
    from compare.result import MutationScore as MutationScore
    from compare.result import Report as Report
    from compare.result import UsageError as UsageError
    from compare.structure import Call as Call
    from compare.structure import Inputs as Inputs
    from compare.training.checking import check_training as check_training

# Loaded on first use (PEP 562), so that ``python -m compare --help`` imports neither jax nor torch.
_HOMES = {
    "assert_port": "compare.checking",
    "check": "compare.checking",
    "convert": "compare.conversion",
    "check_dropout": "compare.laws.dropout",
    "check_initialization": "compare.laws.initialization",
    "check_training": "compare.training.checking",
    "Port": "compare.port",
    "Call": "compare.structure",
    "Inputs": "compare.structure",
    "Cause": "compare.result",
    "CheckResult": "compare.result",
    "Divergence": "compare.result",
    "MutationScore": "compare.result",
    "mutation_score": "compare.mutation",
    "Report": "compare.result",
    "UsageError": "compare.result",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compare' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
