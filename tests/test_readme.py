"""What the README prints runs as printed."""

import re
import runpy
from pathlib import Path

import pytest

import compare

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    """The Python blocks, in order."""
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_every_public_name_exists() -> None:
    for name in compare.__all__:
        assert getattr(compare, name) is not None
    for name in re.findall(r"compare\.(\w+)\(", README):
        assert name in compare.__all__, name


def test_the_port_of_the_first_page_has_both_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "my_port.py"
    file.write_text(blocks()[0])
    names = runpy.run_path(str(file))
    import numpy as np

    inputs = np.random.default_rng(0).standard_normal((8, 12))
    report = compare.check(names["TorchBlock"](), names["make_flax"](), inputs)
    assert [cause.name for cause in report.causes] == ["norm_epsilon", "gelu_approximation"]


def test_the_library_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    block = next(block for block in blocks() if "fcjax.fit(" in block)
    assert "epochs=5" in block
    names: dict[str, object] = {}
    exec(block.replace("epochs=5", "epochs=1"), names)
    accuracy = names["result"].summary["test"]["accuracy"]  # type: ignore[attr-defined]
    assert isinstance(accuracy, list)
    assert accuracy[0] > 0.5
