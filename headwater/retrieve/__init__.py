"""Nearest neighbours in arrays: exact search, or with an index.

Names are imported when they are first used, so that exact search does not load what only an index needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.retrieve.exact import search
    from headwater.retrieve.index import Kind, VectorIndex, build_index, trains_on_gpu
    from headwater.retrieve.persist import IndexInfo, check_index, load_index, read_index_info, read_marks, save_index
    from headwater.retrieve.searcher import Searcher
    from headwater.retrieve.tuning import recall_at_10, tuned
    from headwater.retrieve.update import Updated, row_marks, update_index

__all__ = [
    "IndexInfo",
    "Kind",
    "Searcher",
    "Updated",
    "VectorIndex",
    "build_index",
    "check_index",
    "load_index",
    "read_index_info",
    "read_marks",
    "recall_at_10",
    "row_marks",
    "save_index",
    "search",
    "trains_on_gpu",
    "tuned",
    "update_index",
]

_MODULES = {
    "Searcher": "searcher",
    "search": "exact",
    **dict.fromkeys(("recall_at_10", "tuned"), "tuning"),
    **dict.fromkeys(("Updated", "row_marks", "update_index"), "update"),
    **dict.fromkeys(
        ("IndexInfo", "check_index", "load_index", "read_index_info", "read_marks", "save_index"), "persist"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'headwater.retrieve' has no attribute {name!r}")
    return getattr(import_module(f"headwater.retrieve.{_MODULES.get(name, 'index')}"), name)
