"""How commands read their words and write their help: options by what they are about, defaults shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.core import TyperCommand

OTHER = "Options"


class Command(TyperCommand):
    """A command whose options stand under the heading of their panel, in the order of their panels."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of a command line; a word that is no choice of its option is an error of one line."""
        given = list(args)
        try:
            parsed: list[str] = super().parse_args(ctx, args)
        except Exception as error:
            param = getattr(error, "param", None)
            known = [] if param is None else _choices(get_type_hints(self.callback).get(param.name))
            if param is None or not known:
                raise
            from headwater.errors import InputError, nearest

            option, value = _given_to(param.opts, given)
            if param.param_type_name == "argument":
                option = param.metavar or param.name
                value = next((word for word in given if not word.startswith("-") and word not in known), "")
            raise InputError(f"{option} {value!r}.{nearest(value, known)} There are: {', '.join(known)}.") from error
        return parsed

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the command does, and an example."""
        write_help(self.help, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the options of each panel, then the others."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                is_argument = param.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or OTHER
                panels.setdefault(panel, []).append(record)
        others = panels.pop(OTHER, [])
        for panel, records in [*panels.items(), (OTHER, others)]:
            with formatter.section(panel):
                formatter.write_dl(records)


def write_families(group: Any, ctx: Any, formatter: Any, families: Mapping[str, Iterable[str]]) -> None:
    """Write the commands of each family, with the first sentence of their help."""
    limit = formatter.width - 6 - max(len(name) for names in families.values() for name in names)
    for family, names in families.items():
        with formatter.section(family):
            formatter.write_dl([(name, group.get_command(ctx, name).get_short_help_str(limit)) for name in names])


def write_help(text: str | None, formatter: Any) -> None:
    """Write paragraphs, and the lines of an example as they are."""
    paragraphs, _, example = (text or "").partition("\n\nExample:\n")
    with formatter.indentation():
        formatter.write_paragraph()
        formatter.write_text(paragraphs)
    if example:
        formatter.write("\n  Example:\n")
        for line in example.rstrip().split("\n"):
            formatter.write(f"    {line.strip()}\n")


def _choices(hint: Any) -> list[str]:
    """Return the words that a type allows, where it is a Literal, or one beside None."""
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    return [word for part in get_args(hint) for word in _choices(part)]


def _given_to(options: Iterable[str], words: list[str]) -> tuple[str, str]:
    """Return an option as it was written, and the last word that was given to it."""
    found = ("", "")
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in options:
            found = (name, value if equals else next(iter(words[place + 1 :]), ""))
    return found
