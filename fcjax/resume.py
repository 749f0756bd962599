"""What has to be the same for a run to go on: its settings and its data."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fcjax.config import TrainConfig, UsageError
from fcjax.datasets import Dataset

__all__ = ["FREE", "fingerprint", "refuse_other_settings"]

# Settings that may change on --resume: where and how the work is done, not what is computed. Another number of
# devices gives the same result but for rounding.
FREE = {
    "cache",
    "checkpoint_every",
    "checkpoint_seconds",
    "coordinator",
    "data_dir",
    "device_memory",
    "devices",
    "file",
    "keep_checkpoints",
    "num_processes",
    "process_id",
    "resume",
    "run_dir",
    "segments",
    "strategy",
    "tensorboard",
}


def refuse_other_settings(path: Path, recorded: dict[str, Any], config: TrainConfig) -> None:
    """Raises a ``UsageError`` that names every setting in which ``config`` differs from the run in ``path``.

    ``epochs`` may grow, but not under a cosine: it is stretched over all epochs, so that the steps already taken would
    have been others.
    """
    now = json.loads(json.dumps(config.to_json()))
    before = json.loads(json.dumps(TrainConfig().to_json())) | recorded  # settings that are newer than the run
    differing = [name for name in now if name not in FREE and now[name] != before[name]]
    if "epochs" in differing and config.schedule != "cosine" and config.epochs > before["epochs"]:
        differing.remove("epochs")
    if differing:
        listed = ", ".join(f"{name} was {before[name]} and is now {now[name]}" for name in differing)
        hint = "; epochs may only grow, and not under a cosine" if "epochs" in differing else ""
        raise UsageError(
            f"{path}: expected the settings of the run to resume, found others: {listed}{hint}. Leave them as they "
            "were, or name another run directory"
        )


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of all splits and scalings."""
    total = hashlib.sha256(f"{dataset.task} {dataset.classes}".encode())
    for part, split in dataset.parts().items():
        for name, array in split.arrays().items():
            total.update(f"{part} {name} {array.dtype} {array.shape}".encode())
            for block in np.array_split(array, max(1, array.nbytes >> 24)):  # a copy, if any, of 16 MiB at most
                total.update(np.ascontiguousarray(block).view(np.uint8))
    for scaling in (dataset.input_scaling, dataset.target_scaling):
        if scaling is not None:
            total.update(scaling.mean.tobytes() + scaling.std.tobytes())
    return total.hexdigest()
