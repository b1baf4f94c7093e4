"""Commands for machines without a network: a wheelhouse, and the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from headwater.commands import options as o
from headwater.commands.options import option
from headwater.commands.output import show

TARGET = "The other machine"


def wheelhouse(
    out: Annotated[Path, o.typer.Argument(metavar="DIR", help="Folder to write.")],
    extra: Annotated[
        list[str] | None,
        option(panel=o.DATA, metavar="NAME", help="Extra of headwater, such as encoders, plots, dicom or all; repeat."),
    ] = None,
    python: Annotated[
        str | None, option(panel=TARGET, metavar="X.Y", help="Its Python, such as 3.12. Default: as here.")
    ] = None,
    glibc: Annotated[
        str | None,
        option(panel=TARGET, metavar="X.Y", help="Its C library, by ldd --version, such as 2.28. Default: as here."),
    ] = None,
    machine: Annotated[
        str | None, option(panel=TARGET, metavar="NAME", help="Its processor, by uname -m. Default: as here.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Fetch headwater and all that it needs, to install without a network.

    Run it where there is a network, and copy the folder. There, pip install -r DIR/requirements.txt compares every
    wheel with its digest.

    Example:
      headwater wheelhouse wheelhouse --extra encoders --extra plots --python 3.12 --glibc 2.28
    """
    from headwater import api

    done = api.wheelhouse(out, extras=extra or (), python=python, glibc=glibc, machine=machine, progress=True)
    show(done.lines(), done.to_dict(), json)


def docs(
    out: Annotated[
        Path | None, option(panel=o.OUTPUT, metavar="DIR", help="Folder to write. Default: one in headwater's cache.")
    ] = None,
    open_: Annotated[
        bool, option("--open/--no-open", panel=o.OUTPUT, help="Open it in a browser, if there is one.")
    ] = True,
    json: o.Json = False,
) -> None:
    """Open the documentation of this version, without a network.

    It prints the path of the first page.

    Example:
      headwater docs
    """
    from headwater import api

    found = api.docs(out)
    show(found.lines(), found.to_dict(), json)
    if open_:
        import webbrowser

        webbrowser.open(found.path.resolve().as_uri())
