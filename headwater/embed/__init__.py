"""Encoders, and the run that fills a store.

Names are imported when they are first used, since ``import headwater`` loads this package and must stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.embed.contents import (
        Content,
        Contents,
        as_content,
        content_key,
        distinct,
        key_of_file,
        keys_of,
        unique_images,
        unique_texts,
    )
    from headwater.embed.encoder import Encoded, Encoder
    from headwater.embed.load import load_again, load_encoder
    from headwater.embed.run import EmbedResult, Shard, fill
    from headwater.embed.source import Source, no_network, source_of

__all__ = [
    "Content",
    "Contents",
    "EmbedResult",
    "Encoded",
    "Encoder",
    "Shard",
    "Source",
    "as_content",
    "content_key",
    "distinct",
    "fill",
    "key_of_file",
    "keys_of",
    "load_again",
    "load_encoder",
    "no_network",
    "source_of",
    "unique_images",
    "unique_texts",
]

_MODULES = {
    **dict.fromkeys(("Content", "Contents", "content_key", "distinct", "key_of_file", "keys_of"), "contents"),
    **dict.fromkeys(("as_content", "unique_images", "unique_texts"), "contents"),
    "load_again": "load",
    "load_encoder": "load",
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
