"""Five epochs of A3 as a whole process: start, imports, data, compilation, training and evaluation after each epoch.

    python -m benchmarks.processes [--data-dir DIR] [--epochs 5] [--batch-size 128] [--rounds 3]

fcjax is its own command line, cold (an empty cache of compiled programs) and warm; PyTorch is the tutorial's script
(eager, DataLoader) and the same over resident tensors with the fused Adam. Without MNIST's files all train on images of
noise, as many and as large. Peak memory is that of each process.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rounds import machine, missing
from fcjax.datasets.idx import format_idx

__all__ = ["main"]

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
for _ in range(epochs):
    model.train()
    for images, labels in ((x[r], y[r]) for r in torch.randperm(len(x)).split(batch_size)) if resident else loader:
        optimizer.zero_grad()
        nll_loss(model(images), labels).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(float((model(test_x).argmax(dim=1) == test_y).float().mean()))
"""


def noise(folder: Path) -> Path:
    """Files of noise where MNIST's would be."""
    random = np.random.default_rng(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = random.integers(0, 10, count).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(format_idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(format_idx(labels))
    return folder


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall time in seconds and peak memory in MB of one process.

    Raises:
        RuntimeError: it did not end well.
    """
    started = time.perf_counter()
    silent = os.open(os.devnull, os.O_WRONLY)
    process = os.posix_spawn(
        command[0], command, os.environ | environment, file_actions=[(os.POSIX_SPAWN_DUP2, silent, 1)]
    )
    _, status, usage = os.wait4(process, 0)
    os.close(silent)
    if status:
        raise RuntimeError(f"{' '.join(command[1:4])} ended with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        data = chosen.data_dir or noise(here)
        sizes = [str(chosen.epochs), str(chosen.batch_size)]
        train = [
            sys.executable,
            "-m",
            "fcjax",
            "train",
            "mnist",
            "--data-dir",
            str(data),
            "--run-dir",
            str(here / "run"),
        ]
        train += ["--epochs", sizes[0], "--batch-size", sizes[1]]
        script = [sys.executable, "-c", TORCH_SCRIPT, str(data), *sizes]
        contenders = {
            "fcjax, cold": (train, {"FCJAX_CACHE": str(here / "cache")}),
            "fcjax, warm": (train, {"FCJAX_CACHE": str(here / "cache")}),
            "torch, DataLoader": ([*script, "loader"], {}),
            "torch, resident, fused Adam": ([*script, "resident"], {}),
        }
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(chosen.rounds):
            shutil.rmtree(here / "cache", ignore_errors=True)
            for name, (command, environment) in contenders.items():
                shutil.rmtree(here / "run", ignore_errors=True)
                try:
                    seen[name].append(run(command, environment))
                except RuntimeError as error:
                    missing(name, error)
        article = [seconds for seconds, _ in seen["torch, DataLoader"]]
        for name, found in seen.items():
            if found:
                seconds = statistics.median(s for s, _ in found)
                against = f", {seconds / statistics.median(article):.2f} of the tutorial's" if article else ""
                print(
                    f"  {name:30} {seconds:6.1f} s{against}; peak {max(peak for _, peak in found):,.0f} MB", flush=True
                )


if __name__ == "__main__":
    main()
