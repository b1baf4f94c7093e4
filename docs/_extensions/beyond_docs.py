"""Links from pages to files outside ``docs/`` lead to the pages that hold them."""

from __future__ import annotations

import posixpath
import re
from typing import Any

PAGES = {"benchmarks/RESULTS.md": "results.md", "README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_RECIPE = re.compile(r"recipes/(\w+)\.py")
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
    >>> rewritten("[A1](../recipes/a1_resnet34.py)", "recipes.md")
    '[A1](gallery/a1_resnet34.rst)'
    """
    folder = posixpath.dirname(f"docs/{page}")

    def target(match: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(folder, match[1]))
        recipe = _RECIPE.fullmatch(place)
        page = f"gallery/{recipe[1]}.rst" if recipe else PAGES.get(place)
        return match[0] if page is None else f"]({posixpath.relpath(f'docs/{page}', folder)}{match[2] or ''})"

    return _LINK.sub(target, text)


def setup(app: Any) -> dict[str, Any]:
    """Rewrite each page when it is read."""

    def read(app: Any, name: str, source: list[str]) -> None:
        source[0] = rewritten(source[0], f"{name}.md")

    app.connect("source-read", read)
    return {"parallel_read_safe": True}
