"""Numbers and names of a report, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.evaluate.intervals import LEVEL

NAMES: Mapping[str, str] = {
    "auc": "AUC",
    "auc_macro": "AUC, mean over classes",
    "auc_micro": "AUC, all entries",
    "auc_present": "AUC, classes present",
    "auc_macro_present": "AUC, labels present",
    "auc_cuts": "AUC, mean over cuts",
    "auc_above_90_specificity": "Partial AUC above 90 % specificity",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "specificity": "Specificity",
    "f1": "F1",
    "f1_macro": "F1, mean over classes",
    "f1_micro": "F1, all entries",
    "f1_weighted": "F1, weighted",
    "kappa": "Cohen's kappa",
    "kappa_quadratic": "Quadratic kappa",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "hamming": "Hamming loss",
    "mae": "Mean absolute error",
    "mae_grades": "Mean error, in grades",
    "off_by_two": "Off by two grades or more",
    "rmse": "Root mean squared error",
    "r2": "R²",
    "rps": "Ranked probability score",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "c_index": "C index (Harrell)",
    "c_index_uno": "C index (Uno)",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "calibration_in_the_large": "Calibration in the large",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "sensitivity": "Sensitivity",
    "coverage": "Coverage",
    "mean_size": "Mean size of a set",
    "threshold": "Threshold",
    "recall_rate": "Share called positive",
    "detection_rate": "Share called positive and right",
    "missed": "Share of labels missed",
    "empty": "Share of empty sets",
    "single": "Share of sets of one class",
    "n_train": "Training rows",
    "n_test": "Test rows",
}
MEANINGS: Mapping[str, str] = {
    "auc": "chance that a case of the class gets a higher score than one outside it; 0.5 is guessing",
    "auc_macro": "chance that a case with a label gets a higher score for it than one without; 0.5 is guessing",
    "auc_cuts": "chance that a case above a cut between grades gets a higher score than one below; 0.5 is guessing",
    "accuracy": "share of cases called right",
    "balanced_accuracy": "share called right, each class counting the same",
    "precision": "share right among the cases called positive",
    "recall": "share found among the positive cases (sensitivity)",
    "specificity": "share called negative among the negative cases",
    "f1_macro": "harmonic mean of precision and recall, each class counting the same",
    "f1_micro": "harmonic mean of precision and recall over all entries",
    "log_loss": "penalty for wrong probabilities; lower is better",
    "brier": "squared error of the probabilities; lower is better",
    "kappa_quadratic": "agreement beyond chance, larger errors counting more",
    "mae_grades": "mean distance from the true grade; lower is better",
    "off_by_two": "share wrong by two grades or more; lower is better",
    "rps": "squared error of the cumulative probabilities; lower is better",
    "hamming": "share of wrong entries; lower is better",
    "r2": "share of the variance that is explained; 0 is the mean for everybody",
    "mae": "mean distance from the true number; lower is better",
    "rmse": "as the mean absolute error, large errors counting more; lower is better",
    "pearson": "linear correlation of predicted and true numbers",
    "spearman": "correlation of their ranks",
    "c_index": "chance that the patient with the earlier event has the higher risk; 0.5 is guessing",
    "c_index_uno": "the same, less dependent on when patients were censored",
}
TILES: Mapping[str, tuple[str, ...]] = {
    "binary": ("auc", "recall", "specificity"),
    "multiclass": ("auc", "accuracy", "f1_macro"),
    "multilabel": ("auc_macro", "f1_macro", "hamming"),
    "regression": ("r2", "mae", "pearson"),
    "survival": ("c_index", "c_index_uno"),
    "ordinal": ("kappa_quadratic", "mae_grades", "accuracy"),
}
HEADLINE: Mapping[str, tuple[str, ...]] = {
    "binary": (
        *("auc", "average_precision", "accuracy", "balanced_accuracy", "precision", "recall", "specificity"),
        *("f1", "f1_macro", "log_loss", "brier"),
    ),
    "multiclass": ("auc", "accuracy", "balanced_accuracy", "f1_macro", "kappa", "log_loss", "brier"),
    "multilabel": ("auc_macro", "auc_micro", "average_precision", "f1_macro", "f1_micro", "hamming"),
    "regression": ("r2", "mae", "rmse", "pearson", "spearman"),
    "survival": ("c_index", "c_index_uno"),
    "ordinal": (
        *("kappa_quadratic", "mae_grades", "off_by_two", "accuracy", "balanced_accuracy", "auc_cuts"),
        *("spearman", "rps"),
    ),
}


PEOPLE = ("Brier", "Pearson", "Spearman", "Hamming")


def metric_name(name: str) -> str:
    """Return what a metric is called."""
    words = name.replace("_", " ")
    return NAMES.get(name, words[:1].upper() + words[1:])


def metric_inside(name: str) -> str:
    """Return what a metric is called within a sentence.

    Examples
    --------
    >>> metric_inside("auc"), metric_inside("balanced_accuracy"), metric_inside("c_index")
    ('AUC', 'balanced accuracy', 'C index (Harrell)')
    """
    words = metric_name(name)
    first = words.split(" ")[0].rstrip(",")
    is_name = not first.isalpha() or not first[1:].islower() or first in PEOPLE
    return words if is_name else words[0].lower() + words[1:]


def number(value: Any, sign: str = "") -> str:
    """Format a number of a run; a dash where it has none.

    Examples
    --------
    >>> number(0.93356), number(-0.03, "+"), number(None), number(1234.5), number(12)
    ('0.934', '−0.030', '–', '1,234.5', '12')
    """
    if value is None or isinstance(value, str) or value != value:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        words = f"{value:{sign},}"
    else:
        digits = 3 if abs(value) < 100 else 1
        words = f"{value:{sign},.{digits}f}"
    return words.replace("-", "−")


def span(low: Any, high: Any, sign: str = "") -> str:
    """Format an interval; a dash where there is none.

    Examples
    --------
    >>> span(0.5, 0.75), span(-0.1, 0.04, "+"), span(None, None)
    ('0.500 to 0.750', '−0.100 to +0.040', '–')
    """
    ends = [number(low, sign), number(high, sign)]
    return "–" if ends == ["–", "–"] else " to ".join(ends)


def ends(section: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    """Return the interval of a metric of a section of ``metrics.json``; None for both where there is none."""
    found = (section.get("intervals") or {}).get(name)
    if isinstance(found, Mapping):  # of an older run
        return found.get("low"), found.get("high")
    low, high = found or (None, None)
    return low, high


def percent(section: Mapping[str, Any]) -> str:
    """Return the confidence level of a run's intervals."""
    return f"{100 * section.get('level', LEVEL):g} %"


def p_value(p: Any, least: Any = None) -> str:
    """Format a p value, with the least attainable one where that is above 0.01.

    Examples
    --------
    >>> p_value(0.37), p_value(0.0001), p_value(None), p_value(0.0625, 0.0625)
    ('0.37', 'below 0.001', '–', '0.062 (least possible 0.062)')
    """
    if p is None or p != p:
        return "–"
    words = "below 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
    return f"{words} (least possible {least:.2g})" if least is not None and least > 0.01 else words


NOUNS = {
    *("patient", "subject", "participant", "donor", "woman", "person", "case", "exam", "study", "slide", "site"),
    *("hospital", "laboratory", "centre", "center", "scanner", "group", "family", "breast", "lesion", "tile"),
}


def groups_words(n: int, column: str) -> str:
    """Count the values of a column of groups.

    Examples
    --------
    >>> groups_words(161, "patient"), groups_words(1, "patient"), groups_words(7, "pid")
    ('161 patients', '1 patient', '7 values of pid')
    """
    if column.lower() in NOUNS:
        many = {"woman": "women", "study": "studies", "family": "families", "laboratory": "laboratories"}
        return f"{n:,} {column if n == 1 else many.get(column.lower(), column + 's')}"
    return f"{n:,} value{'' if n == 1 else 's'} of {column}"


def one_group(column: str) -> str:
    """Name one value of a column of groups.

    Examples
    --------
    >>> one_group("patient"), one_group("pid")
    ('one patient', 'one value of pid')
    """
    return f"one {column}" if column.lower() in NOUNS else f"one value of {column}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Return words as a list in a sentence.

    Examples
    --------
    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    words = [str(word) for word in words]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def sentence(words: str) -> str:
    """Return words as a sentence: with a capital and a full stop.

    Examples
    --------
    >>> sentence("it was fitted")
    'It was fitted.'
    """
    words = words[:1].upper() + words[1:]
    return words if words.endswith((".", "!", "?")) else f"{words}."
