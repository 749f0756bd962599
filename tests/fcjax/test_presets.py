"""Presets: the article's recipe to the letter, and what the user says goes before what a preset says."""

import dataclasses
import json
from pathlib import Path

import pytest

from fcjax.cli import main
from fcjax.config import TASKS, Preset, TrainConfig, UsageError
from fcjax.presets import PRESETS, TABULAR, preset


def test_the_articles_recipe() -> None:
    config = preset("article", TrainConfig(task="mnist", seed=3))
    assert (config.optimizer, config.learning_rate, config.schedule) == ("adam", 1e-3, "constant")
    assert (config.batch_size, config.epochs, config.dropout) == (128, 20, 0.2)
    assert (config.model, config.seed, config.preset) == ("article", 3, "article")
    plain = TrainConfig(task="mnist")
    for name in ("input_dropout", "label_smoothing", "ema", "weight_decay", "clip_norm", "momentum", "warmup"):
        assert getattr(config, name) == getattr(plain, name), name
    assert preset("article", TrainConfig(task="california")).dropout is None  # the article's has none


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("task", TASKS)
def test_every_preset_can_be_used(name: Preset, task: str) -> None:
    config = TrainConfig(task=task)  # type: ignore[arg-type]
    if task == "table":
        config = dataclasses.replace(config, file=Path("t.csv"), target="price")
    preset(name, config).check()


def test_the_model_for_tables_has_a_recipe_of_its_own() -> None:
    own = preset("best", TrainConfig(task="california", model="tabular"))
    other = preset("best", TrainConfig(task="california"))
    assert (own.model, own.hidden, other.model) == ("tabular", TABULAR["hidden"], "article")
    assert own.learning_rate != other.learning_rate


def test_an_unknown_preset() -> None:
    with pytest.raises(UsageError, match="preset: expected one of article, best; found 'fast'"):
        preset("fast", TrainConfig())  # type: ignore[arg-type]


@pytest.mark.parametrize("flag", [["--preset", "best"], ["--preset=best"]])
def test_flags_go_before_the_preset(flag: list[str], tmp_path: Path) -> None:
    # 20 epochs is also the default: told apart from a flag that was not given.
    flags = ["--epochs", "1", "--batch-size", "200", "--run-dir", str(tmp_path / "run"), "--no-cache"]
    main(["train", "housing", *flag, *flags])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["preset"], config["epochs"], config["batch_size"]) == ("best", 1, 200)
    assert (config["optimizer"], config["weight_decay"]) == ("adamw", 0.1)
