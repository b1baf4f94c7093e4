"""What defines a vector, and what was merely around when it was made."""

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

PLACED = ("hf:", "python:", "joined:", "open_clip:local-dir:", "timm:local-dir:")
"""What stands before a path, or a name on a hub, of all that an encoder is made of."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """All that a stored vector depends on besides the item's content.

    Two feature sets are the same when every field is equal. What does not belong here (compute precision,
    library versions, device, batch size) is the environment, which the journal records with every block.

    Attributes
    ----------
    encoder
        The encoder's spec, such as ``timm:resnet34.a1_in1k``.
    modality
        ``"image"``, ``"text"``, or ``"pair"`` of an image and its text, read together.
    weights
        BLAKE2b-128 digest of the encoder's parameters and buffers; empty where there are none.
    adapter
        Digest of the adapter's parameters, or None.
    preprocessing
        How pixels or words become the encoder's input: plain JSON values.
    layer, pooling
        Where in the encoder the features are taken, and how tokens become one vector.
    dim, dtype
        Length and stored type (``float16`` or ``float32``) of a pooled vector.
    tokens
        ``"none"``, ``"all"``, or the number of tokens they are pooled to.
    n_tokens
        Tokens an item, or None where items differ (texts) or none are stored.
    token_dim
        Length of a token, or None when no tokens are stored.
    tokens_dtype
        Stored type of tokens where it is another than ``dtype``: ``float16``, ``float32``, ``bfloat16``, or ``int8``,
        which is one byte a number and a float16 scale a token.
    logit_scale
        What a dual encoder multiplies cosines by; None for other encoders.
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
        """Bytes of an item: its key, status, pooled vector and tokens; of ragged tokens one."""
        tokens = (self.n_tokens or 1) * self.token_bytes if self.has_tokens else 0
        return 17 + self.dim * np.dtype(self.dtype).itemsize + tokens

    @property
    def token_bytes(self) -> int:
        """Bytes of a token."""
        return (self.token_dim or 0) * self.token_type.itemsize + 2 * self.quantised

    @property
    def token_type(self) -> np.dtype[Any]:
        """Type that the numbers of a token lie on disk as: of ``bfloat16``, that of its bits."""
        return np.dtype(np.uint16 if self.bfloat16 else self.tokens_dtype or self.dtype)

    @property
    def quantised(self) -> bool:
        """Whether tokens are stored as whole numbers and scales."""
        return self.has_tokens and self.tokens_dtype == "int8"

    @property
    def bfloat16(self) -> bool:
        """Whether tokens are stored as the bits of bfloat16 numbers."""
        return self.has_tokens and self.tokens_dtype == "bfloat16"

    def with_tokens_as(self, dtype: str | None) -> FeatureSpec:
        """Return the spec with tokens stored as ``dtype``, None being as the pooled vectors are."""
        return replace(self, tokens_dtype=dtype if self.has_tokens and dtype != self.dtype else None)

    @property
    def ragged(self) -> bool:
        """Whether items have different numbers of tokens."""
        return self.has_tokens and self.n_tokens is None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what was added to specs later is left out where it says nothing."""
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
            When fields are unknown or missing, as in a store written by a newer headwater, or hold what they cannot.
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
            raise StoreError(f"a feature spec cannot be read ({error}): it was changed by hand, or damaged.") from error
        if spec.has_tokens and spec.token_dim is None:
            raise StoreError("a feature spec has tokens of no length: it was changed by hand, or damaged.")
        return spec

    def differences(self, other: FeatureSpec) -> dict[str, tuple[Any, Any]]:
        """Return the fields in which another spec differs, settings of the preprocessing among them, with both values.

        An encoder that was loaded from a path does not, if its weights, or its code, and the last part of the path are
        the same.
        """
        mine, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        found = {name: (mine.get(name), theirs.get(name)) for name in {**mine, **theirs}}
        known = [(spec.weights, spec.preprocessing.get("code", "")) for spec in (self, other)]
        if any(known[0]) and known[0] == known[1] and _unplaced(self.encoder) == _unplaced(other.encoder):
            del found["encoder"]
        return {name: values for name, values in found.items() if values[0] != values[1]}

    def require_same(self, other: FeatureSpec, where: str) -> None:
        """Raise `SpecMismatch`, naming every field that differs, where ``other`` has `differences`."""
        if found := self.differences(other):
            changes = "; ".join(f"{name}: stored {mine!r}, now {theirs!r}" for name, (mine, theirs) in found.items())
            raise SpecMismatch(
                f"{where} was made by a different encoder setting ({changes}). Pass --name to store the new "
                "features under another name."
            )


def _unplaced(encoder: str) -> str:
    """Return an encoder's spec without the folders that it lies in.

    Examples
    --------
    >>> _unplaced("hf:/data/models/uni"), _unplaced("python:./lab.py:Mean"), _unplaced("timm:resnet34")
    ('hf:uni', 'python:lab.py:Mean', 'timm:resnet34')
    """
    start = next((start for start in PLACED if encoder.startswith(start)), "")
    return start + encoder.removeprefix(start).rstrip("/").rpartition("/")[2] if start else encoder


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with each setting of the preprocessing as a field of its own."""
    settings = {f"preprocessing.{name}": value for name, value in fields["preprocessing"].items()}
    return {name: value for name, value in fields.items() if name != "preprocessing"} | settings
