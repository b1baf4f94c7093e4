"""Options as values: frozen dataclasses whose fields a function also accepts as keyword arguments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any, TypeVar

from headwater.errors import InputError, UnknownOption, nearest

Value = TypeVar("Value")
RENAMED = {"bar": " Progress bars are shown with progress=True."}
"""Arguments of earlier versions, and what takes their place."""


def with_options(function: str, options: Mapping[str, Any], *values: Any, only: Collection[str] | None = None) -> Any:
    """Return the values as a tuple, with the fields replaced that options name; a single value is returned alone.

    Parameters
    ----------
    function
        Name of the function that was called, for the message.
    options
        Fields of the values, by name.
    values
        Frozen dataclasses, no two of which have a field of the same name.
    only
        The fields that the function uses; all of them when left out.

    Raises
    ------
    UnknownOption
        When an option is not a field of any value: a TypeError, as Python raises for an unknown argument.
    InputError
        When a field that the function does not use is set.

    Examples
    --------
    >>> from headwater.evaluate.options import Protocol
    >>> with_options("fit_head", {"folds": 3}, Protocol(seed=7)).folds
    3
    """
    owner = {field.name: number for number, value in enumerate(values) for field in fields(value)}
    known = [name for name in owner if only is None or name in only]
    for name in options:
        if name not in known:
            hint = RENAMED.get(name, nearest(name, known))
            raise UnknownOption(f"{function}() got an unexpected keyword argument {name!r}.{hint}")
    found = tuple(
        replace(value, **{name: given for name, given in options.items() if owner[name] == number})
        for number, value in enumerate(values)
    )
    for value in found:
        if idle := [name for name in _given(value) if name not in known]:
            option = idle[0].replace("_", "-")
            raise InputError(f"{function} does not use {idle[0]} (--{option}). Leave it out.")
    return found if len(found) != 1 else found[0]


def picked(kind: type[Value], given: Mapping[str, Any], **named: Any) -> Value:
    """Make a value from the options that are named as its fields; None stands for the field's default.

    Parameters
    ----------
    kind
        A dataclass.
    given
        Options by name, such as the arguments of a command; those that are not fields are ignored.
    named
        Fields whose option has another name, or that are made from several options.
    """
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    options = {name: value for name, value in {**given, **named}.items() if name in names and value is not None}
    return kind(**options)


def as_tuple(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return one name, or several without repetition, as a tuple.

    Examples
    --------
    >>> as_tuple("a"), as_tuple(["a", "b", "a"]), as_tuple(None)
    (('a',), ('a', 'b'), ())
    """
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))


def _given(value: Any) -> list[str]:
    """Return the fields of a dataclass whose value is not the default."""
    out = []
    for field in fields(value):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if default is not MISSING and getattr(value, field.name) != default:
            out.append(field.name)
    return out
