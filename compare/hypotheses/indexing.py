"""Mistakes in which entries are taken: another index, a slice that begins or ends elsewhere, or goes another way."""

from collections.abc import Iterator
from typing import Any

from compare.hypotheses.edit import CallSite
from compare.hypotheses.variant import Maker, Variant

__all__ = ["INDEXING"]


def _taken(site: CallSite) -> Iterator[Variant]:
    index = site.arguments.get(1, site.arguments.get("key"))  # Python's versions differ in whether it has a name
    items = index if isinstance(index, tuple) else (index,)
    if not site.shapes or not all(item is None or item is Ellipsis or type(item) in (int, slice) for item in items):
        return
    for place, (item, length) in enumerate(zip(items, _lengths(items, site.shapes[0]), strict=True)):
        for other in _others(item, length):
            changed = (*items[:place], other, *items[place + 1 :])
            yield (
                "wrong_index",
                f"{_words(other)} of an axis of length {length} stands where torch takes {_words(item)}",
                f"take {_words(item)}",
                lambda f, a, k, changed=changed: f(a[0], changed),  # type: ignore[misc]
            )


def _lengths(items: tuple[Any, ...], shape: tuple[int, ...]) -> list[int]:
    """The length of the axis that each item takes from; 0 where it takes from none."""
    whole = items.index(Ellipsis) if Ellipsis in items else len(items)
    found, axis = [0] * len(items), 0
    for order, sizes in ((range(whole), shape), (range(len(items) - 1, whole, -1), shape[::-1])):
        axis = 0
        for i in order:
            if items[i] is not None:
                found[i] = sizes[axis]
                axis += 1
    return found


def _others(item: Any, length: int) -> Iterator[Any]:
    if type(item) is int:
        here = item % length
        yield from (k for k in dict.fromkeys([0, length - 1, here - 1, here + 1]) if 0 <= k < length and k != here)
    elif isinstance(item, slice) and length:
        start, stop, step = item.indices(length)
        kept = (range(start, stop, step), range(0))
        candidates = [slice(None)]
        if step == 1:
            size = stop - start
            candidates += [slice(length - size, length), slice(0, size)]
            candidates += [slice(a, b) for a in (start - 1, start, start + 1) for b in (stop - 1, stop, stop + 1)]
        else:  # every second: the other ones, or a half
            candidates += [slice(k, None, step) for k in range(step)]
            candidates += [slice(k * length // step, (k + 1) * length // step) for k in range(step)]
        if 1 < length == 2 * len(kept[0]) and step == 1:
            candidates += [slice(k, None, 2) for k in (0, 1)]
        seen = set(kept)
        for other in candidates:
            inside = (other.start or 0) >= 0 and (other.stop is None or other.stop <= length)
            numbers = range(*other.indices(length))
            if inside and numbers not in seen:
                seen.add(numbers)
                yield other


def _words(item: Any) -> str:
    if not isinstance(item, slice):
        return f"entry {item}"
    parts = ["" if part is None else str(part) for part in (item.start, item.stop, item.step)]
    return f"[{':'.join(parts if parts[2] else parts[:2])}]"


INDEXING: dict[str, tuple[Maker, ...]] = {"__getitem__": (_taken,)}
