"""Pictures of a run as PNG files. The only file that imports matplotlib, without a display."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fcjax.diagnostics import Activations

__all__ = ["activation_histogram", "confusion_matrix", "curves", "predicted_against_true", "weight_heatmap"]

BINS = 50


def weight_heatmap(kernel: np.ndarray, path: str, file: Path) -> None:
    """The weights of one layer: input features across, units down; blue is negative, red positive, grey zero.

    Args:
        kernel: shape ``(in, out)``.
        path: the layer's name.
        file: PNG to write.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    bound = float(np.abs(kernel).max()) or 1.0  # symmetric, so that the middle colour is zero
    image = axes.imshow(kernel.T, cmap="coolwarm", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest")
    figure.colorbar(image, label="weight")
    axes.set(title=f"Weights of {path}", xlabel="input feature", ylabel="unit")
    figure.savefig(file, dpi=110)


def activation_histogram(activations: list[Activations], file: Path) -> None:
    """How the values of every layer are distributed: before the activation function and, drawn as a line, after it."""
    figure = Figure(figsize=(4.2 * len(activations), 3.6), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(activations), squeeze=False)[0], activations, strict=True):
        axes.hist(one.before.ravel(), bins=BINS, color="tab:blue", alpha=0.6, label="before")
        if one.after.shape != one.before.shape or not np.array_equal(one.after, one.before):
            axes.hist(one.after.ravel(), bins=BINS, color="tab:orange", histtype="step", linewidth=1.5, label="after")
        axes.set(title=one.path, xlabel="activation", ylabel="count", yscale="log")
        axes.legend()
    figure.savefig(file, dpi=110)


def curves(history: list[dict[str, Any]], file: Path) -> None:
    """Loss and the leading figure of every part over the epochs; of several replicas the mean, with their range."""
    parts = [part for part in ("train", "validation", "test") if part in history[0]]
    metric = "accuracy" if "accuracy" in history[0][parts[-1]] else "rmse"
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [entry["epoch"] for entry in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        for part in parts:
            values = np.array([entry[part][name] for entry in history], float)  # (epochs, replicas)
            means = np.nanmean(values, axis=1)  # NaN where a replica had stopped early, and then left all numbers
            (line,) = axes.plot(epochs, means, label=part, marker="." if len(epochs) < 30 else None)
            if values.shape[1] > 1:
                low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
                axes.fill_between(epochs, low, high, alpha=0.2, color=line.get_color())
        axes.set(xlabel="epoch", ylabel="RMSE" if name == "rmse" else name)
        if name != "accuracy" and values.size and np.nanmax(values) > 0:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=110)


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...], file: Path) -> None:
    """How often each class was taken for each other one.

    Args:
        truth, predicted: labels of shape ``(n,)``.
        classes: their names.
        file: PNG to write.
    """
    count = len(classes)
    table = np.bincount(truth * count + predicted, minlength=count**2).reshape(count, count)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    size = 3.0 + 0.5 * min(count, 20)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class")
    if count <= 20:
        axes.set_xticks(range(count), classes, rotation=0 if max(map(len, classes)) < 4 else 45)
        axes.set_yticks(range(count), classes)
        for row, column in np.argwhere(table):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=8)
    right = 100 * float(np.mean(truth == predicted))
    axes.set(title=f"Test set: {right:.2f} % right", xlabel="predicted", ylabel="true")
    figure.savefig(file, dpi=110)


def predicted_against_true(truth: np.ndarray, predicted: np.ndarray, file: Path) -> None:
    """Predictions over true values, one panel per output; on the line they are right.

    Args:
        truth, predicted: shape ``(n, outputs)``.
        file: PNG to write.
    """
    outputs = truth.shape[1]
    figure = Figure(figsize=(5 * outputs, 5), layout="constrained")
    for k, axes in enumerate(figure.subplots(1, outputs, squeeze=False)[0]):
        axes.scatter(truth[:, k], predicted[:, k], s=6 if len(truth) > 500 else 16, alpha=0.5, linewidths=0)
        ends = [float(truth[:, k].min()), float(truth[:, k].max())]
        axes.plot(ends, ends, color="black", linewidth=1)
        rmse = float(np.sqrt(np.mean((truth[:, k] - predicted[:, k]) ** 2)))
        axes.set(title=f"Test set: RMSE {rmse:.4g}", xlabel="true", ylabel="predicted")
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
