"""Encoders, and the run that fills a store."""

from headwater.embed.encoder import (
    Content,
    Encoded,
    Encoder,
    Precision,
    content_key,
    key_of_file,
    load_encoder,
    unique_images,
    unique_texts,
)
from headwater.embed.run import EmbedResult, fill

__all__ = [
    "Content",
    "EmbedResult",
    "Encoded",
    "Encoder",
    "Precision",
    "content_key",
    "fill",
    "key_of_file",
    "load_encoder",
    "unique_images",
    "unique_texts",
]
