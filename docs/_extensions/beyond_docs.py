"""Links from pages to files outside ``docs/`` lead to the pages that hold them."""

from __future__ import annotations

import posixpath
import re
from typing import Any

PAGES = {"benchmarks/RESULTS.md": "results.md", "README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")


def rewritten(text: str, page: str) -> str:
    """Return a page whose links out of ``docs/`` lead to pages of the site.

    Parameters
    ----------
    text
        The page, in Markdown.
    page
        Its path below ``docs/``.

    Examples
    --------
    >>> rewritten("[figures](../benchmarks/RESULTS.md) [heads](heads.md)", "speed.md")
    '[figures](results.md) [heads](heads.md)'
    >>> rewritten("[heads](../heads.md)", "decisions/0001.md")
    '[heads](../heads.md)'
    """
    folder = posixpath.dirname(f"docs/{page}")

    def target(match: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(folder, match[1]))
        if place not in PAGES:
            return match[0]
        return f"]({posixpath.relpath('docs/' + PAGES[place], folder)}{match[2] or ''})"

    return _LINK.sub(target, text)


def setup(app: Any) -> dict[str, Any]:
    """Rewrite each page when it is read."""

    def read(app: Any, name: str, source: list[str]) -> None:
        source[0] = rewritten(source[0], f"{name}.md")

    app.connect("source-read", read)
    return {"parallel_read_safe": True}
