"""Encoders, and the run that fills a store.

Names are looked up when they are first used: this package is loaded with ``import headwater``, which must cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.embed.encoder import (
        Content,
        Encoded,
        Encoder,
        Precision,
        content_key,
        key_of_file,
        load_again,
        load_encoder,
        unique_images,
        unique_texts,
    )
    from headwater.embed.run import EmbedResult, Shard, fill
    from headwater.embed.source import Source, no_network, source_of

__all__ = [
    "Content",
    "EmbedResult",
    "Encoded",
    "Encoder",
    "Precision",
    "Shard",
    "Source",
    "content_key",
    "fill",
    "key_of_file",
    "load_again",
    "load_encoder",
    "no_network",
    "source_of",
    "unique_images",
    "unique_texts",
]

_MODULES = {
    "EmbedResult": "run",
    "Shard": "run",
    "fill": "run",
    "Source": "source",
    "no_network": "source",
    "source_of": "source",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'headwater.embed' has no attribute {name!r}")
    return getattr(import_module(f"headwater.embed.{_MODULES.get(name, 'encoder')}"), name)
