"""What zero-shot found beyond its metrics, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater._words import counted
from headwater.api._numbers import indented


def ablation_lines(found: Mapping[str, Any]) -> list[str]:
    """Say which wording does what, the best first."""
    metric, level = found["metric"], f"{100 * found['level']:g} %"
    title = (
        f"which wording does what, by {metric}; differences to all prompts, {level} by drawing {found['drawn']}s again"
    )
    rows: list[Sequence[str]] = [["wording", metric, "difference", level, "p Holm"]]
    for entry in found["wordings"]:
        value, change = entry["metrics"][metric], entry.get("differences", {}).get(metric)
        cells = ["–" if value is None else f"{value:.3f}", "", "", ""]
        if change is not None:
            p = "<0.001" if change["p_holm"] < 0.001 else f"{change['p_holm']:.3f}"
            cells[1:] = [f"{change['difference']:+.3f}", f"[{change['low']:+.3f}, {change['high']:+.3f}]", p]
        rows.append([entry["name"], *cells])
    return [title, *indented(rows), f"{counted(found['n_comparisons'], 'comparison')}: {found['warning']}"]


def together_lines(found: Mapping[str, Any], mean: Mapping[str, float | None], names: Sequence[str]) -> list[str]:
    """Say what a run saw of its tested samples, and what that changed where it is known."""
    out = [f"transductive: it saw {found['sees']}"]
    if "zero_shot" in found:
        rows = [["", "one by one", "together"]]
        rows += [[name, f"{found['zero_shot'][name]:.3f}", f"{mean[name]:.3f}"] for name in names]
        rest = "" if found["converged"] else "; it did not converge"
        out += [*indented(rows), f"the class of {found['changed']:.1%} of the samples changed{rest}"]
    return out
