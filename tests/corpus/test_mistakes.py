"""A sample of the planted mistakes, and the runner that judges them; all of them run in ``make check-corpus``."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import compare
from compare.result import Cause, CheckResult, Divergence, Report
from tests.corpus.mistake import Case, Mistake
from tests.corpus.run import Outcome, families, judge, line, main, place_of, rates, run_mistake

pytestmark = pytest.mark.usefixtures("small_programs")

FAMILIES = {family.name: family for family in families()}
MISTAKES = {f"{family.name}/{mistake.name}": mistake for family in FAMILIES.values() for mistake in family.mistakes}

# Cheap ones, of every kind of check and every kind of place.
SAMPLE = (
    "between/cat_order",
    "between/mean_for_sum",
    "between/softmax_axis",
    "pointwise/gelu_tanh",
    "pointwise/stop_gradient_left",
    "endings/sigmoid_missing",
    "endings/standard_deviation",
    "fresh/fast_variance",
    "fresh/gelu_behind_zero_gate",
    "fresh/unit_scale_omitted",
    "fresh/zero_bias_omitted",
    "optimizers/adamw_for_adam",
    "optimizers/clip_by_value",
    "optimizers/decay_on_biases",
    "optimizers/nesterov",
    "schedules_and_losses/loss_halved",
    "schedules_and_losses/stairs_smooth",
    "schedules_and_losses/two_at_once",
    "schedules_and_losses/unused_moves",
    "schedules_and_losses/warmup_off_by_one",
)


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(MISTAKES) >= 60
    assert len(MISTAKES) == sum(len(family.mistakes) for family in FAMILIES.values())
    assert sum(len(family.right) for family in FAMILIES.values()) >= 20


@pytest.mark.parametrize("name", SAMPLE)
def test_a_planted_mistake_is_caught_located_and_named(name: str) -> None:
    outcome, report = run_mistake(name.partition("/")[0], MISTAKES[name])
    assert report is not None, outcome.note
    assert False not in (outcome.caught, outcome.located, outcome.named), f"{line(outcome)}\n{report.text()}"


def test_another_name_for_the_same_counts() -> None:
    shifted = dataclasses.replace(WANTED, causes=frozenset({"reduction_axis"}))
    assert judge(shifted, report_of("wrong_axis"))[2]
    assert not judge(shifted, report_of("softmax_axis"))[2]


def report_of(*causes: str, check: str = "outputs", module: str = "fc2", where: Any = "before") -> Report:
    """A report that failed at one place."""
    divergence = Divergence("forward", where, module, module, 1.0, 0.1)
    named = tuple(Cause(cause, "", "", "") for cause in causes)
    return Report("net", (CheckResult(check, "failed", ""),), divergence, named)


WANTED = Mistake("epsilon", "", lambda: Case("check", ()), ("before fc2",), frozenset({"a", "b"}))


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (report_of("a"), (True, True, True)),
        (report_of("b", "x"), (True, True, True)),
        (report_of("x", "a"), (True, True, False)),
        (report_of(), (True, True, False)),
        (report_of("a", module="fc1"), (True, False, True)),
        (report_of("a", where="inside"), (True, False, True)),
        (report_of("a", check="weights"), (False, False, False)),
        (Report("net", (CheckResult("outputs", "passed", ""),)), (False, False, False)),
    ],
    ids=["all", "second name", "wrong first", "none", "elsewhere", "inside", "only weights", "passed"],
)
def test_how_a_report_is_judged(report: Report, expected: tuple[bool, bool, bool]) -> None:
    assert judge(WANTED, report) == expected


def test_both_of_two_mistakes_must_be_named() -> None:
    two = dataclasses.replace(WANTED, behind=frozenset({"c"}))
    assert judge(two, report_of("a", "c"))[2]
    assert judge(two, report_of("c", "b"))[2]
    assert not judge(two, report_of("a", "b"))[2]
    assert not judge(two, report_of("c"))[2]


def test_a_step_and_a_quantity_are_a_place_too() -> None:
    step = dataclasses.replace(WANTED, places=(), step=2, quantity="moments", causes=None)
    report = report_of()
    assert report.first_divergence is not None
    found = dataclasses.replace(report.first_divergence, step=2, quantity="moments")
    assert judge(step, dataclasses.replace(report, first_divergence=found)) == (True, True, None)
    early = dataclasses.replace(found, step=1)
    assert judge(step, dataclasses.replace(report, first_divergence=early)) == (True, False, None)
    assert place_of(report) == "before fc2"


def test_the_rates_count_what_was_asked_for() -> None:
    outcomes = [
        Outcome("f", "a", True, "failed", True, True, None),
        Outcome("f", "b", True, "passed", False, False, False),
        Outcome("f", "c", False, "passed"),
        Outcome("f", "d", False, "raised"),
    ]
    found = rates(outcomes)
    assert found == {
        "caught": (1, 2),
        "located": (1, 2),
        "named": (0, 1),
        "false alarms": (1, 2),
        "inconclusive": (0, 2),
    }


def test_a_check_that_raises_is_no_catch() -> None:
    broken = dataclasses.replace(WANTED, make=lambda: Case("check", (None, None, None)))
    outcome, report = run_mistake("f", broken)
    assert report is None
    assert (outcome.status, outcome.caught) == ("raised", False)
    assert compare.UsageError.__name__ in outcome.note


def test_the_command_writes_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws/zero_bias", "--json", str(tmp_path / "corpus.json")]) == 0
    printed = capsys.readouterr().out
    assert "laws/zero_bias" in printed
    assert "caught         1 of 1" in printed
    written = json.loads((tmp_path / "corpus.json").read_text())
    assert written["rates"]["named"] == [1, 1]
    assert written["entries"][0]["causes"] == ["init_zeros"]
