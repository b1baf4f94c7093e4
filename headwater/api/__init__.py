"""The verbs: paths in and paths out. The only place where stores, encoders, heads and evaluation meet."""

from headwater.api._duplicates import Duplicates
from headwater.api._mapping import mapping_of as read_mapping
from headwater.api.audit import Audit, audit
from headwater.api.bridges import Imported, import_features
from headwater.api.compare import Compared, Difference, compare
from headwater.api.contrast import Contrasted, contrast
from headwater.api.dataset import torch_dataset
from headwater.api.demo import DemoResult, demo
from headwater.api.doctor import Report, doctor
from headwater.api.embed import Embedded, embed
from headwater.api.evaluate import evaluate
from headwater.api.explain import Explained, explain
from headwater.api.export import Exported, export_features
from headwater.api.fine_tune import fine_tune
from headwater.api.fit import fit_head
from headwater.api.gc import Dropped, gc
from headwater.api.inspect import StoreInfo, info, verify
from headwater.api.repair import Encoding, Repaired, repair
from headwater.api.run import Run, open_run
from headwater.api.similar import Hit, IndexSummary, hit_lines, index, similar
from headwater.api.sweep import Sweep, sweep
from headwater.api.zero_shot import zero_shot

__all__ = [
    "Audit",
    "Compared",
    "Contrasted",
    "DemoResult",
    "Difference",
    "Dropped",
    "Duplicates",
    "Embedded",
    "Encoding",
    "Explained",
    "Exported",
    "Hit",
    "Imported",
    "IndexSummary",
    "Repaired",
    "Report",
    "Run",
    "StoreInfo",
    "Sweep",
    "audit",
    "compare",
    "contrast",
    "demo",
    "doctor",
    "embed",
    "evaluate",
    "explain",
    "export_features",
    "fine_tune",
    "fit_head",
    "gc",
    "hit_lines",
    "import_features",
    "index",
    "info",
    "open_run",
    "read_mapping",
    "repair",
    "similar",
    "sweep",
    "torch_dataset",
    "verify",
    "zero_shot",
]
