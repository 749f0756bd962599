"""A3 as a whole process: start, imports, data, compilation, training and evaluation after each epoch.

    python -m benchmarks.processes [--data-dir DIR] [--epochs 5] [--batch-size 128] [--rounds 3]

fcjax is its own command line, cold (an empty cache of compiled programs) and warm; PyTorch is the tutorial's script
(eager, DataLoader) and the same over resident tensors with the fused Adam. Without MNIST's files all train on images of
noise, as many and as large, and no accuracy is reached. Peak memory is that of each process.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.rounds import Row, machine, missing, options, save
from fcjax.datasets.idx import format_idx

__all__ = ["Process", "main", "run"]

# Accuracies whose time is told, in per cent.
GOALS = (97.0, 98.0)

TORCH_SCRIPT = """
import sys
import torch
from torch.nn.functional import nll_loss
from torch.utils.data import DataLoader, TensorDataset
from compare.models.torch_models import MNISTClassifier
from fcjax.datasets import load

folder, epochs, batch_size, resident = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "resident"
data = load("mnist", folder)
tensors = lambda split: ((torch.from_numpy(split.inputs).float() - 33.3) / 78.6, torch.from_numpy(split.targets).long())
x, y = tensors(data.train)
test_x, test_y = tensors(data.test)
torch.manual_seed(0)
model = MNISTClassifier()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=resident)
loader = DataLoader(TensorDataset(x, y), batch_size, shuffle=True)
for epoch in range(epochs):
    model.train()
    for images, labels in ((x[r], y[r]) for r in torch.randperm(len(x)).split(batch_size)) if resident else loader:
        optimizer.zero_grad()
        nll_loss(model(images), labels).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        accuracy = float((model(test_x).argmax(dim=1) == test_y).float().mean())
        print(f"epoch {epoch + 1}: test accuracy {100 * accuracy:.2f} %", flush=True)
"""


@dataclass(frozen=True)
class Process:
    """What one process showed.

    Args:
        seconds: from its start to its end.
        megabytes: its peak memory.
        reached: for each of ``GOALS`` the seconds until it printed such an accuracy, None where it never did.
    """

    seconds: float
    megabytes: float
    reached: tuple[float | None, ...]


def noise(folder: Path) -> Path:
    """Files of noise where MNIST's would be."""
    random = np.random.default_rng(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = random.integers(0, 10, count).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(format_idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(format_idx(labels))
    return folder


def run(command: list[str], environment: dict[str, str]) -> Process:
    """Runs one process and reads what it prints.

    Raises:
        RuntimeError: it did not end well.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reached: list[float | None] = [None] * len(GOALS)
    for line in process.stdout:
        found = re.search(r"accuracy ([0-9.]+) ?%", line)
        for number, goal in enumerate(GOALS):
            if found and reached[number] is None and float(found[1]) >= goal:
                reached[number] = time.perf_counter() - started
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} ended with status {process.returncode}")
    return Process(time.perf_counter() - started, usage.ru_maxrss / 1024, tuple(reached))


def commands(here: Path, data: Path, epochs: int, batch_size: int) -> dict[str, tuple[list[str], dict[str, str]]]:
    """The contenders: command line and environment of each."""
    sizes = [str(epochs), str(batch_size)]
    train = [sys.executable, "-m", "fcjax", "train", "mnist", "--data-dir", str(data)]
    train += ["--run-dir", str(here / "run"), "--epochs", sizes[0], "--batch-size", sizes[1]]
    cache = {"FCJAX_CACHE": str(here / "cache")}
    script = [sys.executable, "-c", TORCH_SCRIPT, str(data), *sizes]
    return {
        "fcjax, cold": (train, cache),
        "fcjax, warm": (train, cache),
        "torch, DataLoader": ([*script, "loader"], {}),
        "torch, resident, fused Adam": ([*script, "resident"], {}),
    }


def summarised(name: str, found: list[Process]) -> Row:
    """Medians over rounds."""
    row: Row = {
        "contender": name,
        "seconds": statistics.median(one.seconds for one in found),
        "megabytes": max(one.megabytes for one in found),
    }
    for number, goal in enumerate(GOALS):
        times = [one.reached[number] for one in found]
        known = [seconds for seconds in times if seconds is not None]
        row[f"seconds_to_{goal:g}"] = statistics.median(known) if len(known) == len(times) else None
    return row


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = options(__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        contenders = commands(here, chosen.data_dir or noise(here), chosen.epochs, chosen.batch_size)
        seen: dict[str, list[Process]] = {name: [] for name in contenders}
        for _ in range(chosen.rounds):
            shutil.rmtree(here / "cache", ignore_errors=True)
            for name, (command, environment) in contenders.items():
                shutil.rmtree(here / "run", ignore_errors=True)
                try:
                    seen[name].append(run(command, environment))
                except RuntimeError as error:
                    missing(name, error)
    rows = [
        {"epochs": chosen.epochs, "batch_size": chosen.batch_size} | summarised(name, found)
        for name, found in seen.items()
        if found
    ]
    article = next((row["seconds"] for row in rows if row["contender"] == "torch, DataLoader"), None)
    for row in rows:
        against = f", {row['seconds'] / article:.2f} of the tutorial's" if article else ""
        goals = [(goal, row[f"seconds_to_{goal:g}"]) for goal in GOALS]
        times = ", ".join(f"{goal:g} % after {s:.1f} s" for goal, s in goals if s is not None) or "no goal reached"
        print(f"  {row['contender']:30} {row['seconds']:6.1f} s{against}; {times}; peak {row['megabytes']:,.0f} MB")
    save(chosen.json, "processes", rows)


if __name__ == "__main__":
    main()
