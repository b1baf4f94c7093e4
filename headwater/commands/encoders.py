"""The command that lists the known encoders."""

from __future__ import annotations

from typing import Annotated

from headwater.commands import options as o
from headwater.commands.output import show


def encoders(
    name: Annotated[
        str | None, o.typer.Argument(metavar="[NAME]", help="Say everything about this encoder, such as uni2-h.")
    ] = None,
    licence: o.Licence = "any",
    json: o.Json = False,
) -> None:
    """List known encoders: licence, size, scale, traps.

    A name such as uni2-h is an --encoder. Each stands for a full spec, which is what a store keeps.

    Example:
      headwater encoders --licence commercial
      headwater encoders uni2-h
    """
    from headwater import api

    found = api.encoders(name, licence=licence)
    show(found.lines(), found.to_dict(), json)
