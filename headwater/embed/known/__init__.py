"""Known encoders: names that stand for a full spec, with licence, scale and traps.

A name is only a short way to write a spec. What a store keeps is the spec in its long form, so that a name never means
two things: if a later version of this table changed an entry, features of both would be told apart.
"""

from __future__ import annotations

import difflib
from typing import get_args

from headwater.embed.known import general, image_text, mammography, pathology
from headwater.embed.known.entry import Difference, Known, Licence
from headwater.embed.model_spec import ModelSpec
from headwater.errors import EncoderError

__all__ = [
    "KNOWN",
    "Difference",
    "Known",
    "known_encoder",
    "known_of",
    "nearest_names",
    "require_licence",
    "short_name",
    "warn_of_plain",
]

KNOWN: dict[str, Known] = {
    entry.name: entry for entry in (*pathology.ENTRIES, *image_text.ENTRIES, *mammography.ENTRIES, *general.ENTRIES)
}
"""Every known encoder by its name, in the order in which they are listed."""
OWN = ("builtin:", "stub:", "joined:", "python:")
"""Encoders whose licence is headwater's or the user's own concern."""
_BY_REPOSITORY = {
    entry.spec.repository[0].lower(): entry
    for entry in KNOWN.values()
    if entry.spec is not None and entry.spec.repository is not None
}
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


def warn_of_plain(spec: str) -> str | None:
    """Return a warning if a spec names the weights of a known encoder without its settings; None if not.

    Such a spec leaves to the library how images are prepared and tokens are pooled, and what a timm model is built
    with. A spec with settings of its own has made its choice.

    Examples
    --------
    >>> warn_of_plain("timm:hf-hub:paige-ai/Virchow2").partition(":")[0]
    'these are the weights of virchow2 without its settings'
    >>> warn_of_plain("timm:resnet34.a1_in1k")
    """
    model = ModelSpec.parse(spec)
    if model.repository is None or model.arguments or model.transform is not None or known_of(spec) is not None:
        return None
    known = _BY_REPOSITORY.get(model.repository[0].lower())
    if known is None:
        return None
    return (
        f"these are the weights of {known.name} without its settings: what its authors say of resizing, normalisation "
        f"and pooling may not be followed. Pass --encoder {known.name}, or keep on if that is meant"
    )


def require_licence(spec: str, licence: Licence) -> None:
    """Refuse an encoder whose licence is not known to allow commercial use, if that is asked for.

    Parameters
    ----------
    spec
        The name of a known encoder, or a spec.

    Raises
    ------
    EncoderError
        When the licence forbids it, has terms of its own, or is not known; or ``licence`` is neither value.
    """
    if licence not in get_args(Licence):
        raise EncoderError(f"--licence {licence!r}: write {' or '.join(get_args(Licence))}.")
    if licence == "any" or spec.startswith(OWN):
        return
    known = KNOWN.get(spec) or known_of(spec)
    if known is None:
        raise EncoderError(
            f"{short_name(spec)}: --licence commercial: its licence is not known to headwater. Read it, and leave "
            "--licence out."
        )
    if not known.commercial:
        why = "does not allow" if known.commercial is False else "does not clearly allow"
        raise EncoderError(
            f"{known.name}: its licence ({known.licence}) {why} commercial use. Choose another, from headwater "
            f"encoders --licence commercial, or ask its owner: {known.source}."
        )


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
    folded = name.strip().lower().replace("_", "-")
    close = [one for one in KNOWN if one == folded]
    close += [one for one in KNOWN if one.startswith(folded) or folded.startswith(one)] if folded else []
    close += difflib.get_close_matches(folded, KNOWN, n=3)
    names = list(dict.fromkeys(close))[:3]
    return f" Did you mean {' or '.join(names)}?" if names else ""
