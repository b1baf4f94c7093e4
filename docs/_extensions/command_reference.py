"""The directive ``commands``: every command with its arguments and options, as ``headwater --help`` shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


def pages() -> Iterator[str]:
    """Yield the lines of the reference, in Markdown: each family of commands, then each of its commands."""
    from headwater.cli import COMMANDS, app

    group: Any = typer.main.get_command(app)
    for family, names in COMMANDS.items():
        yield from [f"## {family}", ""]
        for name in names:
            yield from _command(group.get_command(None, name), name)


def _command(command: Any, name: str) -> Iterator[str]:
    yield from [f"### {name}", ""]
    text, _, example = (command.help or "").partition("\n\nExample:\n")
    yield from [*text.split("\n"), ""]
    if example:
        yield from ["```bash", *(line.strip() for line in example.rstrip().split("\n")), "```", ""]
    panels = command.panels(typer.Context(command))
    for panel, records in panels.items():
        if [names for names, _ in records] == ["--help"]:
            continue
        yield from [f"| {panel} | |", "|---|---|"]
        yield from (f"| {_code(names)} | {_plain(says)} |" for names, says in records)
        yield ""


def _plain(words: str) -> str:
    """Return words as they are, in a cell of a table."""
    return re.sub(r"([\\`*_|<>\[\]{}$~#])", r"\\\1", " ".join(words.split()))


def _code(words: str) -> str:
    return f"`` {words} ``".replace("|", "\\|")


class Commands(SphinxDirective):
    """Parse the reference in place."""

    def run(self) -> list[nodes.Node]:
        """Return its nodes."""
        holder = nodes.section()
        holder.document = self.state.document
        lines = StringList(list(pages()), source="headwater --help")
        self.state.nested_parse(lines, self.content_offset, holder, match_titles=True)
        return holder.children


def setup(app: Any) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
