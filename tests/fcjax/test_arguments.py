"""Command lines that are wrong: one sentence each, found before anything is loaded, and only where the parser balks."""

import contextlib
import io
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcjax.arguments import explain, given_options, in_one_line
from fcjax.cli import _parsed, main
from fcjax.config import Activation, Optimizer, TrainConfig, UsageError
from fcjax.idle_settings import CONDITIONS, refuse_idle_settings

WRONG = {
    "": "expected a command (train, predict, inspect, export), found none",
    "trian digits": "command: expected one of train, predict, inspect, export; found 'trian'; did you mean train?",
    "train mnits": "task: expected one of digits, mnist, fashion, housing, california, table; found 'mnits'; did you",
    "train --epochs many": "epochs: expected a whole number, found 'many'",
    "train --epochs=3.5": "epochs: expected a whole number, found '3.5'",
    "train --epochs": "epochs: expected a whole number after --epochs, found nothing",
    "train --epochs 0": "epochs: expected a whole number of at least 1, found 0",
    "train --batch-size -1": "batch_size: expected a whole number of at least 1, found -1",
    "train --learning-rate fast": "learning_rate: expected a number, found 'fast'",
    "train --hidden 512,256": "hidden: expected a whole number (several with blanks between), found '512,256'",
    "train --epoch 3": "--epoch: expected an option of fcjax train, found none of this name; did you mean --epochs?",
    "train --no-cahce": "--no-cahce: expected an option of fcjax train, found none of this name; did you mean --no",
    "train --nonsense": "--nonsense: expected an option of fcjax train, found none of this name; fcjax train --help",
    "train -e 3": "-e: expected an option of fcjax train, found none of this name",
    "train digits --cache true": "train: expected options only, found 'true'",
    "train digits mnist": "train: expected options only, found 'mnist'",
    "train --optimizer adan": "optimizer: expected one of sgd, momentum, adam, adamw, rmsprop; found 'adan'; did you",
    "train --preset bst": "preset: expected one of article, best; found 'bst'; did you mean best?",
    "predict": "predict: expected RUN, --file, found none",
    "export run": "export: expected OUT, found none",
    "export run out --layout tf": "layout: expected one of torch, flax; found 'tf'",
    "train digits --data-dir x": "data_dir: expected with mnist or fashion or california only",
    "train digits --hidden 5": "hidden: expected with --model mlp or tabular, found with the model article",
    "train mnist --target y": "target: expected with the task table only, found with mnist",
    "train mnist --file y": "file: expected with the task table only, found with mnist",
    "train mnist --kind regression": "kind: expected with the task table only, found with mnist",
    "train housing --label-smoothing 0.1": "label_smoothing: expected with classes, found with the regression of",
    "train --step-decay 0.5": "step_decay: expected with --schedule step, found with cosine",
    "train --momentum 0.5": "momentum: expected with sgd, momentum or rmsprop, found with adam",
    "train --no-decay-biases": "decay_biases: expected with a weight decay, found none with adam",
    "train --sweep clip_norm=1,2 --clip-norm 1": "clip_norm: expected once, found a --sweep of it",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_one_sentence(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(line.split())
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith(f"fcjax: {WRONG[line]}"), error
    assert error.count("\n") == 1


VALUES: dict[str, Any] = {
    "epochs": st.integers(-3, 9).map(str),
    "learning-rate": st.floats(-1, 1).map(str),
    "optimizer": st.sampled_from(get_args(Optimizer)),
    "activation": st.sampled_from(get_args(Activation)),
    "target": st.sampled_from(["y", "a b", "-", "3"]),
    "dropout": st.sampled_from(["0.5", "None"]),
    "hidden": st.lists(st.integers(1, 9).map(str), min_size=1, max_size=3),
}
FLAGS = st.one_of(
    *(value.map(lambda v, n=name: [f"--{n}", *([v] if isinstance(v, str) else v)]) for name, value in VALUES.items()),
    st.sampled_from([["--no-cache"], ["--nesterov"], ["--batch_size", "-4"], ["--epochs=3"]]),
)
# What is neither a flag nor a value in its place: the parser takes it, or not, and so must the explanation.
STRAYS = st.sampled_from(
    [["--cash"], ["7"], ["many"], ["--epochs"], ["-x"], ["--hidden", "a"], ["--no-target"], ["--"]]
)


def parser_takes(arguments: list[str]) -> bool:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            _parsed(arguments)
    except UsageError:
        return False
    return True


def explained(arguments: list[str]) -> bool:
    try:
        explain(arguments, {"train": TrainConfig})
    except UsageError:
        return True
    return False


@settings(max_examples=25)
@given(st.lists(FLAGS, max_size=4), st.lists(STRAYS, max_size=1), st.booleans())
def test_the_explanation_agrees_with_the_parser(flags: list[list[str]], strays: list[list[str]], front: bool) -> None:
    parts = [["digits"], *flags] if front else [*flags]
    arguments = ["train", *(word for part in [*parts, *strays] for word in part)]
    assert parser_takes(arguments) != explained(arguments), arguments


def test_what_nobody_can_explain_is_still_one_line() -> None:
    box = "╭─ Value error ─╮\n│ Error parsing   │\n│ --x: no         │\n│ ─────── │\n│ more    │\n╰──────╯\n"
    assert in_one_line(box) == "Error parsing --x: no"
    assert in_one_line(" Value error\n -----\n Error parsing\n --x: no\n -----\n more") == "Error parsing --x: no"
    assert in_one_line("no frame\nat all") == "no frame at all"


def test_given_options_are_those_that_were_typed() -> None:
    assert given_options(["digits", "--no-cache", "--batch-size", "-1", "--learning_rate=3", "-"]) == {
        "no_cache", "cache", "batch_size", "learning_rate"
    }  # fmt: skip


def test_settings_that_were_not_given_are_nobodys_mistake() -> None:
    config = TrainConfig(task="digits", momentum=0.9, label_smoothing=0.1, step_decay=0.2)
    refuse_idle_settings(config, frozenset())
    with pytest.raises(UsageError, match="momentum"):
        refuse_idle_settings(config, {"momentum"})
    names = [name for condition in CONDITIONS for name in condition.names]
    assert set(names) <= set(TrainConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    "line",
    [
        "mnist --data-dir x --validation 0.1 --model mlp --hidden 4 --activation tanh",
        "table --file x --target y --kind regression --hidden 4 --optimizer sgd --momentum 0.9 --nesterov",
        "digits --schedule step --step-decay 0.5 --optimizer adamw --no-decay-biases --label-smoothing 0.1",
        "digits --sweep weight_decay=1,2 --no-decay-biases --learning-rate 1",
    ],
)
def test_settings_that_have_an_effect_are_taken(line: str) -> None:
    command: Any = _parsed(["train", *line.split()])
    refuse_idle_settings(*command.args)
