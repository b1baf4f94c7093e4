"""The spec of a feature set: everything that defines its vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np

from headwater._schema import Finite, Size, Word, read_as
from headwater.errors import SpecMismatch, StoreError

Modality = Literal["image", "text", "pair"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
DType = Annotated[str, msgspec.Meta(pattern="^(float16|float32)$")]
TokensDType = Annotated[str, msgspec.Meta(pattern="^(float16|float32|bfloat16|int8)$")]
Tokens = Annotated[str, msgspec.Meta(pattern="^(none|all|[1-9][0-9]{0,7})$")]

TILES = "tiles"
"""Name of the geometry of tiles in the preprocessing."""

PLACED = ("hf:", "python:", "joined:", "open_clip:local-dir:", "timm:local-dir:")
"""Prefixes of encoder specs that are followed by a path, or by a name on a hub."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything that a stored vector depends on, besides the item's content.

    Two feature sets have the same spec when every field is equal. Compute precision, library versions, device and batch
    size are not fields: they form the environment, which the journal records with every block.

    Attributes
    ----------
    encoder
        The encoder's spec, such as ``timm:resnet34.a1_in1k``.
    modality
        ``"image"``, ``"text"``, or ``"pair"`` of an image and its text, read together.
    weights
        BLAKE2b-128 digest of the encoder's parameters and buffers; empty if it has none.
    adapter
        Digest of the adapter's parameters, or None.
    preprocessing
        How pixels or words become the encoder's input, as plain JSON values.
    layer, pooling
        The layer whose features are taken, and how its tokens become one vector.
    dim, dtype
        Length and stored type (``float16`` or ``float32``) of a pooled vector.
    tokens
        ``"none"``, ``"all"``, or the number of tokens that they are pooled to.
    n_tokens
        Tokens per item; None if items have different numbers (texts) or no tokens are stored.
    token_dim
        Length of a token; None if no tokens are stored.
    tokens_dtype
        Stored type of tokens if it is not ``dtype``: ``float16``, ``float32``, ``bfloat16``, or ``int8``, which takes
        one byte per number and a float16 scale per token.
    logit_scale
        The factor by which a dual encoder multiplies cosines; None for other encoders.
    """

    encoder: Word
    modality: Modality
    dim: Size
    weights: Word = ""
    adapter: Word | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    layer: Word = "last"
    pooling: Word = "default"
    dtype: DType = "float16"
    tokens: Tokens = "none"
    n_tokens: Size | None = None
    token_dim: Size | None = None
    tokens_dtype: TokensDType | None = None
    logit_scale: Finite | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether token features are stored beside the pooled ones."""
        return self.tokens != "none"

    @property
    def item_bytes(self) -> int:
        """Bytes of an item: its key, status, pooled vector and tokens; ragged tokens count as one token."""
        tokens = (self.n_tokens or 1) * self.token_bytes if self.has_tokens else 0
        return 17 + self.dim * np.dtype(self.dtype).itemsize + tokens

    @property
    def token_bytes(self) -> int:
        """Bytes of a token."""
        return (self.token_dim or 0) * self.token_type.itemsize + 2 * self.quantised

    @property
    def token_type(self) -> np.dtype[Any]:
        """Type of the numbers of a token on disk; for ``bfloat16``, uint16."""
        return np.dtype(np.uint16 if self.bfloat16 else self.tokens_dtype or self.dtype)

    @property
    def quantised(self) -> bool:
        """Whether tokens are stored as int8 numbers and scales."""
        return self.has_tokens and self.tokens_dtype == "int8"

    @property
    def bfloat16(self) -> bool:
        """Whether tokens are stored as the bits of bfloat16 numbers."""
        return self.has_tokens and self.tokens_dtype == "bfloat16"

    def with_tokens_as(self, dtype: str | None) -> FeatureSpec:
        """Return the spec with tokens stored as ``dtype``; None stands for the type of the pooled vectors."""
        return replace(self, tokens_dtype=dtype if self.has_tokens and dtype != self.dtype else None)

    @property
    def tiles(self) -> Mapping[str, Any] | None:
        """Geometry of the tiles of slides that the features are of; None for other features.

        An encoder does not know it: it is added by what reads the tiles.
        """
        found: Mapping[str, Any] | None = self.preprocessing.get(TILES)
        return found

    def with_tiles(self, tiles: Mapping[str, Any] | None) -> FeatureSpec:
        """Return the spec for tiles of this geometry; texts have none."""
        if tiles is None or self.modality == "text":
            return self
        return replace(self, preprocessing={**self.preprocessing, TILES: dict(tiles)})

    @property
    def ragged(self) -> bool:
        """Whether items have different numbers of tokens."""
        return self.has_tokens and self.n_tokens is None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; fields that were added to specs later are left out when unset."""
        values = {**asdict(self), "preprocessing": dict(self.preprocessing)}
        if self.tokens_dtype is None:
            del values["tokens_dtype"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureSpec:
        """Rebuild a spec from `to_dict`.

        Raises
        ------
        StoreError
            When fields are unknown or missing, as in a store written by a newer headwater, or have invalid values.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        missing = sorted({"encoder", "modality", "dim"} - set(values))
        if unknown or missing:
            raise StoreError(
                f"a feature spec has unknown fields {unknown} and lacks {missing}: the store was written by "
                "another version of headwater. Upgrade headwater to read it."
            )
        try:
            spec = read_as(cls, dict(values))
        except ValueError as error:
            raise StoreError(
                f"a feature spec cannot be read ({error}): it was damaged, or changed by hand. Restore it from "
                "a backup."
            ) from error
        if spec.has_tokens and spec.token_dim is None:
            raise StoreError(
                "a feature spec has tokens but no token_dim: it was damaged, or changed by hand. Restore it from a "
                "backup."
            )
        return spec

    def differences(self, other: FeatureSpec) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ from another spec, with both values; preprocessing settings count as fields.

        An encoder loaded from another path is the same if its weights or its code, and the last part of its path, are
        the same.
        """
        mine, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        found = {name: (mine.get(name), theirs.get(name)) for name in {**mine, **theirs}}
        known = [(spec.weights, spec.preprocessing.get("code", "")) for spec in (self, other)]
        if any(known[0]) and known[0] == known[1] and _unplaced(self.encoder) == _unplaced(other.encoder):
            del found["encoder"]
        return {name: values for name, values in found.items() if values[0] != values[1]}

    def require_same(self, other: FeatureSpec, where: str) -> None:
        """Raise `SpecMismatch` if another spec differs; the message names every field that does."""
        if found := self.differences(other):
            changes = "; ".join(f"{name}: stored {mine!r}, now {theirs!r}" for name, (mine, theirs) in found.items())
            raise SpecMismatch(
                f"{where} was made with another encoder or other settings ({changes}). Pass --name to store the new "
                "features under another name."
            )


def _unplaced(encoder: str) -> str:
    """Return an encoder's spec without the folders of its path.

    Examples
    --------
    >>> _unplaced("hf:/data/models/uni"), _unplaced("python:./lab.py:Mean"), _unplaced("timm:resnet34")
    ('hf:uni', 'python:lab.py:Mean', 'timm:resnet34')
    """
    start = next((start for start in PLACED if encoder.startswith(start)), "")
    return start + encoder.removeprefix(start).rstrip("/").rpartition("/")[2] if start else encoder


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, with each preprocessing setting as a separate field."""
    settings = {f"preprocessing.{name}": value for name, value in fields["preprocessing"].items()}
    return {name: value for name, value in fields.items() if name != "preprocessing"} | settings
