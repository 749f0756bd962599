"""Mistakes in the order of steps: layers exchanged, a step at another place, another array than torch takes."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from compare.hypotheses.activations import SWAPS
from compare.hypotheses.edit import BOUNDARIES, CallSite, Edit, Hypothesis
from compare.hypotheses.variant import after, identity, on_operand

__all__ = ["exchanges", "moves", "other_arrays", "recomputed", "rotary"]

_NORMS = {"layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm"}
_WEIGHTED = {"linear", *(f"conv{n}d" for n in (1, 2, 3)), *(f"conv_transpose{n}d" for n in (1, 2, 3))}
_NOT_MOVED = {
    "reshape",
    "view",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "contiguous",
    "__getitem__",
    *BOUNDARIES,
}
# They work on an array of any length as well: a softmax before the largest are chosen.
_ANY_SHAPE = {"softmax", "log_softmax", "sigmoid", "tanh", "relu", "gelu", "silu", "exp"}
_REACH = 8  # calls: what a port moves, it moves not far


def exchanges(model: torch.nn.Module, near: Sequence[CallSite]) -> Iterator[Hypothesis]:
    """Modules or arrays of equal shapes that stand for one another, those that are used near the place first."""
    used = dict.fromkeys(name for site in near for name in site.parameters if name)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    owners = dict.fromkeys(name.rpartition(".")[0] for name in used)
    held = _contents(shapes)
    seen: set[frozenset[str]] = set()
    for owner in owners:
        for module in _ancestors(owner):
            for other in held:
                pair = frozenset((module, other))
                apart = not f"{other}.".startswith(f"{module}.") and not f"{module}.".startswith(f"{other}.")
                if apart and held[other] == held.get(module) and pair not in seen:
                    seen.add(pair)
                    yield _exchanged_modules(module, other, list(held[module]))
    for name in used:
        for other, shape in shapes.items():
            pair = frozenset((name, other, "array"))
            if other != name and shape == shapes[name] and shape and pair not in seen:
                seen.add(pair)
                summary = f"{name} and {other}, which have one shape, are exchanged"
                reads = {name: other, other: name}
                yield Hypothesis("weights_exchanged", summary, "give each its own weights", reads=reads)
    for name in used:
        for other, shape in shapes.items():
            if other != name and shape == shapes[name] and shape:
                summary = f"{other} is used where torch has {name}"
                yield Hypothesis("weight_reused", summary, f"use {name}", reads={name: other})


def _ancestors(module: str) -> Iterator[str]:
    parts = module.split(".") if module else []
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])


def _contents(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Module -> its arrays' names inside it, with their shapes."""
    held: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        for module in _ancestors(name.rpartition(".")[0]):
            held.setdefault(module, {})[name.removeprefix(f"{module}.")] = shape
    return held


def _exchanged_modules(module: str, other: str, inside: Sequence[str]) -> Hypothesis:
    reads = {f"{a}.{name}": f"{b}.{name}" for a, b in ((module, other), (other, module)) for name in inside}
    return Hypothesis(
        "layers_exchanged",
        f"{module} and {other}, whose weights have the same shapes, stand in each other's place",
        "apply them in torch's order, each with its own weights",
        reads=reads,
        exchanged=(module, other),
    )


def moves(sites: Sequence[CallSite], near: Sequence[CallSite]) -> Iterator[Hypothesis]:
    """A call that keeps the shape, done earlier or later than torch does it; a bias added later."""
    numbers = [site.number for site in near]
    if not numbers:
        return
    busy = Counter(site.module for site in sites if site.function not in BOUNDARIES)
    around = [site for site in sites if min(numbers) - _REACH <= site.number <= max(numbers) + _REACH]
    for site in around:
        if site.function in _NOT_MOVED or site.repeat is None or not site.shapes or site.shapes[0] != site.result:
            continue
        if site.function in _WEIGHTED:
            continue
        for target in around:
            if target is not site and abs(target.number - site.number) <= 2 * _REACH:
                yield from _moved(site, target, _own(site, busy))
    for site in around:
        for target in around:
            if site.function == "add" and site.scalars and target.function == "rsqrt" and site.number in target.sources:
                yield _epsilon_outside(site, target)
    for site in around:
        if site.function in _WEIGHTED and len([name for name in site.parameters if name]) > 1:
            for target in around:
                if site.number < target.number <= site.number + _REACH and target.result == site.result:
                    yield _bias_later(site, target, _own(site, busy))


def _own(site: CallSite, busy: Mapping[str, int]) -> tuple[str, ...]:
    """The module that does nothing else: with its call, its edges change place."""
    return (site.module,) if site.module and busy[site.module] == 1 else ()


def _moved(site: CallSite, target: CallSite, owner: tuple[str, ...]) -> Iterator[Hypothesis]:
    kind = "norm" if site.function in _NORMS else "activation" if not site.scalars and len(site.shapes) == 1 else "call"
    repeat = site.repeat
    assert repeat is not None
    gone = Edit(site, identity)
    verb = f"{site.function} {f'of {site.module} ' if site.module else ''}"
    step = {"entering": f"at the entry of {target.module}", "returning": "at the end of the model"}
    after_words = step.get(target.function, f"after {target.function} {target.place}".strip())

    def applied(x: torch.Tensor) -> torch.Tensor:
        result = repeat(x)
        return result[0] if isinstance(result, tuple) else result

    fix = f"apply {site.function} where torch does"
    alike = target.result == site.result
    if alike or (site.function in _ANY_SHAPE and len(target.result or ()) == len(site.result or ())):
        summary = f"{verb}is applied {after_words}, not where torch has it"
        yield Hypothesis(f"{kind}_moved", summary, fix, (gone, Edit(target, after(applied))), moved=owner)
    if target.function in BOUNDARIES or target.number == site.number:
        return
    for number, (shape, name) in enumerate(zip(target.shapes[:3], target.parameters, strict=False)):
        if shape == site.result and not name and (len(target.shapes) > 1 or number):
            summary = (
                f"{verb}is applied to argument {number} of {target.function} {target.place}, not where torch has it"
            )
            edit = Edit(target, on_operand(number, applied))
            yield Hypothesis(f"{kind}_moved", summary.strip(), fix, (gone, edit), moved=owner)


def _epsilon_outside(site: CallSite, target: CallSite) -> Hypothesis:
    epsilon = site.scalars[0]

    def outside(func: Any, args: Any, kwargs: Any) -> Any:
        return 1 / (args[0].sqrt() + epsilon)

    return Hypothesis(
        "norm_epsilon_outside_root",
        f"{site.place}: epsilon is added to the root, torch adds it to the variance",
        "put epsilon under the root",
        (Edit(site, identity), Edit(target, outside)),
    )


def _bias_later(site: CallSite, target: CallSite, owner: tuple[str, ...]) -> Hypothesis:
    cell: dict[str, torch.Tensor] = {}

    def without(func: Any, args: Any, kwargs: Any) -> Any:
        cell["bias"] = args[2] if len(args) > 2 else kwargs["bias"]
        placed = (*args[:2], None, *args[3:]) if len(args) > 2 else args
        named = kwargs if len(args) > 2 else {**kwargs, "bias": None}
        return func(*placed, **named)

    def plus(x: torch.Tensor) -> torch.Tensor:
        bias = cell["bias"]
        return x + (bias if site.function == "linear" else bias.reshape(-1, *[1] * (x.dim() - 2)))

    return Hypothesis(
        "bias_moved",
        f"the bias of {site.module or site.function} is added after {target.function}",
        "add the bias before it, as part of the layer",
        (Edit(site, without), Edit(target, after(plus))),
        moved=owner,
    )


def other_arrays(sites: Sequence[CallSite], near: Sequence[CallSite]) -> Iterator[Hypothesis]:
    """An earlier array of the same shape in place of one that torch takes, or added to what it returns."""
    for site in near:
        if site.function in BOUNDARIES and site.function != "returning" and not site.module:
            continue
        done = [s for s in sites if s.number + s.span < site.number]  # a call that site is a part of is not
        for source in [s for s in done if s.result == site.result][-12:][::-1]:
            words = source.function if source.function not in BOUNDARIES else f"the input of {source.module}"
            origin = f"{words} {source.place if source.function not in BOUNDARIES else ''}".strip()
            if source.number not in site.sources[:1] or site.function not in ("add", "__iadd__"):
                yield _tapped(
                    "term_extra",
                    f"the result of {origin} is added to what {_name(site)} returns",
                    "leave this residual connection out",
                    source,
                    site,
                    lambda x, y: x + y,
                )
        for number, (shape, name) in enumerate(zip(site.shapes[:3], site.parameters, strict=False)):
            if name or not shape:
                continue
            for source in [s for s in done if s.result == shape][-12:][::-1]:
                if source.number == (site.sources[number] if number < len(site.sources) else -1):
                    continue
                words = source.function if source.function not in BOUNDARIES else f"the input of {source.module}"
                origin = f"{words} {source.place if source.function not in BOUNDARIES else ''}".strip()
                yield _tapped(
                    "wrong_array",
                    f"argument {number} of {_name(site)} is the result of {origin}",
                    "take the array that torch takes",
                    source,
                    site,
                    number,
                )


def recomputed(sites: Sequence[CallSite], near: Sequence[CallSite]) -> Iterator[Hypothesis]:
    """What several calls compute together (x sigmoid(1.7 x)), as one known function of an array before them."""
    last = [site for site in near if site.function not in BOUNDARIES and site.result and site.span == 0][-2:]
    for site in reversed(last):
        earlier = [s for s in sites if s.number < site.number and s.result == site.result and s.span == 0][-6:]
        for source in reversed(earlier):
            for name, function in SWAPS.items():
                yield _tapped(
                    "activation_swapped",
                    f"{name} stands where torch computes {_name(site)}",
                    "compute what torch does",
                    source,
                    site,
                    lambda _, y, function=function: function(y),  # type: ignore[misc]
                )


_PARTS = {"chunk", "split", "__getitem__", "narrow", "tensor_split", "unflatten", "reshape", "view", "unbind"}


def rotary(sites: Sequence[CallSite]) -> Iterator[Hypothesis]:
    """Rotary positions that turn neighbouring features where torch turns the halves, or the other way round.

    Queries and keys in the other order of features give the same scores as a rotation of the other pairs.
    """
    taken: dict[int, list[CallSite]] = {}
    for site in sites:
        if site.sources:
            taken.setdefault(site.sources[0], []).append(site)
    pairs: dict[int, list[CallSite]] = {}  # length of the features -> arrays that are taken apart in two along them
    for source in sites:
        size = source.result[-1] if source.result and len(source.result) > 2 else 1
        if size % 2 == 0 and _in_pairs(size, taken.get(source.number, ())):
            pairs.setdefault(size, []).append(source)
    for turned in pairs.values():
        for parts, words in ((-1, "neighbouring features"), (2, "the two halves of the features")):
            edits = tuple(Edit(site, after(lambda x, parts=parts: _dealt(x, parts))) for site in turned)  # type: ignore[misc]
            yield Hypothesis(
                "rotary_interleaved",
                f"the rotation turns {words} together, torch turns others",
                "pair the features as torch does",
                edits,
            )


def _in_pairs(size: int, takers: Sequence[CallSite]) -> bool:
    """Whether an array's last axis is taken apart in two, as halves or as pairs."""
    parts = [site.result for site in takers if site.function in _PARTS and site.result]
    halves = [shape for shape in parts if shape[-1] == size // 2]
    pairs = [shape for shape in parts if shape[-2:] in ((size // 2, 2), (2, size // 2))]
    several = any(site.function in ("chunk", "split", "tensor_split") for site in takers)
    return len(halves) > 1 or (several and bool(halves)) or bool(pairs)


def _dealt(x: torch.Tensor, parts: int) -> torch.Tensor:
    """The last axis dealt out: (a, b, c, d) becomes (a, c, b, d)."""
    shape = (-1, 2) if parts == -1 else (2, -1)
    return x.unflatten(-1, shape).transpose(-1, -2).flatten(-2)


def _name(site: CallSite) -> str:
    return f"the input of {site.module}" if site.function in BOUNDARIES else f"{site.function} {site.place}"


def _tapped(
    name: str,
    summary: str,
    fix: str,
    source: CallSite,
    site: CallSite,
    use: int | Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Hypothesis:
    cell: dict[str, torch.Tensor] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        cell["value"] = x
        return x

    if isinstance(use, int):
        replace = on_operand(use, lambda _: cell["value"])
    else:
        replace = after(lambda x: use(x, cell["value"]))
    return Hypothesis(name, summary, fix, (Edit(source, after(keep)), Edit(site, replace)))
