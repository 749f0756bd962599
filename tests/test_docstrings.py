"""The examples in docstrings run, and give what they print."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules() -> list[str]:
    """Every module of both packages that has an example in it."""
    files = [path for package in ("fcjax", "compare") for path in sorted((ROOT / package).rglob("*.py"))]
    with_examples = [path for path in files if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in with_examples]


def failures(name: str, module: object) -> list[str]:
    """What the module's examples print that they should not; NumPy and JAX are known to them by their usual names."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module, name):
        runner.run(test, out=said.append)
    return said


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module(name: str) -> None:
    if name.startswith("compare"):
        pytest.importorskip("torch")
    assert "".join(failures(name, importlib.import_module(name))) == ""


def test_a_wrong_example_is_caught() -> None:
    class Example:
        """
        >>> 1 + 1
        3
        """

    assert "Expected:\n    3\nGot:\n    2" in "".join(failures("Example", Example))
    assert "fcjax.datasets.idx" in modules()
