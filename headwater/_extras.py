"""Optional dependencies: imported when needed; when one is missing, the error gives the ``pip install`` line."""

from __future__ import annotations

import importlib
from typing import Any

from headwater.errors import MissingExtra


def need(module: str, extra: str) -> Any:
    """Import and return an optional module.

    Parameters
    ----------
    module
        Dotted name to import, for example ``"faiss"``.
    extra
        The extra of headwater that installs it, for example ``"retrieve"``.

    Raises
    ------
    MissingExtra
        When the module is not installed; the message holds the ``pip install`` line.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is installed, but one of its own imports is missing: report that one
        raise MissingExtra(f"{module} is not installed. Run: pip install 'headwater[{extra}]'") from error
