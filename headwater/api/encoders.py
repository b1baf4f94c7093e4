"""encoders: list the known encoders, or say all about one."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

from headwater._checks import one_of
from headwater._shown import Shown
from headwater._words import aligned, any_of
from headwater.embed.known import KNOWN, Known, known_encoder, require_licence
from headwater.embed.known.entry import Licence

WIDTH = 80
HEADER = ("name", "values", "pixels", "µm/px", "text", "commercial", "gated")
USE = {True: "yes", False: "no", None: "terms"}
GROUPS = {
    "here": "run here",
    "author's code": "need code of their authors (headwater encoders NAME prints a file for python:FILE.py:CLASS)",
    "not here": "do not run with the versions that headwater needs",
}


@dataclass(frozen=True, repr=False)
class Encoders(Shown):
    """Known encoders.

    Attributes
    ----------
    entries
        What is known of each.
    full
        Whether `lines` says everything about each instead of one row.
    """

    entries: tuple[Known, ...]
    full: bool = False

    def lines(self) -> list[str]:
        """Return a table of at most 80 columns, or everything about one encoder."""
        if self.full:
            return [line for entry in self.entries for line in described(entry)]
        out: list[str] = []
        widths = aligned([HEADER, *map(_row, self.entries)])
        rows = dict(zip((entry.name for entry in self.entries), widths[1:], strict=True))
        for runs, heading in GROUPS.items():
            of = [entry.name for entry in self.entries if entry.runs == runs]
            if of:
                out += [*([""] if out else []), *textwrap.wrap(f"{len(of)} {heading}", WIDTH), "", widths[0]]
                out += [rows[name] for name in of]
        return [*out, "", "(µm/px): a convention, not stated by the authors; terms: read the licence"]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return plain JSON values."""
        return [as_json(entry) for entry in self.entries]


def encoders(name: str | None = None, *, licence: Licence = "any") -> Encoders:
    """List the known encoders: licence, scale, size, and whether they run here.

    Parameters
    ----------
    name
        Say everything about this one, its traps and the file for an encoder that needs its authors' code included.
    licence
        ``commercial`` leaves out encoders whose licence does not clearly allow commercial use.

    Raises
    ------
    EncoderError
        When no encoder is known by this name, or its licence does not allow commercial use.

    Examples
    --------
    >>> encoders("midnight", licence="commercial").entries[0].licence
    'MIT'
    >>> len(encoders().entries) > len(encoders(licence="commercial").entries) > 10
    True
    """
    one_of("--licence", licence, get_args(Licence))
    if name is None:
        return Encoders(tuple(entry for entry in KNOWN.values() if licence == "any" or entry.commercial))
    entry = known_encoder(name)
    require_licence(name, licence)
    return Encoders((entry,), full=True)


def described(entry: Known) -> list[str]:
    """Return everything that is known of an encoder, in lines of at most 80 columns except for code and addresses."""
    facts = [(name, value) for name, value in _facts(entry) if value]
    widest = max(len(name) for name, _ in facts)
    out = [entry.name]
    for name, value in facts:
        wrapped = textwrap.wrap(value, WIDTH - widest - 4, break_long_words=False, break_on_hyphens=False)
        out += [f"  {(name if i == 0 else '').ljust(widest)}  {line}" for i, line in enumerate(wrapped)]
    if entry.spec is not None:
        out += ["", "the same in the long form:", "", f"  {entry.command}"]
    if entry.snippet is not None:
        file = re.sub(r"[-.]", "_", entry.name) + "_encoder.py"  # not the name of the package that it imports
        kind = entry.snippet.partition("\nclass ")[2].partition(":")[0]
        out += ["", f"Save this as {file}, and pass --encoder python:{file}:{kind}", "", *entry.snippet.splitlines()]
    return out


def _facts(entry: Known) -> Iterator[tuple[str, str]]:
    yield "about", entry.about
    yield (
        "for",
        {"general": "everyday images, as a control", "medical": "several kinds of medical images"}.get(
            entry.subject, entry.subject
        ),
    )
    runs = {"here": "here, by its name", "author's code": "with its authors' code, see below"}
    yield "runs", runs.get(entry.runs, f"not here: {entry.blocked}")
    yield "vector", f"{entry.dim:,} values, {entry.pooled}"
    tokens = "" if entry.n_tokens is None else f"{entry.n_tokens} of patches"
    yield "tokens", tokens + (f", {entry.n_registers} registers" if entry.n_registers else "")
    yield "sees", f"{entry.pixels[0]} x {entry.pixels[1]} pixels" + (", and texts" if entry.text else "")
    transform = entry.transform if entry.spec is None else entry.spec.transform or entry.transform
    own = "" if entry.spec is None else "by its own processor"
    yield "images", own if transform is None else str(transform)
    scale = any_of([f"{mpp:g}" for mpp in entry.mpp])
    yield "scale", scale and f"{scale} microns a pixel{'' if entry.mpp_stated else ' (a convention, not stated)'}"
    yield "precision", entry.precision if entry.precision != "fp32" else ""
    use = {True: "commercial use allowed", False: "no commercial use", None: "read its terms before commercial use"}
    yield "licence", f"{entry.licence}: {use[entry.commercial]}"
    yield "gated", "yes: accept its terms on its page, then hf auth login" if entry.gated else "no"
    yield "page", entry.source
    if entry.sha256 is not None:
        yield "weights", f"{entry.weights_file}, sha256 {entry.sha256}"
    yield "trap", entry.trap
    for one in entry.differences:
        yield one.setting, f"elsewhere {one.elsewhere}; {one.why} ({one.source})"


def as_json(entry: Known) -> dict[str, Any]:
    """Return an entry as plain JSON values."""
    values = asdict(entry)
    transform = entry.transform if entry.spec is None else entry.spec.transform or entry.transform
    values["transform"] = None if transform is None else transform.settings()
    values["spec"] = None if entry.spec is None else str(entry.spec)
    return {**values, "runs": entry.runs}


def _row(entry: Known) -> tuple[str, ...]:
    height, width = entry.pixels
    scale = f"{entry.mpp[0] if 0.5 not in entry.mpp else 0.5:g}" if entry.mpp else ""
    return (
        entry.name,
        str(entry.dim),
        str(height) if height == width else f"{height}x{width}",
        scale if entry.mpp_stated or not scale else f"({scale})",
        "yes" if entry.text else "",
        USE[entry.commercial],
        "yes" if entry.gated else "",
    )


def table_of_entries() -> str:
    """Return the table of docs/encoders.md, in Markdown."""
    lines = ["| name | made for | values | pixels | µm/px | text | licence | commercial | gated | runs |"]
    lines.append("|---" * 10 + "|")
    for entry in KNOWN.values():
        name, values, pixels, scale, text, use, gated = _row(entry)
        cells = (f"[{name}]({entry.source})", entry.subject, values, pixels, scale, text, entry.licence, use, gated)
        lines.append(f"| {' | '.join((*cells, entry.runs))} |")
    return "\n".join(lines)
