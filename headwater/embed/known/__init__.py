"""Known encoders: names that stand for a full spec, with licence, scale and traps.

A name is only a short way to write a spec. What a store keeps is the spec in its long form, so that a name never means
two things: if a later version of this table changed an entry, features of both would be told apart.
"""

from __future__ import annotations

import difflib

from headwater.embed.known import general, image_text, mammography, pathology
from headwater.embed.known.entry import Difference, Known
from headwater.errors import EncoderError

__all__ = ["KNOWN", "Difference", "Known", "known_encoder", "known_of", "nearest_names", "short_name"]

KNOWN: dict[str, Known] = {
    entry.name: entry for entry in (*pathology.ENTRIES, *image_text.ENTRIES, *mammography.ENTRIES, *general.ENTRIES)
}
"""Every known encoder by its name, in the order in which they are listed."""
_BY_SPEC = {str(entry.spec): entry for entry in KNOWN.values() if entry.spec is not None}


def known_encoder(name: str) -> Known:
    """Return a known encoder.

    Raises
    ------
    EncoderError
        When there is none of this name; the message has the nearest names.
    """
    if name not in KNOWN:
        raise EncoderError(f"no known encoder is called {name[:80]!r}.{nearest_names(name)} List: headwater encoders")
    return KNOWN[name]


def known_of(spec: str) -> Known | None:
    """Return the known encoder that a spec in its long form stands for; None if it is none of them."""
    return _BY_SPEC.get(spec)


def short_name(spec: str) -> str:
    """Return the name of the known encoder that a spec stands for, else the spec without its long form.

    Examples
    --------
    >>> short_name(str(KNOWN["virchow2"].spec)), short_name("timm:resnet34.a1_in1k")
    ('virchow2', 'timm:resnet34.a1_in1k')
    """
    found = known_of(spec)
    return spec.partition("?")[0] if found is None else found.name


def nearest_names(name: str) -> str:
    """Return `` Did you mean A or B?`` for the closest names, or an empty string."""
    folded = name.lower().replace("_", "-")
    close = [one for one in KNOWN if one.startswith(folded) or folded.startswith(one)] if folded else []
    close += difflib.get_close_matches(folded, KNOWN, n=3)
    names = list(dict.fromkeys(close))[:3]
    return f" Did you mean {' or '.join(names)}?" if names else ""
