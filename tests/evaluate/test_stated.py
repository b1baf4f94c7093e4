"""Texts that state the label are found on tested rows; texts that merely go with it, and noise, are not."""

import numpy as np
import pytest

from headwater.evaluate import make_splits
from headwater.evaluate.stated import stated_in

FILLER = ["the", "section", "shows", "tissue", "with", "glands", "and", "stroma", "in", "several", "fields", "here"]


def reports(n, rng, n_words=12):
    """Texts of words that say nothing."""
    return [" ".join(rng.choice(FILLER, n_words)) for _ in range(n)]


def found(texts, y, names, n_folds=4):
    return stated_in(texts, y, names, make_splits(y, n_folds=n_folds))


NAMED = {
    "the name": ("benign", "malignant", "conclusion: {}", {}),
    "the name in capitals": ("benign", "malignant", "DIAGNOSIS: {}", {"upper": True}),
    "an ending": ("benign", "malignant", "signs of {}", {"malignant": "malignancy", "benign": "benignity"}),
    "several words": ("no carcinoma", "invasive carcinoma", "{}.", {}),
    "underscores": ("lung_aca", "lung_scc", "slide of {}", {"lung_aca": "lung aca", "lung_scc": "lung-scc"}),
    "a number": ("0", "1", "class {}.", {}),
    "another script": ("良性", "恶性", "诊断为{}肿瘤", {}),
    "a composed letter": ("tumeur", "sain\u00e9", "c'est {}", {"sain\u00e9": "saine\u0301"}),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_name_in_the_text(case):
    first, second, words, written = NAMED[case]
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    names = np.array([first, second])[y]
    texts = [f"{text} {words.format(written.get(name, name))}" for text, name in zip(reports(60, rng), names)]
    if written.get("upper"):
        texts = [text.upper() for text in texts]
    clue = found(texts, y, [first, second]).strong
    assert clue is not None
    assert clue.kind == "name"
    assert clue.words in (first, second)
    assert clue.auc >= 0.95


@pytest.mark.parametrize("absent", [False, True])
def test_a_word_that_is_no_name(absent):
    """One word, or its lack, tells the class: it is chosen on training rows and counted on tested ones."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    texts = [text + (" bct" if (label == 1) != absent else "") for text, label in zip(reports(120, rng), y)]
    clue = found(texts, y, ["low", "high"]).strong
    assert (clue.kind, clue.words, clue.auc) == ("word", "bct", 1.0)


def test_one_class_of_several_and_one_label_of_several():
    """Where only one of five classes is stated, that is said of that class; so with labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 200)
    texts = [text + (" necrosis" if label == 3 else "") for text, label in zip(reports(200, rng), y)]
    clue = found(texts, y, list("abcde")).strong
    assert (clue.words, clue.label) == ("necrosis", "d")
    labels = (rng.random((200, 3)) < 0.3).astype(int)
    texts = [text + (" zyst" if row[1] else "") for text, row in zip(reports(200, rng), labels)]
    parts = make_splits(labels, n_folds=4)
    clue = stated_in(texts, labels, ["mass", "cyst", "scar"], parts).strong
    assert (clue.words, clue.label) == ("zyst", "cyst")


def test_a_number_in_the_text():
    """A regression on a number that each text holds; numbers of other rows in the same texts are no evidence."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 400, 80) / 10
    texts = [f"{text} measures {size:g} mm" for text, size in zip(reports(80, rng), sizes)]
    splits = make_splits(sizes, n_folds=4, regression=True)
    assert stated_in(texts, sizes, ["size"], splits).strong.kind == "number"
    elsewhere = [texts[i] for i in rng.permutation(80)]
    assert stated_in(elsewhere, sizes, ["size"], splits).strong is None
    grades = rng.integers(1, 4, 80).astype(float)
    every = [f"{text} of 1, 2 or 3" for text in reports(80, rng)]
    assert stated_in(every, grades, ["grade"], make_splits(grades, n_folds=4, regression=True)).strong is None


@pytest.mark.parametrize(
    "written", [lambda v: f"{v:.1f}".replace(".", ",") + " %", lambda v: f"10-{v:g} mm", lambda v: f"{1000 * v:,.0f} g"]
)
def test_numbers_as_they_are_written(written):
    """A decimal comma, a range and thousands are numbers too."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1001, 4000, 80) / 10
    truth = np.round(1000 * sizes) if "g" in written(1.0)[-1] else sizes
    texts = [f"{text} {written(size)}" for text, size in zip(reports(80, rng), sizes)]
    assert stated_in(texts, truth, ["size"], make_splits(truth, n_folds=4, regression=True)).strong is not None


def test_two_words_that_follow_each_other():
    """Every text holds both names, and says after one word which it is."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    names = np.array(["benign", "malignant"])
    texts = [f"{text}: benign or malignant? answer {names[c]}" for text, c in zip(reports(120, rng), y)]
    clue = found(texts, y, names.tolist()).strong
    assert clue.words == f"answer {clue.label}"


def test_many_images_of_few_patients_are_no_evidence():
    """Six patients with ten images each, one meaningless report a patient: hardly ever refused, if groups are known."""
    n_refused = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        patient = np.repeat(np.arange(6), 10)
        y = (rng.permutation(6) % 2)[patient]
        report = [" ".join(f"w{word}" for word in rng.integers(0, 40, 12)) for _ in range(6)]
        splits = make_splits(y, groups=patient, n_folds=3)
        made = stated_in([report[p] for p in patient], y, ["a1", "b2"], splits, groups=patient)
        n_refused += made.strong is not None
    assert n_refused == 0


def test_words_that_go_with_a_class_are_no_statement():
    """Spiculated in 80 % of the malignant and 10 % of the benign: said with its AUC, and no strong evidence."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    has = rng.random(400) < np.where(y == 1, 0.8, 0.1)
    texts = [text + (" spiculated" if h else "") for text, h in zip(reports(400, rng), has)]
    made = found(texts, y, ["benign", "malignant"])
    assert made.strong is None
    assert made.word.words == "spiculated"
    assert made.word.auc == pytest.approx(0.85, abs=0.05)


@pytest.mark.parametrize(("n", "n_classes"), [(12, 2), (16, 2), (40, 2), (40, 8), (300, 20)])
def test_noise_is_never_strong(n, n_classes):
    """Of 100 data sets of texts that say nothing, with many rare words to choose from, none is refused."""
    rng = np.random.default_rng(n + n_classes)
    for _ in range(100 if n < 300 else 20):
        y = rng.permutation(np.arange(n) % n_classes)
        texts = [" ".join(map(str, rng.integers(0, 60, 15).astype(str))) for _ in range(n)]
        texts = [" ".join(f"w{word}" for word in text.split()) for text in texts]
        splits = make_splits(y, n_folds=min(4, np.bincount(y).min())) if np.bincount(y).min() > 1 else []
        assert stated_in(texts, y, [f"class{c}" for c in range(n_classes)], splits).strong is None


def test_the_word_is_not_measured_where_it_was_chosen():
    """Every text has a word of its own in each class: perfect in training, and worth nothing on tested rows."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    words = rng.integers(0, 400, (60, 40))
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    made = found(texts, y, ["a1", "b2"])
    assert made.word.auc < 0.75
    assert made.strong is None


def test_repeated_texts():
    y = np.array([0, 0, 1, 1, 0, 1])
    made = stated_in(["x", "x", "y", "y", "z", "z"], y, ["a", "b"], [])
    assert (made.n_repeated, made.n_repeated_one_label) == (3, 2)
    assert made.clues == []


def test_texts_without_words():
    y = np.arange(20) % 2
    made = found(["…"] * 20, y, ["a", "b"])
    assert made.strong is None
    assert made.word is None
