"""A report as plain JSON values."""

import dataclasses
import math
from typing import Any

from compare.result import Report

__all__ = ["jsonable"]


def jsonable(report: Report) -> dict[str, Any]:
    """The report as dictionaries, lists, strings and finite numbers, with its verdict first."""
    plain = _plain(report)
    return {"name": plain.pop("name"), "passed": report.passed, "status": report.status, **plain}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    return value
