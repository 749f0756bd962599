"""The command line, made from frozen dataclasses. Asking for help imports neither jax nor torch."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro

from fcjax.config import TrainConfig, UsageError

__all__ = ["main", "train"]

WRONG_USAGE, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs ``fcjax``; exits with 0, or with 2 and one sentence on standard error where the user's input is at fault."""
    app = tyro.extras.SubcommandApp()
    app.command(train)
    try:
        app.cli(prog="fcjax", description="Fully connected networks in JAX/Flax.", args=arguments)
    except UsageError as error:
        _leave(f"fcjax: {error}", WRONG_USAGE)
    except KeyboardInterrupt:
        _leave("fcjax: interrupted", INTERRUPTED)


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> None:
    """Trains a network: the article's for the task, on digits, clothes or house prices."""
    from fcjax.compilation_cache import use_compilation_cache
    from fcjax.datasets import DataError, load
    from fcjax.tasks import model_and_loss
    from fcjax.trainer import fit

    config.check()
    if config.run_dir is None:
        config = replace(config, run_dir=Path("runs") / f"{config.task}-{datetime.now():%Y%m%d-%H%M%S}")
    if config.cache:
        use_compilation_cache()
    try:
        dataset = load(config.task, config.data_dir, config.seed)
        model, loss = model_and_loss(config, dataset)
        fit(model, dataset, config, loss=loss)
    except DataError as error:
        raise UsageError(str(error)) from None


def _leave(message: str, code: int) -> None:
    with suppress(BrokenPipeError):
        print(message, file=sys.stderr)
    sys.exit(code)
