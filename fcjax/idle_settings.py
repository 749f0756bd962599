"""Settings that would have no effect are refused: whoever gives one expects something of it. Imports no jax."""

from collections.abc import Callable, Set
from dataclasses import dataclass

from fcjax.config import TrainConfig, UsageError

__all__ = ["refuse_idle_settings"]

WITH_FILES = ("mnist", "fashion", "california")


@dataclass(frozen=True)
class Condition:
    """When some settings have an effect.

    Args:
        names: of the settings.
        holds: whether they have one.
        otherwise: what is said if not, with settings in braces.
    """

    names: tuple[str, ...]
    holds: Callable[[TrainConfig], bool]
    otherwise: str


def _decays(config: TrainConfig) -> bool:
    default = config.optimizer == "adamw"
    return _sweeps(config, "weight_decay") or (default if config.weight_decay is None else config.weight_decay > 0)


def _sweeps(config: TrainConfig, name: str) -> bool:
    return config.swept is not None and config.swept[0] == name


def _is_not_swept(name: str) -> Callable[[TrainConfig], bool]:
    return lambda config: not _sweeps(config, name)


def _has_classes(config: TrainConfig) -> bool:
    return config.task not in ("housing", "california") and config.kind != "regression"


CONDITIONS = (
    Condition(
        ("file", "target", "kind", "categorical", "ignore", "missing"),
        lambda config: config.task == "table",
        "expected with the task table only, found with {task}",
    ),
    Condition(
        ("data_dir",),
        lambda config: config.task in WITH_FILES,
        f"expected with {' or '.join(WITH_FILES)} only, whose data are files of their own; found with {{task}}",
    ),
    Condition(
        ("model",),
        lambda config: config.task != "table" or config.model != "article",
        "expected mlp or tabular for a table, found {model}, which has a network for images and one for prices",
    ),
    Condition(
        ("hidden", "activation"),
        lambda config: config.task == "table" or config.model != "article",
        "expected with --model mlp or tabular, found with the model {model}, whose layers are given",
    ),
    Condition(
        ("activation",),
        lambda config: config.model != "tabular",
        "expected with --model mlp, found with {model}, which has relu",
    ),
    Condition(
        ("members", "embedding"),
        lambda config: config.model == "tabular",
        "expected with --model tabular, found with the model {model}",
    ),
    Condition(
        ("bins",),
        lambda config: config.model == "tabular" or config.features == "pieces",
        "expected with --model tabular or --features pieces, found with the model {model} and features {features}",
    ),
    Condition(
        ("validation",),
        lambda config: config.task != "california",
        "expected with another task than california, whose validation part is given; found {validation}",
    ),
    Condition(
        ("momentum",),
        lambda config: config.optimizer in ("sgd", "momentum", "rmsprop"),
        "expected with sgd, momentum or rmsprop, found with {optimizer}",
    ),
    Condition(
        ("nesterov",),
        lambda config: config.optimizer in ("sgd", "momentum"),
        "expected with sgd or momentum, found with {optimizer}",
    ),
    Condition(("decay_biases",), _decays, "expected with a weight decay, found none with {optimizer}"),
    Condition(
        ("step_epochs", "step_decay"),
        lambda config: config.schedule == "step",
        "expected with --schedule step, found with {schedule}",
    ),
    Condition(
        ("label_smoothing", "temperature"), _has_classes, "expected with classes, found with the regression of {task}"
    ),
    Condition(
        ("teacher_share", "temperature"),
        lambda config: config.teacher is not None,
        "expected with --teacher RUN, found without",
    ),
    *(
        Condition((name,), _is_not_swept(name), "expected once, found a --sweep of it")
        for name in ("learning_rate", "weight_decay", "clip_norm")
    ),
    Condition(("seeds",), lambda config: config.swept is None, "expected without --sweep, found {seeds}"),
)


def refuse_idle_settings(config: TrainConfig, given: Set[str]) -> None:
    """Raises a ``UsageError`` for the first setting that was given and would change nothing.

    Args:
        config: all settings.
        given: names of those that the user gave: a default, or a preset's value, is nobody's mistake.
    """
    for condition in CONDITIONS:
        for name in condition.names:
            if name in given and not condition.holds(config):
                raise UsageError(f"{name}: {condition.otherwise.format(**config.to_json())}")
