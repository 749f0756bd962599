"""Where float32 is judged: a tenfold error on the user's inputs fails, on extreme cases of the check it is a note."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from compare.checks.precision import check_precision
from compare.evidence import Evidence
from compare.legs.run import TIES, Case, Run
from compare.structure import Call

ROUNDING = 1e-7
EXTREME: list[dict[str, Any]] = [{"driven": True}, {"cancels": True}, {"aside": TIES}]


def evidence(error: float, **circumstances: Any) -> Evidence:
    """One output whose float32 error is ``error`` in Flax, and one rounding in torch."""
    truth = np.array([1.0, -2.0])
    case = Case("a case", {}, Call((), {}), **circumstances)
    torch32, flax32 = (Run({"": truth + off}) for off in (ROUNDING, error))
    moved = Run({"": np.array(ROUNDING)})
    return Evidence(case, Run({"": truth}), moved, Run({"": truth}), torch32=torch32, error32=moved, flax32=flax32)


def test_less_accuracy_on_ordinary_inputs_fails() -> None:
    assert check_precision([evidence(100 * ROUNDING)], same_function=True).status == "failed"
    assert check_precision([evidence(3 * ROUNDING)], same_function=True).status == "passed"


@pytest.mark.parametrize("circumstances", EXTREME)
def test_less_accuracy_on_extreme_cases_alone_is_a_note(circumstances: dict[str, Any]) -> None:
    item = evidence(100 * ROUNDING, **circumstances)
    assert check_precision([evidence(ROUNDING), item], same_function=True).status == "noted"
    assert check_precision([evidence(ROUNDING), item], same_function=True, strict=True).status == "failed"
    assert check_precision([evidence(100 * ROUNDING), item], same_function=True).status == "failed"


@pytest.mark.parametrize("circumstances", EXTREME)
def test_infinite_where_torch_is_finite_fails_everywhere(circumstances: dict[str, Any]) -> None:
    item = evidence(ROUNDING, **circumstances)
    infinite = dataclasses.replace(item, flax32=Run({"": np.array([1.0, np.inf])}))
    assert check_precision([infinite], same_function=True).status == "failed"
