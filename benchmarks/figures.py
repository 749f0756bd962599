"""Pictures of what the benchmarks measured.

    python -m benchmarks --json results.jsonl
    python -m benchmarks.figures results.jsonl --out docs/images

Where a figure was measured several times, the last one counts.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.rounds import Row

__all__ = ["main", "read"]

# Ours and the others' are told apart by these, and by the colour.
COLOURS = {"fcjax": "#1f5fbf", "JAX": "#5fa8a0", "torch": "#d0702a"}
# What tells cases apart.
KEYS = ("model", "batch_size", "contender", "part", "replicas", "axis", "value", "width", "precision")


def read(path: Path) -> list[Row]:
    """The rows of a file of ``--json``, the last of each case.

    Raises:
        ValueError: a line is not a measured row.
    """
    rows: dict[tuple[str, ...], Row] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            case = (row["benchmark"], *(str(row.get(key)) for key in KEYS))
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{path}, line {number}: expected a figure as --json writes it, found {line[:60]!r}"
            ) from None
        rows[case] = row
    return list(rows.values())


def _of(rows: Iterable[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def _colour(contender: str) -> str:
    return next((colour for start, colour in COLOURS.items() if contender.startswith(start)), "#888888")


def training(rows: list[Row], axes: Axes) -> None:
    """Samples per second against batch size, a line for each contender."""
    rows = _of(rows, benchmark="training", model="A3")
    markers = iter("osD^v<>PXdph")
    for contender in dict.fromkeys(row["contender"] for row in rows):
        own = sorted(_of(rows, contender=contender), key=lambda row: row["batch_size"])
        x, y = [row["batch_size"] for row in own], [row["samples_per_second"] for row in own]
        axes.plot(x, y, color=_colour(contender), marker=next(markers), label=contender, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="samples per second", title="Training A3")
    batches = sorted({row["batch_size"] for row in rows})
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.legend(fontsize=7)


def floor(rows: list[Row], axes: Axes) -> None:
    """Where the time of a step goes, as shares, stacked by batch size."""
    rows = _of(rows, benchmark="floor")
    batches = sorted({row["batch_size"] for row in rows})
    names = list(dict.fromkeys(row["part"] for row in rows))
    below = [0.0] * len(batches)
    for name in names:
        upto = [_of(rows, batch_size=batch, part=name)[0]["milliseconds"] for batch in batches]
        whole = [_of(rows, batch_size=batch, part=names[-1])[0]["milliseconds"] for batch in batches]
        shares = [min(value / all_of_it, 1.0) for value, all_of_it in zip(upto, whole, strict=True)]
        heights = [max(0.0, share - low) for share, low in zip(shares, below, strict=True)]
        axes.bar([str(batch) for batch in batches], heights, bottom=below, label=name)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.set(xlabel="batch size", ylabel="share of a step", title="Where the time of a step of A3 goes")
    axes.legend(fontsize=7, loc="lower right")


def replicas(rows: list[Row], axes: Axes) -> None:
    """Samples per second of all replicas together against their number."""
    rows = _of(rows, benchmark="replicas")
    for contender in dict.fromkeys(row["contender"] for row in rows):
        own = sorted(_of(rows, contender=contender), key=lambda row: row["replicas"])
        x, y = [row["replicas"] for row in own], [row["samples_per_second"] for row in own]
        style = "--" if contender.endswith("in turn") else "-"
        axes.plot(x, y, style, color=_colour(contender), marker="o", label=contender)
    model = rows[0]["model"]
    axes.set(xscale="log", yscale="log", xlabel="replicas", ylabel="samples per second, all together")
    axes.set_title(f"Replicas of {model}")
    axes.legend(fontsize=7)


def growth(rows: list[Row], axes: Axes) -> None:
    """Time against each axis, both relative to its smallest value."""
    rows = _of(rows, benchmark="growth")
    for axis in dict.fromkeys(row["axis"] for row in rows):
        own = sorted(_of(rows, axis=axis), key=lambda row: row["value"])
        x = [row["value"] / own[0]["value"] for row in own]
        axes.plot(x, [row["milliseconds"] / own[0]["milliseconds"] for row in own], marker="o", label=axis)
    axes.plot([1, 8], [1, 8], color="#bbbbbb", linewidth=1, linestyle=":", label="proportional")
    axes.set(xscale="log", yscale="log", xlabel="times as large", ylabel="times as long", title="How time grows")
    axes.legend(fontsize=7)


PICTURES: dict[str, Callable[[list[Row], Axes], None]] = {
    "training": training,
    "floor": floor,
    "replicas": replicas,
    "growth": growth,
}


def main(arguments: list[str] | None = None) -> None:
    """Draws every picture for which there are figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    chosen = parser.parse_args(arguments)
    try:
        rows = read(chosen.results)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        if not _of(rows, benchmark=name):
            print(f"{name}: no figures, no picture")
            continue
        figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        draw(rows, axes)
        figure.savefig(chosen.out / f"{name}.png", dpi=130)
        plt.close(figure)
        print(chosen.out / f"{name}.png")


if __name__ == "__main__":
    main()
