"""Starting values for the settings: the article's recipe, and the best one found for each task.

The values of ``best`` are chosen on validation data alone.
"""

from dataclasses import replace
from typing import Any, get_args

from fcjax.config import Preset, TrainConfig, UsageError

__all__ = ["PRESETS", "preset"]

ARTICLE: dict[str, Any] = {
    "model": "article",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "batch_size": 128,
    "epochs": 20,
}
IMAGES: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "decay_biases": False,
    "batch_size": 128,
    "epochs": 40,
    "warmup": 1.0,
    "dropout": 0.25,
    "adversarial": 0.13,
    "ema": 0.999,
}
PRICES: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 4e-3,
    "weight_decay": 0.1,
    "decay_biases": False,
    "batch_size": 64,
    "epochs": 200,
}
BEST: dict[str, dict[str, Any]] = {
    # 12 steps to an epoch: an average over a thousand steps would still hold the first weights.
    "digits": IMAGES | {"epochs": 100, "ema": 0.99},
    "mnist": IMAGES,
    "fashion": IMAGES,
    "housing": PRICES,
    "california": PRICES | {"features": "pieces", "bins": 96, "dropout": 0.1, "epochs": 60, "ema": 0.999},
    "table": {"optimizer": "adamw", "weight_decay": 0.05, "decay_biases": False, "epochs": 100, "ema": 0.99},
}
TABULAR: dict[str, Any] = {
    "model": "tabular",
    "hidden": (192, 192),
    "members": 16,
    "bins": 64,
    "embedding": 16,
    "dropout": 0.1,
    "optimizer": "adamw",
    "learning_rate": 1e-2,
    "weight_decay": 0.03,
    "decay_biases": False,
    "batch_size": 128,
    "epochs": 40,
    "ema": 0.99,
}
PRESETS: tuple[Preset, ...] = get_args(Preset)


def preset(name: Preset, config: TrainConfig) -> TrainConfig:
    """``config`` with the recipe ``name`` for its task and model; what the recipe does not say stays.

    Args:
        name: ``"article"`` (Adam at 1e-3, batches of 128, 20 epochs, constant rate, dropout 0.2) or ``"best"``.
        config: its ``task`` chooses the recipe; the model ``tabular`` has a best one of its own.

    Raises:
        UsageError: an unknown name.
    """
    if name not in PRESETS:
        raise UsageError(f"preset: expected one of {', '.join(PRESETS)}; found {name!r}")
    best = TABULAR if config.model == "tabular" else BEST[config.task]
    recipe = ARTICLE if name == "article" else best
    if name == "article" and config.task in ("digits", "mnist", "fashion"):
        recipe = recipe | {"dropout": 0.2}
    return replace(config, preset=name, **recipe)
