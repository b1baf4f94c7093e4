"""Features of all contents by frozen encoders, computed once before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.embed.contents import Content
from headwater.embed.encoder import Encoded
from headwater.embed.tunable import Tunable
from headwater.errors import ImageError
from headwater.finetune.data import Rows, Stored, in_order
from headwater.finetune.team import Team
from headwater.heads import Bags, Masked
from headwater.heads.differentiable import Described
from headwater.store import InMemory, Modality, SelectedRows


@dataclass(frozen=True, eq=False)
class EncodedInput:
    """Features of contents.

    Attributes
    ----------
    values
        float32 of shape ``(n_contents, d)``, or tokens, float16, of shape ``(n_contents, t, d)``.
    mask
        Existing tokens, bool, of shape ``(n_contents, t)``; None if all exist.
    failed
        Why some contents could not be read, by their index; their features are zero.
    """

    values: NDArray[Any]
    mask: NDArray[np.bool_] | None = None
    failed: Mapping[int, str] = field(default_factory=dict)

    def stored(self) -> Stored:
        """Return them as features of a frozen encoder."""
        if self.mask is None:
            return Stored(self.values)
        return Stored([values[there] for values, there in zip(self.values, self.mask, strict=True)])

    def of(self, members: Sequence[Rows], *, bagged: bool) -> Any:
        """Return features of rows with these contents, in the form heads take: an array-like, or bags."""
        if bagged:
            return Bags(SelectedRows(InMemory(self.values), np.arange(len(self.values))), members)
        place = np.array([numbers[0] for numbers in members], np.int64)
        rows = SelectedRows(InMemory(self.values), place)
        return rows if self.mask is None else Masked(rows, self.mask[place])

    def described(self, name: str, members: Sequence[Rows], rows: Rows, *, bagged: bool) -> Described:
        """Return means and standard deviations of columns, over the contents of some rows and their tokens."""
        contents = np.unique(np.concatenate([members[row] for row in rows.tolist()]))
        some = contents[np.linspace(0, len(contents) - 1, min(len(contents), DESCRIBED)).astype(np.int64)]
        values = self.values[some].astype(np.float64)
        if values.ndim == 3:
            flat = values.reshape(-1, values.shape[2]) if self.mask is None else values[self.mask[some]]
        else:
            flat = values
        std = flat.std(0)
        one = 1 if self.values.ndim == 2 else int(self.values.shape[1])
        length = None if bagged or self.mask is not None else one
        return Described(name, length, flat.mean(0), np.where(std <= 1e-6 * np.abs(flat.mean(0)) + 1e-12, 1.0, std))


DESCRIBED = 4096  # most contents used for means and standard deviations


def make(
    encoder: Tunable[Any],
    modality: Modality,
    contents: Sequence[Content],
    *,
    tokens: bool,
    batch_size: int,
    workers: int | None,
    team: Team,
    progress: Callable[[int, int], None] = lambda done, failed: None,
) -> EncodedInput:
    """Encode all contents, divided among the processes of the team.

    Raises
    ------
    ImageError
        When none can be read.
    """
    mine = list(range(len(contents)))[team.rank :: team.size]
    found: list[Any] = []

    def prepare(number: int) -> Any:
        try:
            return encoder.prepare(modality, contents[number])
        except ImageError as error:
            return error

    for prepared in in_order(prepare, [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)], workers):
        readable = [item for item in prepared if not isinstance(item, ImageError)]
        encoded = encoder.encode(modality, readable) if readable else None
        kept = iter(()) if encoded is None else iter(_kept(encoded, tokens))
        found += [str(item) if isinstance(item, ImageError) else next(kept) for item in prepared]
        progress(min(len(found) * team.size, len(contents)), 0)
    every: list[Any] = [None] * len(contents)
    for rank, share in enumerate(team.gathered(found)):
        every[rank :: team.size] = share
    failed = {i: one for i, one in enumerate(every) if isinstance(one, str)}
    if len(failed) == len(every):
        raise ImageError(f"none of the {len(every)} {modality}s can be read, such as: {failed[0]}")
    shape = next(one.shape for one in every if not isinstance(one, str))
    arrays = [np.zeros(shape, np.float16 if tokens else np.float32) if isinstance(one, str) else one for one in every]
    if all(one.shape == shape for one in arrays):
        return EncodedInput(np.stack(arrays), None, failed)
    longest = max(len(one) for one in arrays)
    mask = np.arange(longest) < np.array([len(one) for one in arrays])[:, None]
    values = np.zeros((len(arrays), longest, shape[1]), arrays[0].dtype)
    values[mask] = np.concatenate(arrays)
    return EncodedInput(values, mask, failed)


def _kept(encoded: Encoded, tokens: bool) -> list[NDArray[Any]]:
    """Return one array per item, in its stored type."""
    if tokens and encoded.tokens is not None:
        return [np.asarray(one, np.float16) for one in encoded.tokens]
    return [np.asarray(one, np.float32) for one in encoded.pooled]
