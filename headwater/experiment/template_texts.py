"""Runs on texts that a template made: what they say, what missing values tell, and the texts without a covariate."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._words import counted
from headwater.embed import content_key, unique_texts
from headwater.embed.texts import embed_texts
from headwater.errors import InputError
from headwater.experiment.missingness import known_rows, probe_missing, site_column
from headwater.sources.sentences import write_texts
from headwater.sources.template import Template, parse_template
from headwater.store import KEY_COLUMNS, Store

OF_TEXTS, OF_PAIRS = "/text", "/pair"


@dataclass(frozen=True)
class TemplateTexts:
    """The template behind the texts that a run reads.

    Attributes
    ----------
    column
        The column of texts.
    digest
        Of the template.
    template
        The template.
    features
        The features of these texts that the run reads.
    """

    column: str
    digest: str
    template: Template
    features: tuple[str, ...]

    @classmethod
    def behind(cls, store: Store, features: Sequence[str]) -> TemplateTexts | None:
        """Return the template that made the texts of a store; None if features read none, or no template made them.

        Raises
        ------
        InputError
            When the template that the store keeps cannot be read.
        """
        column = store.roles.text
        read = tuple(name for name in features if name.endswith((OF_TEXTS, OF_PAIRS)))
        made = None if column is None else store.about.texts.get(column)
        if not read or column is None or made is None:
            return None
        template = parse_template(made.template, f"{store.location}: the template of column {column!r}")
        return cls(column, made.digest, template, read)

    def refuse_label(self, labels: Sequence[str], sql: Mapping[str, str], allowed: str | None) -> None:
        """Refuse a label that the texts say; see `refuse_said`."""
        refuse_said(self.column, self.template.reads, labels, sql, allowed)

    def section(
        self,
        table: pl.DataFrame,
        label: str,
        y: NDArray[Any],
        groups: NDArray[Any] | None,
        by: str | None,
        say: Callable[[str], None],
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the entry of ``metrics.json``, and warnings of missing values that predict the label or the site.

        Parameters
        ----------
        table
            The samples.
        label
            The name of what is predicted.
        y
            It, of shape ``(n_samples,)``; other shapes are not looked at.
        groups
            Groups that are kept whole, of shape ``(n_samples,)``.
        by
            The column of ``--by``, which counts as the site. Default: a column named so.
        say
            Called with each warning.
        """
        absent = self.template.absent(table.columns)
        columns = [name for name in self.template.columns if name not in absent]
        section: dict[str, Any] = {"column": self.column, "digest": self.digest, "columns": columns}
        if any(name not in (*table.columns, *self.template.optional) for name in self.template.reads):
            return section, []
        rows = np.arange(len(table))
        targets = [(label, y, rows)] if y.ndim == 1 else []
        site = by or site_column(table.columns, (label, *columns))
        if site is not None and site in table.columns and site not in columns:
            there = np.flatnonzero(known_rows(table, site))
            targets.append((site, table[site].cast(pl.String).to_numpy()[there], there))
        probes = []
        for name, values, of in targets:
            whole = None if groups is None else groups[of]
            probe = probe_missing(self.template, table[of], name, values, whole)
            probes += [] if probe is None else [probe]
        warnings = [probe.line() for probe in probes if probe.predicts]
        for line in warnings:
            say(f"warning: {line}")
        return section | {"missing_values": [probe.to_dict() for probe in probes]}, warnings

    def without_each(self, store: Store, say: Callable[[str], None]) -> dict[str, Store]:
        """Return, for each column of the template, the store with texts that do not say it; they are embedded.

        Their features are stored with those of the samples' own texts, so that a second run embeds nothing.

        Raises
        ------
        InputError
            When features are of pairs, or the texts of the store are not those that the template writes.
        EncoderError, StoreError
            When the encoder of the texts cannot be loaded.
        """
        if pairs := [name for name in self.features if name.endswith(OF_PAIRS)]:
            raise InputError(
                f"--text-ablation: {pairs[0]} encodes images and texts together. It needs features of texts, NAME/text."
            )
        table = store.samples
        ids = table[store.roles.id].cast(pl.String).to_list()
        own = table[self.column].cast(pl.String)
        now = pl.Series(write_texts(self.template, table, ids), dtype=pl.String)
        differs = own.is_not_null() & (own.fill_null("").str.strip_chars() != "") & own.ne_missing(now)
        if differs.any():
            raise InputError(
                f"--text-ablation: {counted(int(differs.sum()), 'text')} in column {self.column!r} of {store.location} "
                f"differ from what the template writes, such as that of {ids[int(differs.arg_true()[0])]!r}. Make them "
                "again (headwater text), and embed the new manifest."
            )
        keyed = table[KEY_COLUMNS["text"]].is_not_null()
        texts = {
            column: pl.Series(write_texts(self.template, table, ids, without=column), dtype=pl.String)
            .to_frame("text")
            .select(pl.when(keyed).then("text"))["text"]
            for column in self.template.columns
            if column in table.columns
        }
        contents, _ = unique_texts(pl.concat(list(texts.values())).drop_nulls().unique(maintain_order=True).to_list())
        for name in self.features:
            say(f"{name}: {counted(len(contents), 'text')} without one of {counted(len(texts), 'column')}")
            embed_texts(store, name, contents)
        return {column: store.with_texts(these, _keys(these)) for column, these in texts.items()}


def refuse_said(
    column: str, said: Sequence[str], labels: Sequence[str], sql: Mapping[str, str], allowed: str | None
) -> None:
    """Refuse a label that texts say, or that is defined by a column that they say.

    Parameters
    ----------
    column
        The column of texts.
    said
        The columns that its texts are made from.
    labels, sql
        The labels, and the expressions of those that are defined by one.
    allowed
        The reason to accept it, if one was given.

    Raises
    ------
    InputError
        Unless a reason was given.
    """
    for label in labels:
        words = set(re.findall(r"\w+", sql.get(label, ""))) | {label}
        found = [name for name in said if name in words or (name in sql.get(label, "") and not name.isidentifier())]
        if found and allowed is None:
            raise InputError(
                f"--label {label}: the texts of column {column!r} say {found[0]}. Make them without it (headwater "
                "text), leave the texts out, or pass --allow-leakage REASON."
            )


def other_template(fitted: Mapping[str, Any], store: Store) -> list[str]:
    """Warn if the texts of a store were not made by the template of a run, whose ``metrics.json`` is given."""
    then = fitted.get("text_template")
    if not isinstance(then, Mapping):
        return []
    column = store.roles.text
    now = None if column is None else store.about.texts.get(column)
    if now is not None and now.digest == then.get("digest"):
        return []
    here = "not by a template" if now is None else f"by another one ({now.digest[:8]})"
    return [
        f"the run was fitted on texts of template {str(then.get('digest'))[:8]}, but those of {store.location} were "
        f"made {here}: the difference in wording may count"
    ]


def _keys(texts: pl.Series) -> pl.Series:
    """Return the keys of texts, in hex."""
    keys = [None if text is None else content_key(text.encode()).hex() for text in texts.to_list()]
    return pl.Series(KEY_COLUMNS["text"], keys, dtype=pl.String)
