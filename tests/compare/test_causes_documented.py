"""docs/causes.md lists the causes that exist, and all of those that training and the laws name."""

import itertools
import re
from pathlib import Path
from typing import Any

from compare.hypotheses import bank
from compare.hypotheses.arguments import NAMES
from compare.hypotheses.causes import CAUSES, table
from compare.hypotheses.edit import CallSite
from compare.hypotheses.gradients import gradient_changes

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "causes.md").read_text(encoding="utf-8")
LISTED = {
    name
    for line in DOCS.splitlines()
    if line.startswith("| ") and not line.startswith("| name")
    for name in line.split("|")[1].strip().split(", ")
}
SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("training", "laws")
    for path in (ROOT / "compare" / folder).glob("*.py")
)


def test_every_cause_in_the_docs_exists() -> None:
    # A law's name is put together from its family and form.
    laws = {
        f"{family}_{form}"
        for family in ("lecun", "he", "xavier")
        for form in ("uniform", "normal", "normal_untruncated", "normal_fan_out")
    }
    for name in LISTED - CAUSES.keys():
        law = name.removeprefix("init_")
        assert f'"{name}"' in SOURCES or f'"{law}"' in SOURCES or law in laws, name


def test_every_cause_in_the_code_is_in_the_docs() -> None:
    named = set(re.findall(r'(?:Cause|Mistake|_cause)\(\s*"([a-z][a-z0-9_]+_[a-z0-9_]+)"', SOURCES))
    named |= set(re.findall(r'(?:_every|Mistake)\(\s*"[a-z0-9]+",\s*"([a-z0-9_]+)"', SOURCES))
    named |= set(re.findall(r'\(\s*"((?:clip|warmup|schedule|staircase|loss_scale|decay|nesterov)_[a-z_]+)",', SOURCES))
    assert len(named) > 50
    assert named - LISTED == set()


def test_the_table_of_check_is_the_one_in_the_code() -> None:
    assert table() in DOCS


def site(function: str, rank: int) -> CallSite:
    shape = (4,) * rank
    arguments: dict[str | int, Any] = {
        "eps": 1e-5,
        "dim": 0,
        "is_causal": False,
        "mode": "bilinear",
        7: True,
        "padding_idx": 1,
    }
    return CallSite(1, function, "fc", (shape,) * 3, (0.5,), shape, ("", "", ""), arguments, repeat=lambda x: x)


def test_every_hypothesis_of_the_bank_has_its_line() -> None:
    sites = [site(function, rank) for function in [*bank.FUNCTIONS, "other"] for rank in (1, 3, 4)]
    families = (bank.variants, bank.general_variants, gradient_changes)
    named = {name for one, family in itertools.product(sites, families) for name, *_ in family(one)}
    named |= {
        knob.name(v) for one in sites for knob in [*bank.knobs(one), *bank.scales(one)] for v in (0.25, -0.5, 2.0)
    }
    named |= set(NAMES.values())
    assert len(named) > 100
    assert named - CAUSES.keys() == set()
