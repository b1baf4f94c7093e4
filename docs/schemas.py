"""The JSON schemas of every JSON file that headwater writes, made from the types that read them.

``python docs/schemas.py`` writes ``docs/schemas/NAME.schema.json``; `tests/test_formats.py` compares these with the
code, and real files with these.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from headwater.evaluate.options import Protocol  # noqa: E402  (this checkout's)
from headwater.heads.persist import FORMAT, HEADS, REGRESSORS, SURVIVAL, head_class  # noqa: E402
from headwater.retrieve.persist import OPTIONAL, IndexInfo  # noqa: E402
from headwater.runs import bundle, run  # noqa: E402
from headwater.runs.write import COMMANDS  # noqa: E402
from headwater.store.journal import SUM_DIGITS, BlockLine, EnvironmentLine, PlanLine  # noqa: E402
from headwater.store.spec import FeatureSpec  # noqa: E402

Schema = dict[str, Any]
FOLDER = ROOT / "docs" / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
DIGEST = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
SUM = {"type": "string", "pattern": "^(xxh3:)?[0-9a-f]{32}$"}
NUMBER = {"type": ["number", "null"]}
WORD = {"type": "string"}
NUMBERS = {"type": "object", "additionalProperties": NUMBER}
INTERVAL = {"anyOf": [{"type": "null"}, {"type": "array", "minItems": 2, "maxItems": 2, "items": NUMBER}]}
OF_CLASSES = ("binary", "multiclass", "multilabel", "ordinal")
OF_NUMBERS = ("regression", "survival")
ON_STORES = ("fit-head", "zero-shot", "evaluate")


def of_type(kind: Any, *, closed: bool = False) -> Schema:
    """Return the schema of a type, with every definition in place; ``closed`` refuses unknown fields."""
    found = msgspec.json.schema(kind)
    made: Schema = _inlined(found, found.get("$defs", {}))
    if closed:
        made["additionalProperties"] = False
    return made


def _inlined(value: Any, known: Mapping[str, Any]) -> Any:
    """Replace references, and drop docstrings, which describe Python."""
    if isinstance(value, list):
        return [_inlined(one, known) for one in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inlined(known[value["$ref"].rpartition("/")[2]], known)
    return {
        name: _inlined(one, known)
        for name, one in value.items()
        if name != "$defs" and not (name in ("description", "title") and isinstance(one, str))
    }


def with_more(schema: Schema, *required: str, **properties: Schema) -> Schema:
    """Return a schema of an object with more properties, some of them required."""
    properties = {**schema.get("properties", {}), **properties}
    return {**schema, "properties": properties, "required": sorted({*schema.get("required", ()), *required})}


def an_object(*required: str, **properties: Schema) -> Schema:
    """Return the schema of an object that has these properties and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def when(name: str, values: Any, then: Schema) -> Schema:
    """Return the rule that holds for objects in which a property has one of some values."""
    return {"if": {"properties": {name: {"enum": list(values)}}, "required": [name]}, "then": then}


def spec() -> Schema:
    """Return the schema of a feature spec; unknown fields are refused, as headwater refuses them."""
    written = [name for name in FeatureSpec.__dataclass_fields__ if name != "tokens_dtype"]
    return with_more(of_type(FeatureSpec, closed=True), *written)


def spec_of_run() -> Schema:
    """Return the schema of a spec in a run, which has a fingerprint of the stored values."""
    return with_more(spec(), fingerprint=DIGEST)


def journal() -> Schema:
    """Return the schema of a line of a journal."""
    sum_ = {"type": "string", "pattern": f"^[0-9a-f]{{{SUM_DIGITS}}}$"}
    plan = with_more(of_type(PlanLine, closed=True), "sum", sum=sum_)
    layout = plan["properties"]["layout"]
    for one in layout["anyOf"]:
        if one.get("type") == "object":
            one["properties"]["spec"], one["additionalProperties"] = spec(), False
    block = with_more(of_type(BlockLine, closed=True), "sum", "failed", "environment", sum=sum_)
    environment = of_type(EnvironmentLine, closed=True)
    environment["properties"]["is"] = environment["properties"].pop("is_")
    return {"oneOf": [plan, block, with_more(environment, "sum", "is", sum=sum_)]}


def zarr() -> Schema:
    """Return the schema of a ``zarr.json``: of the root and of folders, of a feature set, or of an array."""
    group = {"zarr_format": {"const": 3}, "node_type": {"const": "group"}}
    numbers = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    codec = an_object("name", name={"const": "bytes"}, configuration=an_object("endian", endian={"const": "little"}))
    array = an_object(
        "zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs",
        zarr_format={"const": 3},
        node_type={"const": "array"},
        shape=numbers,
        data_type={"enum": ["uint8", "int8", "uint16", "int64", "float16", "float32"]},
        chunk_grid=an_object(
            "name", "configuration",
            name={"const": "regular"},
            configuration=an_object("chunk_shape", chunk_shape=numbers),
        ),
        chunk_key_encoding=an_object(
            "name", "configuration",
            name={"const": "default"},
            configuration=an_object("separator", separator={"const": "."}),
        ),
        fill_value={"anyOf": [{"const": "NaN"}, {"type": "integer"}]},
        codecs={"type": "array", "minItems": 1, "maxItems": 1, "items": codec},
        dimension_names={"type": "array", "items": WORD},
        attributes=an_object(bits_of={"const": "bfloat16"}),
    )  # fmt: skip
    empty = an_object("zarr_format", "node_type", "attributes", **group, attributes=an_object())
    features = an_object("zarr_format", "node_type", "attributes", **group, attributes=spec())
    return {"oneOf": [empty, features, array]}


def index() -> Schema:
    """Return the schema of the description of an index."""
    found = of_type(IndexInfo, closed=True)
    for name in OPTIONAL:
        found["required"] = [one for one in found["required"] if one != name]
    return with_more(found, "format", "sum", format={"const": 1}, sum=DIGEST, checksum=DIGEST)


def head() -> Schema:
    """Return the schema of a head: its kind, and for each kind the parameters that it has, and no others."""
    rules = []
    tables = {"classifier": HEADS, "regression": REGRESSORS, "survival": SURVIVAL}
    for task, table in tables.items():
        for kind in table:
            cls = head_class(kind, regression=task == "regression", survival=task == "survival")
            hints = get_type_hints(cls.__init__)
            kinds = {name: _of_parameter(hints.get(name)) for name in cls._get_param_names() if name != "device"}
            given = an_object(*(name for name, of in kinds.items() if of), **kinds)
            that: Schema = {"properties": {"head": {"const": kind}}, "required": ["head"]}
            if task == "classifier":
                that["not"] = {"required": ["task"]}
            else:
                that = with_more(that, "task", task={"const": task})
            rules.append({"if": that, "then": {"properties": {"params": given}}})
    kinds = sorted({*HEADS, *REGRESSORS, *SURVIVAL})
    names = {"type": "array", "items": {"type": ["string", "integer", "number", "boolean"]}, "uniqueItems": True}
    return {
        "type": "object",
        "properties": {
            "format": {"const": FORMAT},
            "head": {"enum": kinds},
            "task": {"enum": list(OF_NUMBERS)},
            "params": {"type": "object"},
            "classes": names,
            "multilabel": {"type": "boolean"},
        },
        "required": ["format", "head"],
        "allOf": [
            *rules,
            {"if": {"not": {"required": ["task"]}}, "then": {"required": ["classes"]}},
            {"if": {"properties": {"head": {"not": {"const": "zero-shot"}}}}, "then": {"required": ["params"]}},
        ],
    }


def _of_parameter(hint: Any) -> Schema:
    """Return the schema of a head's parameter; any value for a type that JSON lacks."""
    try:
        return of_type(hint)
    except (TypeError, RuntimeError):
        return {}


def config() -> Schema:
    """Return the schema of a run's ``config.json``: the options of its command."""
    found = of_type(run._Config)
    found["properties"] |= {
        "command": {"enum": [*COMMANDS, "sweep"]},
        "features": {"type": "object", "additionalProperties": spec_of_run()},
        "environment": {"type": "object", "additionalProperties": WORD},
        "seed": {"type": "integer"},
    }
    protocol = of_type(Protocol)
    of_search = ("fine", "halving", "trials")  # which training an encoder does not take
    shared = {"properties": protocol["properties"], "required": sorted({*protocol["properties"]} - {*of_search})}
    reading = {"required": ["label_separator", "missing_values", "where", "positive", "per", "aggregate"]}
    rules = [
        when("command", COMMANDS, {"required": ["environment", "seed"]}),
        when(
            "command",
            (*ON_STORES, "sweep"),
            {"required": ["store", "features", "label", "groups", *reading["required"]]},
        ),
        when("command", ("fit-head", "fine-tune", "sweep"), shared),
        when("command", ("fit-head", "sweep"), {"required": [*of_search]}),
        when("command", ("fit-head",), {"required": ["head", "params", "tokens", "missing", "bags", "views", "merge"]}),
        when("command", ("sweep",), {"required": ["heads", "cells", "samples"]}),
        when("command", ("evaluate",), {"required": ["run", "head"]}),
        when("command", ("zero-shot",), {"required": ["head", "prompts", "logit_scale"]}),
        when("command", ("fine-tune",), {"required": ["manifest", "head", "params", "encoders", "features", "label"]}),
        when("command", ("contrast",), {"required": ["manifest", "encoders"]}),
    ]
    return {**found, "allOf": rules}


def metrics() -> Schema:
    """Return the schema of a run's ``metrics.json``."""
    found = of_type(run._Metrics)
    summary = {
        "mean": NUMBERS,
        "std": NUMBERS,
        "n_folds": {"type": "object", "additionalProperties": {"type": "integer"}},
    }
    intervals = {"type": "object", "additionalProperties": INTERVAL}
    level = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    fold = {
        "type": "object",
        "properties": {"n_train": {"type": "integer"}, "n_test": {"type": "integer"}, "params": {"type": "object"}},
        "required": ["n_train", "n_test", "params"],
    }
    found["properties"] |= {
        **summary,
        "intervals": intervals,
        "level": level,
        "folds": {"type": "array", "minItems": 1, "items": fold},
        "outputs": {"type": "array", "minItems": 1, "items": WORD},
        "selection": {"type": "object"},
        "per_class": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"support": {"type": "integer"}, **summary, "intervals": intervals},
                "required": ["support", "mean", "std", "n_folds", "intervals"],
            },
        },
    }
    judged = [
        "folds",
        "mean",
        "std",
        "n_folds",
        "intervals",
        "level",
        "left_out",
        "selection",
        "missing_values",
        "warnings",
    ]
    rules = [
        when("task", (*OF_CLASSES, *OF_NUMBERS), {"required": judged}),
        when("task", OF_CLASSES, {"required": ["classes", "per_class", "class_counts"]}),
        when("task", OF_NUMBERS, {"required": ["outputs"]}),
        when(
            "task", ("binary",), {"required": ["positive"], "properties": {"classes": {"minItems": 2, "maxItems": 2}}}
        ),
        when("task", ("survival",), {"required": ["followed"]}),
        when("task", ("ordinal",), {"required": ["cuts"]}),
    ]
    return {**found, "allOf": rules}


def decision() -> Schema:
    """Return the schema of ``decision.json``: what turns scores into decisions."""
    share = {"type": "number", "minimum": 0, "maximum": 1}
    threshold = an_object(
        "target", "at", "positive", "threshold",
        target={"enum": ["sensitivity", "specificity"]}, at=share, positive={}, threshold={"type": "number"},
    )  # fmt: skip
    sets = an_object(
        "alpha", "per_class", "least",
        alpha=share, per_class={"type": "boolean"}, least={"type": "array", "items": NUMBER},
    )  # fmt: skip
    steps = an_object("x", "y", x={"type": "array", "items": {"type": "number"}}, y={"type": "array", "items": share})
    calibrator = {
        "type": "object",
        "properties": {
            "method": {"enum": ["temperature", "isotonic"]},
            "task": {"enum": [*OF_CLASSES]},
            "temperatures": {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}},
            "steps": {"type": "array", "items": {"anyOf": [{"type": "null"}, steps]}},
        },
        "required": ["method", "task"],
        "additionalProperties": False,
    }
    groups = an_object(
        "names", "thresholds",
        names={"type": "array", "minItems": 2, "maxItems": 3, "items": WORD},
        thresholds={"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "number"}},
    )  # fmt: skip
    parts = {"threshold": threshold, "conformal": sets}
    return {
        "type": "object",
        "properties": {
            "classes": {"type": "array"},
            "fitted_to": WORD,
            "calibrator": calibrator,
            **parts,
            "risk_groups": groups,
            "per": {
                "type": "object",
                "properties": {"column": WORD, "aggregate": WORD, **parts},
                "required": ["column", "aggregate"],
            },
            "prior": an_object(
                "study", "stated", "logit_shift", study=share, stated=share, logit_shift={"type": "number"}
            ),
        },
        "required": ["classes", "fitted_to"],
        "additionalProperties": False,
    }


def adapter() -> Schema:
    """Return the schema of ``encoder/N/adapter.json``."""
    whole = {"type": "integer", "minimum": 1}
    lora = an_object(
        "rank", "alpha", "dropout", "targets",
        rank=whole, alpha={"type": "number"}, dropout={"type": "number"}, targets={"type": "array", "items": WORD},
    )  # fmt: skip
    return an_object(
        "format", "encoder", "base", "lora",
        format={"const": 1},
        encoder=WORD,
        base={"type": "string", "pattern": "^([0-9a-f]{32})?$"},
        lora={"anyOf": [{"type": "null"}, lora]},
        image_size={"type": "array", "minItems": 2, "maxItems": 2, "items": whole},
        choices={"type": "object", "additionalProperties": WORD},
        steps={"type": "array", "items": WORD},
    )  # fmt: skip


def joined() -> Schema:
    """Return the schema of ``encoder/joined.json``, the two encoders of `contrast`."""
    part = {
        "type": "object",
        "properties": {
            "encoder": WORD,
            "weights": {"type": ["string", "null"]},
            "adapter": {"type": ["integer", "null"], "minimum": 0},
            "steps": {"type": "array", "items": WORD},
        },
        "required": ["encoder", "weights", "adapter", "steps"],
    }
    parts = an_object("image", "text", image=part, text=part)
    return an_object("format", "parts", "logit_scale", format={"const": 1}, parts=parts, logit_scale={"type": "number"})


def sweep() -> Schema:
    """Return the schema of ``sweep.json``."""
    row = {
        "type": "object",
        "properties": {"rank": {"type": "integer", "minimum": 1}, "cell": WORD, "head": {"enum": sorted(HEADS)}},
        "required": ["rank", "cell", "features", "head", "low", "high", "difference"],
    }
    row["properties"]["head"] = {"enum": sorted({*HEADS, *REGRESSORS, *SURVIVAL})}
    return {
        "type": "object",
        "properties": {
            "task": {"enum": [*OF_CLASSES, *OF_NUMBERS]},
            "metric": WORD,
            "n_samples": {"type": "integer", "minimum": 1},
            "leaderboard": {"type": "array", "minItems": 1, "items": row},
            "picked": {"type": "object", "required": ["by", "mean", "folds"]},
        },
        "required": ["task", "metric", "n_samples", "level", "leaderboard", "picked"],
    }


def about() -> Schema:
    """Return the schema of ``FILE.about.json`` and of the Parquet key ``headwater-about``."""
    words = {"type": "array", "items": WORD}
    text = an_object("digest", "columns", "template", digest=DIGEST, columns=words, template=WORD)
    count = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": ["integer", "null"]}}
    names = ("kind", "outcomes", "groups", "made", "texts", "counts", "warnings")
    return an_object(
        *names,
        kind={"type": ["string", "null"]},
        outcomes=words,
        groups=words,
        made={"type": "object", "additionalProperties": WORD},
        texts={"type": "object", "additionalProperties": text},
        counts={"type": "object", "additionalProperties": count},
        warnings=words,
    )


def schemas() -> dict[str, Schema]:
    """Return every schema by its name."""
    folders = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "minLength": 1}}
    found = {
        "about": (about(), "what is known of a table"),
        "adapter": (adapter(), "trained weights of an encoder"),
        "cases": (of_type(bundle._Cases, closed=True), "cases.json of a bundle"),
        "config": (config(), "config.json of a run"),
        "cost": (with_more(of_type(run._Cost, closed=True), "seconds"), "cost.json of a run"),
        "decision": (decision(), "decision.json of a run"),
        "digests": (of_type(bundle._Digests, closed=True), "digests.json of a bundle"),
        "family": (an_object("separately", "runs", separately=WORD, runs=folders), "family.json of separate runs"),
        "head": (head(), "head.json of a run"),
        "index": (index(), "description of an index"),
        "joined": (joined(), "two encoders trained together"),
        "journal": (journal(), "a line of a journal"),
        "metrics": (metrics(), "metrics.json of a run"),
        "spec": (spec(), "spec of a feature set"),
        "store": (an_object("format", format={"const": 1}), "store.json"),
        "sums": ({"type": "array", "minItems": 1, "maxItems": 2, "items": SUM}, "checksums of a table in a store"),
        "sweep": (sweep(), "sweep.json"),
        "zarr": (zarr(), "zarr.json in a store"),
    }
    made = {name: {"$schema": DRAFT, "title": f"headwater: {title}", **one} for name, (one, title) in found.items()}
    return {**made, "bundle": bundle.schema()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, one in schemas().items():
        (FOLDER / f"{name}.schema.json").write_text(json.dumps(one, indent=1) + "\n")
