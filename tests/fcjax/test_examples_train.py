"""The two training scripts run alone and learn; MNIST's accuracy where its files are."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "2"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def last_number(line: str, after: str) -> float:
    found = re.search(after + r" ([\d.]+)", line)
    assert found, line
    return float(found.group(1))


def test_train_mnist_falls_back_to_the_digits() -> None:
    lines = run("train_mnist.py", "--epochs", "4", "--batch-size", "64")
    assert lines[0] == "no --data-dir: training on the embedded digits instead of MNIST"
    assert lines[1].startswith("2 x cpu, 1437 images, 22 steps of 32 per device")
    assert last_number(lines[-1], "test accuracy") > 85  # 92 to 95 % are usual; 10 % is chance


def test_train_houses_learns() -> None:
    lines = run("train_houses.py", "--epochs", "2")
    assert last_number(lines[-2], "test RMSE") < 40  # the prices' standard deviation is 97
    assert last_number(lines[-1], "RMSE") == 20


@pytest.mark.data
def test_mnist_reaches_its_accuracy_with_the_defaults(tmp_path: Path) -> None:
    folder = os.environ.get("FCJAX_TEST_DATA")
    if not folder:
        pytest.skip("MNIST's files: set FCJAX_TEST_DATA to the folder that holds mnist/")
    arguments = ["train", "mnist", "--data-dir", str(Path(folder) / "mnist"), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "fcjax", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test"]["accuracy"][0] >= 0.982
