"""Everything that turns a new file into the inputs that a trained net expects, saved as JSON."""

import json
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError
from fcjax.datasets.table.columns import Table
from fcjax.datasets.table.encoding import CategoryRule, DateRule, NumberRule, Rule
from fcjax.datasets.table.numerals import Mark
from fcjax.datasets.table.reading import read_table
from fcjax.datasets.table.target import TargetRule

__all__ = ["Preprocessing"]

T = TypeVar("T")

FORMAT = "fcjax preprocessing 2"
RULES: dict[str, type[Rule]] = {"number": NumberRule, "date": DateRule, "category": CategoryRule}


@dataclass(frozen=True)
class Preprocessing:
    """What was learned about a table from its training rows.

    Args:
        target: the target column and its classes or scale.
        rules: one for each column that is used, in the order of the inputs.
        missing: the marks of a missing entry that were asked for besides the usual ones.
        mark: the decimal mark of the file, where it was text.
        notes: what was decided or left out, in sentences, for the reader.
    """

    target: TargetRule
    rules: tuple[Rule, ...]
    missing: tuple[str, ...] = ()
    mark: Mark = "."
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(feature for rule in self.rules for feature in rule.features())

    def read(self, file: str | PathLike[str]) -> Table:
        """The table in a new file, read as the first one was: ``1,234`` is the same number as there."""
        return read_table(file, self.missing, self.mark)

    def inputs(self, table: Table) -> NDArray[np.float32]:
        """The inputs for every row of ``table``, shape ``(rows, len(features))``.

        Columns may come in any order; those that are not used may be missing, the target too.

        Raises:
            DataError: a column is missing (all are listed), or an entry is not of its kind.
        """
        table.require([rule.name for rule in self.rules])
        return np.concatenate([rule.encode(table) for rule in self.rules], axis=1)

    def targets(self, table: Table) -> NDArray[Any]:
        """The targets of ``table``: int32 labels ``(rows,)`` or float32 values ``(rows, 1)``."""
        return self.target.encode(table)

    def to_json(self) -> str:
        """JSON that ``from_json`` turns into an equal object: every float comes back to the last bit."""
        kinds = {rule: kind for kind, rule in RULES.items()}
        record = {
            "format": FORMAT,
            "target": asdict(self.target),
            "rules": [{"kind": kinds[type(rule)], **asdict(rule)} for rule in self.rules],
            "missing": self.missing,
            "mark": self.mark,
            "notes": self.notes,
        }
        return json.dumps(record, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, source: str = "preprocessing") -> "Preprocessing":
        """The inverse of ``to_json``.

        Raises:
            DataError: any other text; the message names the field.
        """
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: can't be read as JSON ({error})") from None
        if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
            raise DataError(f"{source}: expected a file of the format {FORMAT!r}, found another")
        rules = record.get("rules")
        if not isinstance(rules, list):
            raise DataError(f"{source}, rules: expected a list, found {type(rules).__name__}")
        built = tuple(_build_rule(rule, f"{source}, rules[{index}]") for index, rule in enumerate(rules))
        target = _build(TargetRule, record.get("target"), f"{source}, target")
        rest = {key: value for key, value in record.items() if key not in ("rules", "target")}
        return _build(cls, {**rest, "rules": built, "target": target}, source)

    def save(self, file: Path) -> None:
        """Writes ``to_json`` to ``file``."""
        file.write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> "Preprocessing":
        """Reads what ``save`` wrote; a ``DataError`` names the file where that fails."""
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: can't be read ({error})") from None
        return cls.from_json(text, str(file))


def _build_rule(record: Any, place: str) -> Rule:
    kind = record.get("kind") if isinstance(record, dict) else None
    if kind not in RULES:
        raise DataError(f"{place}: expected kind {' or '.join(RULES)}, found {kind!r}")
    values = {key: value for key, value in record.items() if key != "kind"}
    if kind == "date":
        values["number"] = _build(NumberRule, values.get("number"), f"{place}, number")
    return _build(RULES[kind], values, place)


def _build(cls: type[T], record: Any, place: str) -> T:
    """A dataclass from a JSON object that has exactly its fields, each of its type."""
    hints = get_type_hints(cls)
    expected = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(record, dict) or set(record) != expected:
        found = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{place}: expected the fields {sorted(expected)}, found {found}")
    return cls(**{name: _value(hints[name], value, f"{place}, {name}") for name, value in record.items()})


def _value(hint: Any, value: Any, place: str) -> Any:
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_value(get_args(hint)[0], entry, place) for entry in value)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif hint == Rule or (isinstance(hint, type) and isinstance(value, hint)):
        return value
    raise DataError(f"{place}: expected {getattr(hint, '__name__', hint)}, found {value!r}")
