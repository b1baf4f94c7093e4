"""The verbs: paths in and paths out. They combine stores, encoders, heads and evaluation.

Each verb is imported when it is first used, so that a command does not load the libraries of others.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.api.audit import Audit, audit
    from headwater.api.bridges import Imported, import_features
    from headwater.api.bundle import Bundled, bundle, verify_bundle
    from headwater.api.cohort import Cohort, cohort
    from headwater.api.compare import Compared, Difference, compare
    from headwater.api.contrast import contrast
    from headwater.api.dataset import torch_dataset
    from headwater.api.demo import DemoResult, demo
    from headwater.api.demo_mammography import MammographyDemo
    from headwater.api.docs import Documentation, docs
    from headwater.api.doctor import DoctorReport, doctor
    from headwater.api.embed import Embedded, embed
    from headwater.api.encode import encode
    from headwater.api.encoders import Encoders, encoders
    from headwater.api.evaluate import evaluate
    from headwater.api.explain import Explained, explain
    from headwater.api.export import Exported, export_features
    from headwater.api.fine_tune import fine_tune
    from headwater.api.fit import fit_head, fit_separately
    from headwater.api.gc import Dropped, gc
    from headwater.api.index import IndexSummary, index
    from headwater.api.inspect import StoreInfo, info, verify
    from headwater.api.manifest import MadeManifest, manifest
    from headwater.api.predict import Predicted, predict
    from headwater.api.repair import Encoding, Repaired, repair
    from headwater.api.report import Report, report
    from headwater.api.retrieval_report import RetrievalReport, retrieval_report
    from headwater.api.samples import ReplacedSamples, samples
    from headwater.api.similar import Hit, hit_lines, similar
    from headwater.api.sweep import Sweep, sweep
    from headwater.api.table import Table, table
    from headwater.api.text import WrittenTexts, text
    from headwater.api.tiles import TilesTable, tiles
    from headwater.api.wheelhouse import Wheelhouse, wheelhouse
    from headwater.api.zero_shot import zero_shot
    from headwater.experiment.contrast import Contrasted
    from headwater.runs.run import Run, open_run
    from headwater.samples.duplicates import Duplicates
    from headwater.samples.label_names import mapping_of as read_mapping

__all__ = [
    "Audit",
    "Bundled",
    "Cohort",
    "Compared",
    "Contrasted",
    "DemoResult",
    "Difference",
    "DoctorReport",
    "Documentation",
    "Dropped",
    "Duplicates",
    "Embedded",
    "Encoders",
    "Encoding",
    "Explained",
    "Exported",
    "Hit",
    "Imported",
    "IndexSummary",
    "MadeManifest",
    "MammographyDemo",
    "Predicted",
    "Repaired",
    "ReplacedSamples",
    "Report",
    "RetrievalReport",
    "Run",
    "StoreInfo",
    "Sweep",
    "Table",
    "TilesTable",
    "Wheelhouse",
    "WrittenTexts",
    "audit",
    "bundle",
    "cohort",
    "compare",
    "contrast",
    "demo",
    "docs",
    "doctor",
    "embed",
    "encode",
    "encoders",
    "evaluate",
    "explain",
    "export_features",
    "fine_tune",
    "fit_head",
    "fit_separately",
    "gc",
    "hit_lines",
    "import_features",
    "index",
    "info",
    "manifest",
    "open_run",
    "predict",
    "read_mapping",
    "repair",
    "report",
    "retrieval_report",
    "samples",
    "similar",
    "sweep",
    "table",
    "text",
    "tiles",
    "torch_dataset",
    "verify",
    "verify_bundle",
    "wheelhouse",
    "zero_shot",
]

_PLACES = {
    "Duplicates": "headwater.samples.duplicates",
    **dict.fromkeys(("Audit", "audit"), "headwater.api.audit"),
    **dict.fromkeys(("Imported", "import_features"), "headwater.api.bridges"),
    **dict.fromkeys(("Bundled", "bundle", "verify_bundle"), "headwater.api.bundle"),
    **dict.fromkeys(("Cohort", "cohort"), "headwater.api.cohort"),
    **dict.fromkeys(("Compared", "Difference", "compare"), "headwater.api.compare"),
    **dict.fromkeys(("Contrasted", "contrast"), "headwater.api.contrast"),
    "torch_dataset": "headwater.api.dataset",
    **dict.fromkeys(("DemoResult", "demo"), "headwater.api.demo"),
    "MammographyDemo": "headwater.api.demo_mammography",
    **dict.fromkeys(("Documentation", "docs"), "headwater.api.docs"),
    **dict.fromkeys(("DoctorReport", "doctor"), "headwater.api.doctor"),
    **dict.fromkeys(("Embedded", "embed"), "headwater.api.embed"),
    "encode": "headwater.api.encode",
    **dict.fromkeys(("Encoders", "encoders"), "headwater.api.encoders"),
    "evaluate": "headwater.api.evaluate",
    **dict.fromkeys(("Explained", "explain"), "headwater.api.explain"),
    **dict.fromkeys(("Exported", "export_features"), "headwater.api.export"),
    "fine_tune": "headwater.api.fine_tune",
    **dict.fromkeys(("fit_head", "fit_separately"), "headwater.api.fit"),
    **dict.fromkeys(("Dropped", "gc"), "headwater.api.gc"),
    **dict.fromkeys(("IndexSummary", "index"), "headwater.api.index"),
    **dict.fromkeys(("StoreInfo", "info", "verify"), "headwater.api.inspect"),
    **dict.fromkeys(("MadeManifest", "manifest"), "headwater.api.manifest"),
    **dict.fromkeys(("Predicted", "predict"), "headwater.api.predict"),
    **dict.fromkeys(("Encoding", "Repaired", "repair"), "headwater.api.repair"),
    **dict.fromkeys(("Report", "report"), "headwater.api.report"),
    **dict.fromkeys(("RetrievalReport", "retrieval_report"), "headwater.api.retrieval_report"),
    **dict.fromkeys(("ReplacedSamples", "samples"), "headwater.api.samples"),
    **dict.fromkeys(("Run", "open_run"), "headwater.runs.run"),
    **dict.fromkeys(("Hit", "hit_lines", "similar"), "headwater.api.similar"),
    **dict.fromkeys(("Sweep", "sweep"), "headwater.api.sweep"),
    **dict.fromkeys(("Table", "table"), "headwater.api.table"),
    **dict.fromkeys(("TilesTable", "tiles"), "headwater.api.tiles"),
    **dict.fromkeys(("WrittenTexts", "text"), "headwater.api.text"),
    **dict.fromkeys(("Wheelhouse", "wheelhouse"), "headwater.api.wheelhouse"),
    "zero_shot": "headwater.api.zero_shot",
    "read_mapping": "headwater.samples.label_names",
}
_NAMES_THERE = {"read_mapping": "mapping_of"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'headwater.api' has no attribute {name!r}")
    found = getattr(import_module(_PLACES[name]), _NAMES_THERE.get(name, name))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


class _Verbs(ModuleType):
    """A package whose attributes are its verbs, even if a module has the same name, such as ``embed``."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):  # importing a module would replace the verb
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Verbs
