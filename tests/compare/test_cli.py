"""The command line: exit codes, one sentence for every mistake of the user, and a help that is quick."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compare import cli
from compare.models import torch_models
from compare.report import table

pytestmark = pytest.mark.usefixtures("small_programs")

EXAMPLE = """
    import jax, numpy as np, torch
    import compare, fcjax
    from flax import nnx
    from compare.models import torch_models

    def make_torch():
        torch.manual_seed(0)
        return torch_models.TorchModelWithActivation(3, 5, 2)

    def make_flax():
        return fcjax.FlaxModelWithActivation(3, 5, 2, rngs=nnx.Rngs(0))

    def make_linear():
        return fcjax.FlaxModel(3, 5, 2, rngs=nnx.Rngs(0))

    def make_picky():
        model = make_flax()
        model.layer1 = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
        return model

    class Crash(fcjax.FlaxModelWithActivation):
        def __call__(self, x):
            raise RuntimeError("not today")

    def make_crash():
        return Crash(3, 5, 2, rngs=nnx.Rngs(0))

    class Silent(torch.nn.Module):
        def forward(self, x):
            return x / 0 * 0

    class FlaxSilent(nnx.Module):
        def __call__(self, x):
            return x * jax.numpy.nan

    def make_broken():
        raise ValueError("no such size")

    port = compare.Port(make_torch(), make_flax(), np.ones((2, 3), np.float32), name="mine")

    def make_port():
        return port

    number = 3
"""


@pytest.fixture(scope="module")
def _example(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("user")
    (folder / "user_code_of_test_cli.py").write_text(textwrap.dedent(EXAMPLE))
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error; ``@`` stands for the user's module."""
    with pytest.raises(SystemExit) as left:
        cli.main([argument.replace("@", "user_code_of_test_cli:") for argument in arguments])
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "@port"], 0, "mine: passed"),
        (["check", "@make_port"], 0, "mine: passed"),
        (["check", "@make_torch", "@make_flax", "--input", "4x3"], 0, "TorchModelWithActivation: passed"),
        (["check", "@make_torch", "@make_flax", "--input", "4x3:float64", "--train"], 0, "mode train"),
        (["check", "@make_torch", "@make_linear", "--input", "4x3"], 1, "FAIL outputs"),
        (["check", "@make_torch", "@make_picky", "--input", "4x3"], 1, "layer1.kernel: expected shape (3, 5)"),
        (["check", "@make_torch", "@make_crash", "--input", "4x3"], 1, "does not run on inputs that torch takes"),
        (["check", "@Silent", "@FlaxSilent", "--input", "4x3"], 3, "not finite in any case"),
    ],
)
@pytest.mark.usefixtures("_example")
def test_check(capsys: Any, arguments: list[str], code: int, words: str) -> None:
    found, out, err = run(capsys, *arguments)
    assert found == code, out + err
    assert words in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Expected one of {models, check, convert}"),
        (["modles"], "Unrecognized options: modles; did you mean models?"),
        (["models", "--jsno", "x"], "Unrecognized options: --jsno, x; did you mean --json?"),
        (["check", "--seed", "x", "@port"], "Error parsing --seed: "),
        (["convert", "a", "b", "--torch", "c", "--flax", "d", "--to", "jax"], "invalid choice 'jax'"),
        (["check", "nothing.here:port"], "nothing.here can't be imported: ModuleNotFoundError"),
        (["check", "no_colon"], "expected an import path such as package.module:name"),
        (["check", "@absent"], "user_code_of_test_cli has no 'absent'"),
        (["check", "@number"], "expected a compare.Port or a function that returns one, found builtins.int"),
        (["check", "@make_torch"], "expected a compare.Port or a function that returns one"),
        (["check", "@make_broken"], "calling it raised ValueError: no such size"),
        (["check", "@port", "--input", "4x3"], "is a Port, which holds its own inputs"),
        (["check", "@make_torch", "@make_flax"], "expected the shape of each input"),
        (["check", "@make_torch", "@number", "--input", "4x3"], "expected a function, found builtins.int"),
        (["check", "@make_flax", "@make_torch", "--input", "4x3"], "torch_model: expected a torch.nn.Module"),
        (["check", "@make_torch", "@make_torch", "--input", "4x3"], "flax_model: expected a flax.nnx.Module"),
        (["check", "@make_torch", "@make_flax", "--input", "4xthree"], "expected sizes joined by x and a dtype"),
        (["check", "@make_torch", "@make_flax", "--input", "4x3:complex64"], "expected sizes joined by x"),
        (["check", "@make_torch", "@make_flax", "--input", "4x7"], "the torch model does not take these inputs"),
        (["check", "@make_torch", "@make_flax", "--input", "4x3:int32"], "the torch model does not take these inputs"),
        (["check", "@port", "--json", "/nowhere/at/all.json"], "/nowhere/at/all.json: can't be written"),
        (["convert", "absent.pt", "o.safetensors", "--torch", "@make_torch", "--flax", "@make_flax", "--to", "flax"],
         "absent.pt: expected a weights file, found nothing"),
        (["convert", "absent.pt", "o.safetensors", "--torch", "@make_flax", "--flax", "@make_torch", "--to", "flax"],
         "absent.pt"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_example")
def test_wrong_usage_is_one_sentence(capsys: Any, arguments: list[str], words: str) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2, err
    assert words in err
    assert err.startswith("compare: ")
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["frobnicate"], ["check"], ["models", "--colour"], ["convert", "a", "b"]])
def test_wrong_arguments_leave_with_2(capsys: Any, arguments: list[str]) -> None:
    assert run(capsys, *arguments)[0] == 2


@pytest.mark.usefixtures("_example")
def test_check_writes_its_report_as_json(capsys: Any, tmp_path: Path) -> None:
    code, _, _ = run(
        capsys, "check", "@make_torch", "@make_linear", "--input", "4x3", "--json", str(tmp_path / "r.json")
    )
    values = json.loads((tmp_path / "r.json").read_text())
    assert code == 1
    assert (values["passed"], values["status"]) == (False, "failed")


@pytest.mark.usefixtures("_example")
@pytest.mark.usefixtures("_example")
def test_a_seed_reaches_a_port(capsys: Any) -> None:
    assert "seed 0" in run(capsys, "check", "@port")[1]
    assert "seed 7" in run(capsys, "check", "@port", "--seed", "7")[1]


def test_convert_writes_a_file_and_keeps_it_on_error(capsys: Any, tmp_path: Path) -> None:
    model = torch_models.TorchModelWithActivation(3, 5, 2)
    source, target, back = tmp_path / "m.pt", tmp_path / "m.safetensors", tmp_path / "back.safetensors"
    torch.save(model.state_dict(), source)
    pair = ["--torch", "@make_torch", "--flax", "@make_flax"]
    assert run(capsys, "convert", str(source), str(target), *pair, "--to", "flax")[0] == 0
    assert run(capsys, "convert", str(target), str(back), *pair, "--to", "torch")[0] == 0
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in load_file(back).items())
    written = target.read_bytes()
    picky = ["--torch", "@make_torch", "--flax", "@make_picky"]
    code, _, err = run(capsys, "convert", str(source), str(target), *picky, "--to", "flax")
    assert code == 2
    assert "layer1.kernel: expected shape (3, 5) from layer1.weight, found (4, 5)" in err
    assert target.read_bytes() == written


@pytest.mark.parametrize("wrong", [False, True])
def test_models_prints_a_row_each_and_writes_json(capsys: Any, tmp_path: Path, monkeypatch: Any, wrong: bool) -> None:
    """With three of the ports, so that this is quick; all of them are checked elsewhere."""
    import dataclasses

    from compare import ports

    names = ["A1 TorchModel", "A4 Regressor", "A7 AdaptiveWidthLinear, hard"]
    few = {name: ports.PORTS[name] for name in names}
    regressor = ports.PORTS["A4 Regressor"]
    if wrong:
        few["A4 Regressor"] = lambda: dataclasses.replace(regressor(), formula=1)
    monkeypatch.setattr(ports, "PORTS", few)
    code, out, _ = run(capsys, "models", "--json", str(tmp_path / "t.json"))
    rows = json.loads((tmp_path / "t.json").read_text())
    assert code == (1 if wrong else 0)
    assert [row["name"] for row in rows] == names
    assert [row["passed"] for row in rows] == [True, not wrong, True]
    for row in rows:
        assert row["name"] in out
        assert set(row["parameters"]) == {"torch", "flax", "numpy", "formula"}
        for kind in ("output_error", "gradient_error"):
            assert row[kind]["float64"] < 1e-10
            assert row[kind]["float32"] < 1e-5
    assert rows[2]["gradient_flow"]["selector"]["torch"] == "none"
    assert f"{3 - wrong} of 3 passed" in out


@pytest.mark.parametrize("arguments", [[], ["models"], ["check"], ["convert"]], ids=" ".join)
def test_help_imports_neither_framework(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom compare.cli import main\ntry:\n main(sys.argv[1:])\nexcept SystemExit as left:\n"
        " found = {'jax', 'torch', 'flax', 'numpy'} & set(sys.modules)\n"
        " sys.exit(f'imported {found}' if found else left.code)"
    )
    command = [sys.executable, "-c", code, *arguments, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m compare" in done.stdout


def test_the_module_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "compare", "check", "nowhere:x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere can't be imported" in done.stderr


def test_a_table_of_reports_that_never_got_to_numbers() -> None:
    from compare.result import CheckResult, Report

    report = Report("lost", (CheckResult("outputs", "failed", "it does not run"),))
    assert "0 of 1 passed" in table.table([report])
