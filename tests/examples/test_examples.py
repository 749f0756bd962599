"""Every numbered example runs, and prints what its header promises."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = {path.name[:2]: path for path in sorted((Path(__file__).parents[2] / "examples").glob("[0-9][0-9]_*.py"))}
Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs an example by its number in this process, which spares starting jax each time, and gives what it printed.

    ``old`` and ``new`` plant a mistake: a text of the example and what to put in its place.
    """

    def run(number: str, *arguments: str, old: str = "", new: str = "") -> str:
        path = EXAMPLES[number]
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        source = path.read_text()
        assert old in source
        exec(compile(source.replace(old, new) if old else source, str(path), "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return run


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"[-+]?\d[\d,]*(?:\.\d*)?(?:e[-+]\d+)?", text.replace(",", ""))]


def line(text: str, start: str) -> str:
    (found,) = (row for row in text.splitlines() if row.startswith(start))
    return found.removeprefix(start)


def test_every_example_is_tested_and_says_how_to_run_it() -> None:
    tested = {name[5:7] for name in globals() if re.fullmatch(r"test_\d\d_.*", name)}
    assert tested == set(EXAMPLES)
    for path in EXAMPLES.values():
        header = path.read_text().split('"""')[1]
        assert f"python examples/{path.name}" in header
        assert "Expected: " in header
        assert len(path.read_text().splitlines()) <= 100


def test_01_dimensions_and_parameters(run: Run) -> None:
    text = run("01")
    # Eight digits are printed; one sample and a batch may differ by a rounding in the last of them.
    np.testing.assert_allclose(numbers(line(text, "layer1 by hand:")), numbers(line(text, "layer1:  ")), atol=1e-5)
    one, row = (re.findall(r"-?\d\.\d+", line(text, f"model, {which}:")) for which in ("one sample", "row 0 of four"))
    np.testing.assert_allclose([float(n) for n in one], [float(n) for n in row], atol=1e-5)
    assert "(2,)" in line(text, "model, one sample:")
    assert "(4, 2)" in line(text, "model, row 0 of four:")
    assert "4 x 3  4 x 5           20" in text
    assert "4 x 5  4 x 2           12" in text
    assert line(text, "by the state:").split() == ["32"]
    assert line(text, "by the formula:").endswith("= 32")


def consistency(text: str) -> tuple[float, float]:
    """The largest differences in float32 and float64."""
    single, double = (numbers(row)[-1] for row in text.splitlines() if row.startswith("largest difference"))
    return single, double


def test_02_consistency(run: Run) -> None:
    pytest.importorskip("torch")
    text = run("02")
    assert "INPUTS = [[3.1, 1.3, 1.2], [2.1, 1.3, 13]]" in EXAMPLES["02"].read_text()
    single, double = consistency(text)
    assert single < 1e-5
    assert double < 1e-14
    assert len(set(re.findall(r"--- (float\d\d)", text))) == 2
    assert sum(row.startswith(("PyTorch", "Flax", "NumPy")) for row in text.splitlines()) == 6


def test_twin_02_a_planted_mistake_is_seen(run: Run) -> None:
    pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"same shape, got \(3,\) and \(5,\)"):
        run("02", old="detach().numpy().T", new="detach().numpy()")
    single, double = consistency(run("02", old="(theirs.bias", new="(0 * theirs.bias"))
    assert min(single, double) > 0.01


def test_03_linear_collapse(run: Run) -> None:
    text = run("03")
    assert numbers(line(text, "parameters of the stack:")) == [83]
    assert numbers(line(text, "parameters of the one layer:")) == [15]
    assert numbers(line(text, "largest difference:"))[0] < 1e-13
    assert numbers(line(text, "with ReLU between the layers:"))[0] > 0.1
    assert numbers(line(text, "midpoint error, linear:"))[0] < 1e-13
    assert numbers(line(text, "midpoint error, with ReLU:"))[0] > 1e-3


def test_04_with_and_without_activation(run: Run) -> None:
    text = run("04")
    hidden, cut = (np.array(numbers(line(text, f"hidden, {how}:"))) for how in ("without activation", "with ReLU"))
    np.testing.assert_array_equal(cut, np.maximum(hidden, 0))
    assert (hidden < 0).any()
    assert (hidden > 0).any()
    plain, active = (np.array(numbers(line(text, f"output, {how}:"))) for how in ("without activation", "with ReLU"))
    assert np.abs(plain - active).max() > 0.1
    assert line(text, "without activation:") == " f(2x) = 2 f(x) is True, f(-x) = -f(x) is True"
    assert line(text, "with ReLU:").strip() == "f(2x) = 2 f(x) is True, f(-x) = -f(x) is False"


def test_05_activations(run: Run, tmp_path: Path) -> None:
    text = run("05", str(tmp_path / "activations.png"))
    table = {row.split()[0]: numbers(row.split(maxsplit=1)[1])[:6] for row in text.splitlines()[1:11]}
    assert table["relu"] == [0, 0, 2, 0, 0, 1]
    assert table["sigmoid"][4] == 0.25 == max(table["sigmoid"][3:])
    assert table["gelu"] != table["gelu_tanh"]
    assert (tmp_path / "activations.png").read_bytes().startswith(b"\x89PNG")
    assert "-inf" in line(text, "log of softmax, the naive way:")
    assert "inf" not in line(text, "log_softmax, with a likelihood loss:")


def test_06_initialisation(run: Run) -> None:
    before, after = run("06").split("after init_weights")
    for part, bound in ((before, 1), (after, 2)):
        for row in (row.split() for row in part.splitlines() if row.startswith("layers.")):
            # The largest of 320 draws or more is within a few per cent of the bound; both are printed to four digits.
            assert 0.95 * float(row[1 + bound]) < float(row[1]) <= float(row[1 + bound]) + 1e-4
    assert after.count("+0.0100 to +0.0100") == 3
    assert "+0.0100 to +0.0100" not in before
    assert all(
        0.9 < number < 1.1 for number in numbers(line(after, "kaiming_normal, standard deviation / sqrt(2 / in):"))
    )


def test_07_batch_against_single(run: Run) -> None:
    rows = [numbers(row) for row in run("07").splitlines()[2:]]
    assert [row[0] for row in rows] == [1, 2, 8, 32, 128, 512, 1024]
    assert all(row[1] > 0 and row[2] > 0 for row in rows)  # times are shown, never judged
    assert all(row[-1] < 1e-5 for row in rows)  # log-probabilities of order 1 to 3 in float32
