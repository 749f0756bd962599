"""The command line: light help, a whole run, and one sentence with exit code 2 for whatever the user gets wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcjax.cli import main

QUICK = ["--no-cache", "--epochs", "1", "--devices", "2", "--batch-size", "200"]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_imports_neither_jax_nor_torch(arguments: list[str]) -> None:
    program = f"""
import sys
from fcjax.cli import main
try:
    main({arguments})
except SystemExit as end:
    assert end.code == 0, end.code
print([name for name in ("jax", "flax", "torch", "sklearn", "matplotlib") if name in sys.modules])
"""
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "usage: fcjax" in done.stdout


def test_the_check_of_imports_sees_jax() -> None:
    done = python("-c", "import sys, fcjax; fcjax.fit; print('jax' in sys.modules)")
    assert done.stdout.strip() == "True"


def test_names_are_loaded_when_used() -> None:
    program = "import sys, fcjax; assert 'jax' not in sys.modules; [getattr(fcjax, name) for name in fcjax.__all__]"
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert set(dir(__import__("fcjax"))) >= {"MLP", "fit", "load"}
    with pytest.raises(AttributeError, match="'fcjax' has no attribute 'nonsense'"):
        _ = __import__("fcjax").nonsense


def test_a_run_on_the_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "digits", "--run-dir", "run", *QUICK])  # a relative folder, as the default one is
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "pmap on 2 devices (cpu), float32"
    assert out[1].startswith("MNISTClassifier, 535,818 parameters")
    assert out[2].startswith("epoch 1/1  loss ")
    assert out[-1] == "results in run"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["task"] == "digits"
    assert 0.1 < summary["test"]["accuracy"][0] <= 1.0


def test_output_that_nobody_reads_ends_quietly() -> None:
    command = [sys.executable, "-m", "fcjax", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as left:
        assert left.stdout is not None
        assert left.stderr is not None
        left.stdout.close()
        said = left.stderr.read()
    assert (left.returncode, said) == (141, "")


def test_the_module_runs_and_keeps_its_programs_in_the_cache(tmp_path: Path) -> None:
    """In a process of its own: the cache is a setting of the whole process."""
    arguments = ["-m", "fcjax", "train", "housing", "--epochs", "1", "--model", "mlp", "--hidden", "4", "--run-dir"]
    done = python(*arguments, str(tmp_path / "run"), FCJAX_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "cache").iterdir())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["model"] == "MLP"
    assert set(summary["test"]) == {"loss", "rmse", "mae", "r2"}


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fcjax.compilation_cache import use_compilation_cache

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FCJAX_CACHE", str(tmp_path / "file"))
    assert not use_compilation_cache()


def test_mistakes_are_found_before_jax_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x01" + bytes(8))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    folder = str(tmp_path)
    cases = {
        "cifar": ["train", "cifar"],
        "epochs": ["train", "digits", "--epochs", "0"],
        "activation": ["train", "digits", "--model", "mlp", "--activation", "rellu"],
        "data_dir": ["train", "digits", "--data-dir", folder],
        "magic number": ["train", "mnist", "--data-dir", folder],
        "found a run": ["train", "housing", "--run-dir", folder],
        "batch_size": ["train", "housing", "--batch-size", "10000000"],
    }
    program = f"""
import sys
from fcjax.cli import main
for arguments in {list(cases.values())}:
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 2, end.code
print([name for name in ("jax", "flax", "torch") if name in sys.modules])
"""
    done = python("-c", program)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    for words, line in zip(cases, done.stderr.splitlines(), strict=True):
        assert line.startswith("fcjax: ")
        assert words in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mlp", "--activation", "foo"], "activation: expected one of linear, relu, "),
        (["--epochs", "0"], "epochs: expected a whole number of at least 1, found 0"),
        (["--batch-size", "1438"], "batch_size: expected at most 1437, the size of the training set of digits; found"),
        (["--devices", "99"], "devices: expected cpu, gpu, or a number from 1 to 8"),
        (["--learning-rate", "nan"], "learning_rate: expected a finite number above 0, found nan"),
        (
            ["--learning-rate", "1e30", "--optimizer", "sgd", *QUICK],
            "epoch 1, step 8: expected a finite training loss, found nan",
        ),
    ],
)
def test_what_the_user_gets_wrong(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "digits", "--run-dir", str(tmp_path / "run"), "--no-cache", *arguments])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith(f"fcjax: {message}"), error
    assert error.count("\n") == 1


def test_missing_data_and_an_existing_run_are_one_sentence_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "mnist", "--data-dir", str(tmp_path / "nowhere"), "--run-dir", str(tmp_path / "run"), *QUICK])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "nowhere") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()

    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["train", "digits", "--run-dir", str(tmp_path / "old"), *QUICK])
    assert end.value.code == 2
    assert "expected a new run directory, found a run (config.json)" in capsys.readouterr().err
    assert (tmp_path / "old" / "config.json").read_text() == "mine"


def test_a_mistake_of_our_own_still_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr("fcjax.task_data.load", broken)
    with pytest.raises(ValueError, match="ours"):
        main(["train", "digits", "--run-dir", str(tmp_path / "run"), *QUICK])
