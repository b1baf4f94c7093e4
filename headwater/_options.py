"""Options as values: frozen dataclasses whose fields a function also accepts as keyword arguments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any, TypeVar

from headwater.errors import InputError, UnknownOption, nearest

Value = TypeVar("Value")
RENAMED = {
    "bar": " Progress bars are shown with progress=True.",
    "objective": " Contrastive training is the function contrast.",
}
"""Arguments of earlier versions and of commands, and what takes their place."""
REQUIRED = {"spec": " Name the encoder with encoder=SPEC."}
"""Fields that an argument of the function gives, and which one it is."""


def with_options(function: str, options: Mapping[str, Any], *values: Any, only: Collection[str] | None = None) -> Any:
    """Return the values as a tuple, with the fields replaced that options name; a single value is returned alone.

    Parameters
    ----------
    function
        Name of the function that was called, for the message.
    options
        Fields of the values, by name. A field without a default is no option: it is an argument of the function.
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
    required = {field.name for value in values for field in fields(value) if _default(field) is MISSING}
    known = [name for name in owner if name not in required and (only is None or name in only)]
    for name in options:
        if name not in known:
            hint = REQUIRED[name] if name in required else RENAMED.get(name, nearest(name, known))
            raise UnknownOption(f"{function}() got an unexpected keyword argument {name!r}.{hint}")
    found = tuple(
        replace(value, **{name: given for name, given in options.items() if owner[name] == number})
        for number, value in enumerate(values)
    )
    for value in found:
        if idle := [name for name in fields_given(value) if name not in known]:
            raise InputError(f"{function} does not use {idle[0]} ({option_of(idle[0])}). Leave it out.")
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


def option_of(name: str) -> str:
    """Return the option of a command for a field.

    Examples
    --------
    >>> option_of("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def fields_given(value: Any) -> list[str]:
    """Return the fields of a dataclass whose value is not the default."""
    out = []
    for field in fields(value):
        default = _default(field)
        if default is not MISSING and not _same(getattr(value, field.name), default):
            out.append(field.name)
    return out


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _same(value: Any, default: Any) -> bool:
    """Whether a value is the default; one that cannot be compared as a whole, such as an array, is not."""
    try:
        return bool(value == default)
    except ValueError:
        return False
