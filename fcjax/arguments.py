"""What is wrong with a command line, in one sentence. The parser itself only says that something is."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from fcjax.expectations import UsageError, expect_one_of, nearest

__all__ = ["explain", "given_options", "in_one_line"]

Command = Callable[..., Any]
NUMBERS: dict[type, str] = {int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Option:
    """A flag or a positional argument.

    Args:
        name: as in Python, ``batch_size``.
        type: of its value, without ``Annotated``.
        positional: it is told by its place.
        required: it has no default.
    """

    name: str
    type: Any
    positional: bool
    required: bool

    @property
    def flag(self) -> str:
        """As it is typed."""
        return "--" + self.name.replace("_", "-")


def explain(arguments: Sequence[str], commands: Mapping[str, Command]) -> None:
    """Raises a ``UsageError`` that names what is wrong with ``arguments``; returns where nothing is.

    Args:
        arguments: what stood after the program's name.
        commands: name -> a function or dataclass whose signature is the command's options.
    """
    if not arguments:
        raise UsageError(f"expected a command ({', '.join(commands)}), found none")
    name, *rest = arguments
    expect_one_of("command", name, tuple(commands))
    options = _options(commands[name])
    positional = iter([option for option in options.values() if option.positional])
    seen = set()
    for flag, values in _groups(rest):
        option = None if flag is None else _named(flag, options, name)
        if option is not None:
            seen.add(option.name)
            values = _without_its_own(option, values)
        for value in values:
            option = next(positional, None)
            if option is None:
                raise UsageError(f"{name}: expected options only, found {value!r}")
            seen.add(option.name)
            _expect_value(option, value)
    absent = [option for option in options.values() if option.required and option.name not in seen]
    if absent:
        missing = ", ".join(option.name.upper() if option.positional else option.flag for option in absent)
        raise UsageError(f"{name}: expected {missing}, found none")


def given_options(arguments: Sequence[str]) -> frozenset[str]:
    """Names, as in Python, of the flags among ``arguments``; ``--no-cache`` counts as ``cache``."""
    flags = {flag for flag, _ in _groups(arguments) if flag is not None}
    names = {flag.removeprefix("--").replace("-", "_") for flag in flags}
    return frozenset(names | {name.removeprefix("no_") for name in names})


def in_one_line(box: str) -> str:
    """The first paragraph of a message that the parser framed, without its frame."""
    lines = [line.strip(" │") for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if line[:1] in ("╭", "╰") or (line and set(line) <= {"─", "-"})]
    start, end = [*rules, -1, len(lines)][:2] if len(rules) > 1 else (-1, len(lines))
    return " ".join(filter(None, lines[start + 1 : end]))


def _options(command: Command) -> dict[str, Option]:
    hints = get_type_hints(command, include_extras=True)
    result = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        positional = get_origin(hint) is Annotated and tyro.conf.Positional in get_args(hint)
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        result[parameter.name] = Option(parameter.name, bare, positional, parameter.default is parameter.empty)
    return result


def _groups(arguments: Sequence[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Each flag with the values after it; first, without a flag, what stands before all flags."""
    flag: str | None = None
    values: list[str] = []
    for argument in arguments:
        if argument == "--":
            continue
        if re.match(r"-(?![\d.])", argument) and argument != "-" and not re.match(r"-(inf|nan)$", argument):
            yield flag, values
            flag, sign, value = argument.partition("=")
            values = [value] if sign else []
        else:
            values.append(argument)
    yield flag, values


def _named(flag: str, options: Mapping[str, Option], command: str) -> Option:
    name = flag.removeprefix("--").replace("-", "_")
    known = {option.name: option for option in options.values() if not option.positional}
    switches = {f"no_{option.name}": option for option in known.values() if option.type is bool}
    if flag.startswith("--") and name in known | switches:
        return (known | switches)[name]
    near = nearest(name, tuple(switches if name.startswith("no_") else known))
    hint = f"did you mean --{near.replace('_', '-')}?" if near else f"fcjax {command} --help lists them"
    raise UsageError(f"{flag}: expected an option of fcjax {command}, found none of this name; {hint}")


def _without_its_own(option: Option, values: list[str]) -> list[str]:
    """The values that are left for positional arguments, after the option has taken and checked its own."""
    if option.type is bool:
        return values
    several = get_origin(option.type) is tuple
    if not values and not several:
        raise UsageError(f"{option.name}: expected {_kind(option.type)} after {option.flag}, found nothing")
    own = values if several else values[:1]
    for value in own:
        _expect_value(option, value)
    return values[len(own) :]


def _alternatives(kind: Any) -> list[Any]:
    """The types that a value may have."""
    if get_origin(kind) in (Union, UnionType):
        return list(get_args(kind))
    return [get_args(kind)[0] if get_origin(kind) is tuple else kind]


def _kind(kind: Any) -> str:
    names = [NUMBERS.get(one, "a value") for one in _alternatives(kind) if one is not type(None)]
    return names[0] if len(names) == 1 else "a value"


def _expect_value(option: Option, value: str) -> None:
    alternatives = _alternatives(option.type)
    if type(None) in alternatives and value == "None":
        return
    for kind in alternatives:
        if get_origin(kind) is Literal:
            expect_one_of(option.name, value, get_args(kind))
        elif kind in NUMBERS:
            try:
                kind(value)
            except ValueError:
                apart = " (several with blanks between)" if get_origin(option.type) is tuple and "," in value else ""
                raise UsageError(f"{option.name}: expected {NUMBERS[kind]}{apart}, found {value!r}") from None
