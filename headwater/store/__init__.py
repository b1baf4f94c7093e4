"""The feature store: what is on disk, and how it is read and written."""

from headwater.store._files import fetch_file, remove_file, send_file, write_bytes
from headwater.store.bfloat16 import Bfloat16Array, to_bfloat16
from headwater.store.blocks import ArrayLike, InMemory, MappedArray, RaggedArray, SelectedRows
from headwater.store.check import damages
from headwater.store.derived import read_derived, write_derived
from headwater.store.features import Features
from headwater.store.file_index import FileIndex, stat_of
from headwater.store.journal import BlockLine, Journal
from headwater.store.keys import KEY_COLUMNS, PARTS, hex_from_keys, keys_from_hex, pair_key, sample_keys
from headwater.store.layout import FAILED, STORED, TO_DO, block_rows
from headwater.store.locks import Rights
from headwater.store.quantised import QuantisedArray, quantise
from headwater.store.reader import FeatureReader
from headwater.store.remote import is_url, store_folder
from headwater.store.repair import mend, salvage_journal
from headwater.store.shuffle import BlockShuffle
from headwater.store.spec import MODALITIES, FeatureSpec, Modality
from headwater.store.store import (
    BEING_COMPACTED,
    Data,
    Roles,
    Store,
    beside,
    check_name,
    create_store,
    find_store,
    index_files,
    open_store,
)
from headwater.store.where import rows_where, select_samples, with_defined
from headwater.store.writer import BlockResult, BlockTask, FeatureWriter

__all__ = [
    "BEING_COMPACTED",
    "FAILED",
    "KEY_COLUMNS",
    "MODALITIES",
    "PARTS",
    "STORED",
    "TO_DO",
    "ArrayLike",
    "Bfloat16Array",
    "BlockLine",
    "BlockResult",
    "BlockShuffle",
    "BlockTask",
    "Data",
    "FeatureReader",
    "FeatureSpec",
    "FeatureWriter",
    "Features",
    "FileIndex",
    "InMemory",
    "Journal",
    "MappedArray",
    "Modality",
    "QuantisedArray",
    "RaggedArray",
    "Rights",
    "Roles",
    "SelectedRows",
    "Store",
    "beside",
    "block_rows",
    "check_name",
    "create_store",
    "damages",
    "fetch_file",
    "find_store",
    "hex_from_keys",
    "index_files",
    "is_url",
    "keys_from_hex",
    "mend",
    "open_store",
    "pair_key",
    "quantise",
    "read_derived",
    "remove_file",
    "rows_where",
    "salvage_journal",
    "sample_keys",
    "select_samples",
    "send_file",
    "stat_of",
    "store_folder",
    "to_bfloat16",
    "with_defined",
    "write_bytes",
    "write_derived",
]
