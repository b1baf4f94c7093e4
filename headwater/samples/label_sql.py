"""Labels that an expression defines: ``covid = finding LIKE '%COVID%'``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from headwater.errors import InputError

_DEFINED = re.compile(r"\s*([^\W\d]\w*)\s*=(?!=)\s*(\S.*?)\s*", re.DOTALL)


def defined_labels(labels: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the names of labels, and the SQL expressions of those that are defined as ``NAME = EXPRESSION``.

    Raises
    ------
    InputError
        When two labels have one name.

    Examples
    --------
    >>> defined_labels(["grade", "covid = finding LIKE '%COVID%'"])
    (('grade', 'covid'), {'covid': "finding LIKE '%COVID%'"})
    """
    names: list[str] = []
    sql: dict[str, str] = {}
    for label in labels:
        found = _DEFINED.fullmatch(label)
        name = label if found is None else found[1]
        if found is not None:
            sql[name] = found[2]
        names.append(name)
    if sql and len(set(names)) < len(names):
        raise InputError(f"--label names {', '.join(names)}: two labels have one name. Give each its own.")
    return tuple(names), sql


def label_sql_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the expressions that define labels of a run, from its configuration."""
    found = config.get("label_sql", {})
    if not isinstance(found, dict):
        return {}
    return {str(name): sql for name, sql in found.items() if isinstance(sql, str)}
