"""A report as plain JSON values."""

import dataclasses
import math
from typing import Any

from compare.result import Report

__all__ = ["jsonable", "plain"]


def jsonable(report: Report) -> dict[str, Any]:
    """The report as dictionaries, lists, strings and finite numbers, with its verdict first."""
    values = plain(report)
    return {"name": values.pop("name"), "passed": report.passed, "status": report.status, **values}


def plain(value: Any) -> Any:
    """Dataclasses, dictionaries and sequences as what JSON holds; a non-finite number becomes a string."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    return value
