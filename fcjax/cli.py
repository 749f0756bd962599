"""The command line, made from frozen dataclasses. Asking for help imports neither jax nor torch."""

import atexit
import csv
import gc
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence, Set
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial, wraps
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro

from fcjax.arguments import explain, given_options, in_one_line
from fcjax.config import TrainConfig, UsageError
from fcjax.idle_settings import refuse_idle_settings
from fcjax.presets import preset
from fcjax.tensorboard import refuse_without_writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fcjax.datasets import Dataset, Preprocessing

__all__ = ["export", "inspect", "main", "predict", "train"]

# 128 + the signal's number, as shells have it: 130 after Ctrl-C, 141 where nobody reads the output, 143 after SIGTERM.
WRONG_USAGE, SIGNAL, INTERRUPTED, UNREAD = 2, 128, 130, 141

# Seconds, within which most of what can be wrong with the data has shown.
AT_ONCE = 0.1

RunFolder = Annotated[Path, tyro.conf.Positional]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs ``fcjax``.

    Exits with 0; with 2 and one sentence on standard error where something is wrong that the user can mend; with 130
    after Ctrl-C and 143 after SIGTERM, the run being saved.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        _collect_rarely()
    try:
        _parsed(arguments)()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has left: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it flushes
        sys.exit(UNREAD)
    except UsageError as error:
        _leave(f"fcjax: {error}", WRONG_USAGE)
    except KeyboardInterrupt:
        _leave("fcjax: interrupted", INTERRUPTED)


def _collect_rarely() -> None:
    """Garbage is looked for less often, and not when Python ends."""
    # Imports and tracing make a million objects that stay: going through them takes half a second of a process.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


def _parsed(arguments: Sequence[str], default: TrainConfig | None = None) -> Callable[[], None]:
    """The command that ``arguments`` ask for; the settings of ``train`` start from ``default`` or else the preset's."""
    start = default or TrainConfig()

    def command(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = start) -> Any:
        return config

    command.__doc__ = train.__doc__
    app = tyro.extras.SubcommandApp()
    app.command(name="train")(command)
    for other in (predict, inspect, export):
        app.command(_later(other))
    refused = io.StringIO()
    try:
        with redirect_stderr(refused):
            found = app.cli(prog="fcjax", description="Fully connected networks in JAX/Flax.", args=arguments)
    except SystemExit as end:
        if end.code != WRONG_USAGE:  # help
            sys.stdout.flush()
            raise
        explain(arguments, {"train": TrainConfig, "predict": predict, "inspect": inspect, "export": export})
        raise UsageError(in_one_line(refused.getvalue())) from None
    if not isinstance(found, TrainConfig):
        return cast(Callable[[], None], found)
    if found.preset and default is None:
        return _parsed(arguments, preset(found.preset, TrainConfig(task=found.task, model=found.model)))
    return partial(train, found, given_options(arguments))


def _later(command: Callable[..., None]) -> Callable[..., Any]:
    """``command`` for the parser: bound to its arguments, but not run yet."""

    @wraps(command)
    def bound(*arguments: Any, **keywords: Any) -> Callable[[], None]:
        return partial(command, *arguments, **keywords)

    return bound


@contextmanager
def _imported_beside(module: str) -> "Iterator[None]":
    """Imports ``module`` while the work inside goes on, unless that ends at once, as it does with an error."""
    importing = Timer(AT_ONCE, importlib.import_module, [module])
    importing.start()
    try:
        yield
    finally:
        importing.cancel()
        importing.join()


def train(config: TrainConfig, given: Set[str] = frozenset()) -> None:
    """Trains a network: the article's for the task, on digits, clothes or house prices; or an MLP on your own table.

    Args:
        config: the settings.
        given: names of those that were asked for; what would have no effect is refused.
    """
    config.check()
    refuse_idle_settings(config, given)
    if config.tensorboard:
        refuse_without_writer()
    from fcjax.run_directory import RunDirectory
    from fcjax.task_data import load_data, refuse_for_data, sized_for

    run_dir = config.run_dir or Path("runs") / f"{config.task}-{datetime.now():%Y%m%d-%H%M%S}"
    config = replace(config, run_dir=run_dir)
    if not config.resume and config.coordinator is None:  # of several processes, process 0 makes it
        RunDirectory(run_dir).refuse_existing()
    with _data_errors():
        with _imported_beside("fcjax.trainer"):
            dataset, preprocessing = load_data(config)
        if config.task == "table":
            config = sized_for(config, dataset, given)
        refuse_for_data(config, dataset)
        for note in preprocessing.notes if preprocessing else ():
            print(f"note: {note}")
        _train(config, dataset, preprocessing)


def _train(config: TrainConfig, dataset: "Dataset", preprocessing: "Preprocessing | None") -> None:
    """The part that needs jax."""
    from fcjax.compilation_cache import use_compilation_cache
    from fcjax.distributed import LostProcessError
    from fcjax.prediction import describe_run, load_run
    from fcjax.tasks import model_and_loss
    from fcjax.teachers import with_soft_targets
    from fcjax.trainer import TrainingInterrupted, fit

    assert config.run_dir is not None
    if config.cache:
        use_compilation_cache()
    model, loss = model_and_loss(config, dataset)
    if config.teacher is not None:
        dataset = with_soft_targets(dataset, load_run(config.teacher), preprocessing)
    try:
        fit(model, dataset, config, loss=loss, files=describe_run(model, dataset, preprocessing))
    except TrainingInterrupted as stop:
        _leave(f"fcjax: {stop}; to go on, add --resume --run-dir {config.run_dir}", SIGNAL + stop.signum)
    except LostProcessError as lost:
        # On the usual way out JAX would ask the lost process to agree to the end, and abort with a page of its own.
        print(f"fcjax: {lost}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(WRONG_USAGE)


def predict(run: RunFolder, /, file: Path, out: Path | None = None) -> None:
    """Predicts for new samples with a trained network; several replicas answer together.

    Args:
        run: folder of a finished run.
        file: the samples: for a table CSV, Parquet or NPZ with its columns; else NPY, NPZ, CSV or MNIST's format.
        out: CSV file for the answers; standard output where not given.
    """
    from fcjax.input_files import read_inputs
    from fcjax.prediction import load_run

    with _data_errors():
        trained = load_run(run)
        predictions = trained.predict(read_inputs(trained, file))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    if trained.task == "classification":
        rows.writerow(["prediction", "probability"])
        best = predictions.max(axis=1)
        rows.writerows([name, f"{p:.6g}"] for name, p in zip(trained.labels(predictions), best, strict=True))
    else:
        count = predictions.shape[1]
        rows.writerow(["prediction"] if count == 1 else [f"prediction_{k}" for k in range(count)])
        rows.writerows([f"{value:.9g}" for value in row] for row in predictions)
    if out is None:
        sys.stdout.write(text.getvalue())
        return
    try:
        out.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out}: can't be written ({error.strerror})") from None


def inspect(run: RunFolder, /, out: Path | None = None) -> None:
    """Shows a trained network: its layers, weights, activations, course of training and mistakes.

    Args:
        run: folder of a finished run.
        out: folder for the pictures; RUN/plots where not given.
    """
    from fcjax.inspection import inspect_run

    with _data_errors():
        for file in inspect_run(run, out):
            print(file)


def export(
    run: RunFolder,
    out: Annotated[Path, tyro.conf.Positional],
    /,
    layout: Literal["torch", "flax"] = "torch",
    replica: int = 0,
) -> None:
    """Writes a trained network's weights as a safetensors file.

    Args:
        run: folder of a finished run.
        out: file to write, ending in .safetensors.
        layout: torch (fc1.weight, a state_dict) or flax (fc1.kernel).
        replica: which one, of several, from 0.
    """
    from fcjax.export import export_weights
    from fcjax.prediction import load_run

    with _data_errors():
        models = load_run(run).models
    if not 0 <= replica < len(models):
        raise UsageError(f"replica: expected a number from 0 to {len(models) - 1}, found {replica}")
    export_weights(models[replica], out, layout)
    print(f"{out}: {layout} layout")


@contextmanager
def _data_errors() -> "Iterator[Any]":
    """What is wrong with a file is the user's to mend."""
    from fcjax.datasets import DataError

    try:
        yield
    except DataError as error:
        raise UsageError(str(error)) from None


def _leave(message: str, code: int) -> None:
    with suppress(BrokenPipeError):
        print(message, file=sys.stderr)
    sys.exit(code)
