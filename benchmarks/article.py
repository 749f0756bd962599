"""The article's recipe on MNIST in PyTorch: how accurate it is, seed by seed, beside a finished run of fcjax.

    fcjax train mnist --data-dir DIR --preset article --seeds 5 --run-dir RUN
    python -m benchmarks.article --data-dir DIR --seeds 5 --run RUN

Adam at 1e-3, batches of 128, 20 epochs at a constant rate, dropout 0.2, the last uneven batch included; images are
scaled by the same mean and deviation. Each line has the mean over seeds and its 95 % confidence interval, by Student's
law. Expect both intervals within 98.1 % to 98.4 %, and that they overlap.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import nll_loss

from compare.models.torch_models import MNISTClassifier
from fcjax.datasets import Scaling, Split, load

# Student's 97.5 % quantile by degrees of freedom, for up to ten seeds.
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def tensors(split: Split, scaling: Scaling) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled images ``(n, 28, 28)`` and labels."""
    return torch.from_numpy(scaling.apply(split.inputs)), torch.from_numpy(split.targets).long()


def train(
    seed: int, images: torch.Tensor, labels: torch.Tensor, epochs: int = 20, batch_size: int = 128
) -> MNISTClassifier:
    """The article's training loop."""
    torch.manual_seed(seed)
    model = MNISTClassifier().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch_size):
            optimizer.zero_grad()
            nll_loss(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: MNISTClassifier, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose likeliest class is right."""
    return float((model(images).argmax(dim=1) == labels).float().mean())


def interval(values: list[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean: ``mean ± t s / √n``."""
    half = STUDENT[len(values) - 2] * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values) - half), float(np.mean(values) + half)


def describe(name: str, values: list[float]) -> str:
    """Mean, standard deviation, interval and each value, in per cent."""
    low, high = interval(values)
    each = ", ".join(f"{100 * value:.2f}" for value in values)
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    return (
        f"{name}: {100 * mean:.3f} ± {100 * deviation:.3f} %, "
        f"mean between {100 * low:.3f} and {100 * high:.3f} %  ({each})"
    )


def main() -> None:
    """Trains in PyTorch and prints both lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--run", type=Path, help="folder of the finished run of fcjax")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = load("mnist", arguments.data_dir)
    assert dataset.input_scaling is not None
    training, test = (tensors(split, dataset.input_scaling) for split in (dataset.train, dataset.test))
    found = []
    for seed in range(arguments.seeds):
        found.append(accuracy(train(seed, *training), *test))
        print(f"torch, seed {seed}: {100 * found[-1]:.2f} %", flush=True)
    print(describe("torch", found))
    if arguments.run:
        summary = json.loads((arguments.run / "summary.json").read_text(encoding="utf-8"))
        print(describe("fcjax", summary["test"]["accuracy"]))


if __name__ == "__main__":
    main()
