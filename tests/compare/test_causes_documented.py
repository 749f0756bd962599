"""docs/causes.md lists the causes that exist, and all of those that training and the laws name."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTED = {
    name
    for line in (ROOT / "docs" / "causes.md").read_text(encoding="utf-8").splitlines()
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
    for name in LISTED:
        law = name.removeprefix("init_")
        assert f'"{name}"' in SOURCES or f'"{law}"' in SOURCES or law in laws, name


def test_every_cause_in_the_code_is_in_the_docs() -> None:
    named = set(re.findall(r'(?:Cause|Mistake|_cause)\(\s*"([a-z][a-z0-9_]+_[a-z0-9_]+)"', SOURCES))
    named |= set(re.findall(r'(?:_every|Mistake)\(\s*"[a-z0-9]+",\s*"([a-z0-9_]+)"', SOURCES))
    named |= set(re.findall(r'\(\s*"((?:clip|warmup|schedule|staircase|loss_scale|decay|nesterov)_[a-z_]+)",', SOURCES))
    assert len(named) > 50
    assert named - LISTED == set()
