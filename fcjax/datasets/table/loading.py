"""From a file and the name of a column to a dataset and its preprocessing."""

import dataclasses
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError, Dataset, Split, Task
from fcjax.datasets.splitting import split_rows
from fcjax.datasets.table.columns import Column, Table
from fcjax.datasets.table.dates import first_in_slashes, two_ways_to_read
from fcjax.datasets.table.encoding import Rule, first_stray, fit_category, fit_date, fit_number
from fcjax.datasets.table.numerals import looks_like_number
from fcjax.datasets.table.preprocessing import Preprocessing
from fcjax.datasets.table.reading import read_table
from fcjax.datasets.table.target import TargetRule, choose_task, fit_target

__all__ = ["load_table"]

FEWEST = 10
"""Rows, so that there are several to learn from and some to test on."""


def load_table(
    file: str | PathLike[str],
    target: str,
    *,
    task: Task | Literal["auto"] = "auto",
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    categorical: Sequence[str] = (),
    ignore: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> tuple[Dataset, Preprocessing]:
    """A learning task from the user's own table.

    Numbers are filled with the training median where they are missing (an extra input says where), and standardised;
    text becomes one input for each frequent value. All of it is fitted on the training rows alone. Rows without a
    target are left out, and so are columns that say nothing; ``Preprocessing.notes`` tells.

    Args:
        file: CSV, Parquet or NPZ.
        target: the column to predict.
        task: ``"auto"`` finds it from the target (see ``choose_task``).
        validation, test: shares of the rows, stratified in classification. ``validation`` may be 0.
        seed: of the split.
        categorical: columns of numbers that are codes, to be treated as text.
        ignore: columns to leave out.
        missing: marks of a missing entry besides the usual ones.

    Returns:
        The dataset, whose inputs are standardised already (``input_scaling`` is None) and whose regression targets
        are in their own unit; and the preprocessing, to be stored with the trained net.

    Raises:
        DataError: anything about the file, the columns or the target that can't be right.
    """
    if not 0 < test < 1 or not 0 <= validation < 1 - test:
        raise DataError(
            f"split: expected test > 0 and validation + test < 1, found test {test}, validation {validation}"
        )
    table = read_table(file, missing)
    table.require([target, *categorical, *ignore])
    if target in {*categorical, *ignore}:
        raise DataError(f"{table.source}: the target {target!r} can't be ignored or encoded as an input too")
    inputs, notes = _without_row_numbers(table, [name for name in table.columns if name not in (target, *ignore)])
    table, dropped = _without_blank_targets(table, target)
    notes += dropped
    if table.rows < FEWEST:
        raise DataError(f"{table.source}: expected at least {FEWEST} rows with a target, found {table.rows}")
    if task == "auto":
        task, reason = choose_task(table, target)
        notes.append(reason)
    rule = fit_target(table, target, task)
    notes += _twins(rule) + _doubts(table.columns[target])
    targets = rule.encode(table)
    rows = split_rows(
        table.rows,
        validation=max(1, round(validation * table.rows)) if validation else 0,
        test=max(1, round(test * table.rows)),
        seed=seed,
        labels=targets if task == "classification" else None,
    )
    if task == "regression":
        mean, std = _scale(targets[rows.train], f"{table.source}, {target}")
        rule = dataclasses.replace(rule, mean=mean, std=std)
    rules, unused = _fit_rules(table, inputs, categorical, rows.train)
    preprocessing = Preprocessing(rule, rules, tuple(missing), table.mark, (*notes, *unused))
    everything = Split(preprocessing.inputs(table), targets)
    dataset = Dataset(
        name=Path(table.source).stem,
        task=task,
        train=everything.rows(rows.train),
        validation=everything.rows(rows.validation) if len(rows.validation) else None,
        test=everything.rows(rows.test),
        classes=len(rule.classes) or None,
        target_scaling=rule.scaling,
    )
    return dataset, preprocessing


def _without_row_numbers(table: Table, names: list[str]) -> tuple[list[str], list[str]]:
    """The names of columns that don't just count the rows, 0, 1, 2, ... or 1, 2, 3, ...; and notes on those that do."""
    count = np.arange(table.rows)
    kept, notes = [], []
    for name in names:
        numbers = table.columns[name].numbers
        if table.rows >= 10 and numbers is not None and any((numbers == count + start).all() for start in (0, 1)):
            notes.append(f"{name}: left out, it only counts the rows")
        else:
            kept.append(name)
    return kept, notes


def _without_blank_targets(table: Table, target: str) -> tuple[Table, list[str]]:
    """The rows that have a target, and a note on the others."""
    keep = np.flatnonzero(~table.columns[target].missing())
    if not keep.size:
        raise DataError(f"{table.source}, {target}: expected a target, found none in any row")
    if len(keep) == table.rows:
        return table, []
    columns = {name: _take(column, keep) for name, column in table.columns.items()}
    lines = None if table.lines is None else table.lines[keep]
    note = f"{target}: {table.rows - len(keep)} of {table.rows} rows have none, and are left out"
    return dataclasses.replace(table, columns=columns, rows=len(keep), lines=lines), [note]


def _take(column: Column, rows: NDArray[np.intp]) -> Column:
    texts = None if column.texts is None else tuple(column.texts[row] for row in rows)
    numbers = None if column.numbers is None else column.numbers[rows]
    return dataclasses.replace(column, texts=texts, numbers=numbers)


def _scale(targets: NDArray[np.float32], place: str) -> tuple[float, float]:
    """Mean and standard deviation of the training targets."""
    values = targets.astype(np.float64)
    mean, std = float(values.mean()), float(values.std())
    # float32 resolves 6e-8 of a value: targets that vary by less than a hundred such steps are noise.
    if not std > 6e-6 * np.abs(values).max():
        raise DataError(f"{place}: expected a target that varies; float32 can't tell its training values apart")
    return mean, std


def _fit_rules(
    table: Table, names: list[str], categorical: Sequence[str], train: NDArray[np.intp]
) -> tuple[tuple[Rule, ...], list[str]]:
    """The rules of all columns that are of use, and notes on the others; one error lists all mixed columns."""
    mixed = [_describe_mix(table, name) for name in names if name not in categorical and _is_mixed(table, name)]
    if mixed:
        raise DataError(
            f"{table.source}: expected columns of numbers or of text, found mixtures: {'; '.join(mixed)}. Mend them, "
            f"name what means missing (missing), or name the columns as categorical or to ignore"
        )
    rules: list[Rule] = []
    notes = []
    for name in names:
        column = table.columns[name]
        as_text = name in categorical or column.numbers is None
        fit = fit_category if as_text else fit_date if column.dates else fit_number
        rule: Rule | str = fit(table, name, train)
        if name not in categorical:
            notes += _doubts(column)
        if isinstance(rule, str):
            notes.append(rule)
        else:
            rules.append(rule)
    if not rules:
        raise DataError(f"{table.source}: expected a column to predict from, found none of use ({'; '.join(notes)})")
    return tuple(rules), notes


def _twins(rule: TargetRule) -> list[str]:
    """Classes that may be meant as one."""
    by_name: dict[str, list[str]] = {}
    for name in rule.classes:
        by_name.setdefault(name.casefold(), []).append(name)
    twins = [names for names in by_name.values() if len(names) > 1]
    return [f"{rule.name}: {', '.join(map(repr, names))} are classes apart, by their case alone" for names in twins]


def _doubts(column: Column) -> list[str]:
    """What the user may have meant otherwise."""
    written = [text for text in column.texts or () if text]
    if column.numbers is None:
        date = two_ways_to_read(written)
        doubt = "may have the day or the month first: taken as text; dates are read where they are as 2024-05-31"
        return [f"{column.name}: {date!r} {doubt}"] if date else []
    if column.dates:
        first = first_in_slashes(written)
        return [f"{column.name}: {written[0]!r} is read with the {first} first"] if first else []
    codes = [text for text in written if text.isdecimal() and text[0] == "0" and len(text) > 1]
    negative = [text for text in written if text[0] == "("]
    found = [f"{column.name}: {text!r} is taken as a negative number" for text in negative[:1]]
    return found + [
        f"{column.name}: {text!r} is taken as a number; say categorical if it is a code" for text in codes[:1]
    ]


def _is_mixed(table: Table, name: str) -> bool:
    """Text, most of which is numbers: a unit, a typing error or an unusual mark for a missing entry."""
    column = table.columns[name]
    if column.numbers is not None or table.lines is None:  # a file with types says itself what is text
        return False
    texts = [text for text in column.as_texts() if text is not None]
    return sum(map(looks_like_number, texts)) > len(texts) / 2


def _describe_mix(table: Table, name: str) -> str:
    row, text = first_stray(table.columns[name])
    return f"{name} ({text!r} in {table.place(row)})"
