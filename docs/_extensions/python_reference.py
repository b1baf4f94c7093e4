"""The directive ``reference``: every public name of `headwater`, by task, from its docstring."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

FAMILIES = {
    "Fill and read a store": [
        *("embed", "encode", "import_features", "export_features", "open_store", "info", "verify", "repair", "gc"),
        *("index", "torch_dataset", "manifest", "tiles", "text", "samples"),
    ],
    "Fit and test": ["fit_head", "fit_separately", "sweep", "zero_shot", "fine_tune", "contrast"],
    "Judge": ["evaluate", "compare", "table", "cohort", "plot", "plot_systems", "report", "explain", "open_run"],
    "New cases": ["predict", "bundle", "verify_bundle"],
    "Search and look": ["similar", "retrieval_report", "audit", "serve"],
    "Try it": ["demo", "docs", "doctor", "encoders", "wheelhouse"],
    "Options as values": [
        *("EncoderChoice", "ManifestColumns", "Storage", "Execution", "Protocol", "Selection", "Training"),
        *("LoraSettings", "CaseFilter", "NearDuplicates", "Event"),
    ],
}
"""Every public name; what `headwater` has and these lack fails the build."""


SKLEARN = {"get_metadata_routing", "get_params", "set_params", "set_output"}


@cache
def public() -> dict[str, str]:
    """Return where each public name is documented, by its name in `headwater`."""
    import headwater

    places = {**headwater._LAZY, **headwater._VERBS}
    return {name: f"{places[name]}.{name}" for name in places if name != "heads"}


def lines() -> Iterator[str]:
    """Yield the reference as reStructuredText."""
    from headwater import heads

    listed, there = {name for names in FAMILIES.values() for name in names}, set(public())
    if listed != there:
        raise ValueError(f"the reference lacks {sorted(there - listed)}, or has too much: {sorted(listed - there)}")
    for family, names in FAMILIES.items():
        yield from ["", family, "-" * len(family), ""]
        for name in names:
            module, _, _ = public()[name].rpartition(".")
            yield from _entry(public()[name], getattr(import_module(module), name))
    title = "Heads: headwater.heads"
    yield from ["", title, "-" * len(title), ""]
    for name in sorted(heads.__all__):
        yield from _entry(f"headwater.heads.{name}", getattr(heads, name))


def _entry(path: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield from [f".. autoclass:: {path}", "   :members:", ""]
    elif inspect.isfunction(value):
        yield from [f".. autofunction:: {path}", ""]


class Reference(SphinxDirective):
    """Parse the reference in place."""

    def run(self) -> list[nodes.Node]:
        """Return its nodes."""
        holder = nodes.section()
        holder.document = self.state.document
        made = StringList()
        for n, line in enumerate(lines()):
            made.append(line, "headwater", n)
        self.state.nested_parse(made, self.content_offset, holder, match_titles=True)
        return holder.children


def resolved(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link a public name to where it is documented; a name that is not public stays words."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].removeprefix("headwater.")
    if node["reftarget"] != name and name in public():
        found = env.domains["py"].objects.get(public()[name])
        if found is not None:
            there = app.builder.get_relative_uri(node["refdoc"], found.docname)
            return nodes.reference("", "", content, internal=True, refuri=f"{there}#{found.node_id}")
    return content if node["reftype"] == "obj" else None


def skipped(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what scikit-learn adds to every estimator."""
    return True if name.endswith("_request") or name in SKLEARN else None


def setup(app: Any) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("reference", Reference)
    app.connect("missing-reference", resolved)
    app.connect("autodoc-skip-member", skipped)
    return {"parallel_read_safe": True}
