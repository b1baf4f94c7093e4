"""Nearest neighbours in arrays: exact search, or with an index."""

from headwater.retrieve.exact import search
from headwater.retrieve.index import Kind, VectorIndex, build_index, recall_at_10, trains_on_gpu
from headwater.retrieve.persist import IndexInfo, check_index, load_index, read_index_info, save_index

__all__ = [
    "IndexInfo",
    "Kind",
    "VectorIndex",
    "build_index",
    "check_index",
    "load_index",
    "read_index_info",
    "recall_at_10",
    "save_index",
    "search",
    "trains_on_gpu",
]
