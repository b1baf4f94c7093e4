"""Tiny encoders of every kind, a file a family, which `MEMBERS` builds by name."""

from tests.models import decoders, dual, text, vision
from tests.models.parts import SIDE, Tiny

__all__ = ["MEMBERS", "SIDE", "Tiny"]

MEMBERS = {
    **vision.MEMBERS,
    **dual.MEMBERS,
    **text.MEMBERS,
    **decoders.MEMBERS,
    "builtin-clip": lambda folder: Tiny("builtin:clip", ("image", "text")),
    "texture": lambda folder: Tiny("builtin:texture", ("image",)),
    "ngram": lambda folder: Tiny("builtin:ngram", ("text",)),
    "stub": lambda folder: Tiny("stub:16", ("image", "text")),
}
"""Functions from an empty folder to the encoder that is saved in it."""
