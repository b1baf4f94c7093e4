"""Templates: what each feature writes, what a text depends on, and templates from somebody else."""

import json
import string

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import InputError
from headwater.sources.sentences import MOST_CELL, MOST_TEXT, missing_in, write_texts
from headwater.sources.template import FORMS, MOST_BYTES, _Reader, parse_template, read_template

TABLE = pl.DataFrame(
    {
        "id": ["a", "b", "c", "d"],
        "age": [61, 1, None, 70],
        "density": ["A", "D", "NA", " "],
        "thickness": [52.25, 60.0, float("nan"), None],
        "implant": [True, False, None, False],
        "country": ["NA", "PL", "", None],
    }
)


def texts(source, table=TABLE, **options):
    return write_texts(parse_template(source), table, table["id"].to_list(), **options)


def of(column, source, table=TABLE):
    return texts(source, table.select("id", column))


@pytest.mark.parametrize(
    ("column", "source", "wanted"),
    [
        ("age", 'sentences = ["Age {age}."]', ["Age 61.", "Age 1.", "Age unknown.", "Age 70."]),
        ("age", 'missing = "not known"\nsentences = ["{ age }"]', ["61", "1", "not known", "70"]),
        ("age", 'if_missing = "leave out"\nsentences = ["{age}"]', ["61", "1", None, "70"]),
        (
            "age",
            'sentences = [{ text = "Age {age}.", if_missing = "leave out" }, "End."]',
            ["Age 61. End.", "Age 1. End.", "End.", "Age 70. End."],
        ),
        (
            "age",
            'sentences = ["{age} old"]\n[columns.age]\nunit = ["year", "years"]\nmissing = "?"',
            ["61 years old", "1 year old", "? old", "70 years old"],
        ),
        (
            "age",
            'sentences = ["{age}"]\n[columns.age]\nbins = [{ below = 61, word = "young" }, { word = "older" }]',
            ["older", "young", "unknown", "older"],
        ),
        (
            "density",
            'sentences = ["{density:capital}"]\n[columns.density]\nmap = { A = "fatty", D = "dense" }',
            ["Fatty", "Dense", "unknown", "unknown"],
        ),
        (
            "density",
            'sentences = ["{density}"]\n[columns.density]\nmap = { A = "fatty" }\nother = "not fatty"',
            ["fatty", "not fatty", "unknown", "unknown"],
        ),
        ("thickness", 'sentences = ["{thickness:.1f} mm"]', ["52.2 mm", "60.0 mm", "unknown mm", "unknown mm"]),
        ("thickness", 'sentences = ["{thickness}, {thickness:d}"]', ["52.25, 52", "60, 60", *["unknown, unknown"] * 2]),
        ("implant", 'sentences = ["Implant: {implant}"]', [f"Implant: {w}" for w in ("yes", "no", "unknown", "no")]),
        (
            "implant",
            'sentences = ["{implant}"]\n[columns.implant]\nmap = { true = "an implant", false = "none" }',
            ["an implant", "none", "unknown", "none"],
        ),
        ("country", 'sentences = ["{country}"]', ["unknown", "PL", "unknown", "unknown"]),
        (
            "country",
            'sentences = ["{country:lower}"]\n[columns.country]\nmap = { NA = "Namibia" }\nother = "abroad"',
            ["namibia", "abroad", "unknown", "unknown"],
        ),
        (
            "country",
            'sentences = ["{country}"]\n[columns.country]\nmissing_values = ["pl"]',
            ["unknown"] * 4,
        ),
        ("age", 'sentences = ["{{age}} of {age}"]', ["{age} of 61", "{age} of 1", "{age} of unknown", "{age} of 70"]),
    ],
)
def test_what_a_template_writes(column, source, wanted):
    """Numbers, words for values, bins, units, forms, and each rule for a missing value."""
    assert of(column, source) == wanted


def test_lists_and_dates_are_written():
    """A list is joined by semicolons, and a date is in ISO form."""
    table = pl.DataFrame({"id": ["a"], "f": [["mass", "calcification"]], "d": ["2020-01-31"]})
    table = table.with_columns(pl.col("d").str.to_date())
    assert texts('sentences = ["{f} on {d}"]', table) == ["mass; calcification on 2020-01-31"]


def test_numbers_beside_na_are_numbers_too():
    """A column that is text because of NA still has bins and forms."""
    table = pl.DataFrame({"id": ["a", "b"], "age": ["61.5", "NA"]})
    assert texts('sentences = ["{age:.0f}"]', table) == ["62", "unknown"]


# What a text depends on

SEVERAL = """
order = "shuffled"
seed = {seed}
sentences = [["Age {{age}}.", "{{age}} old.", "Aged {{age}}."], ["D {{density}}.", "Density {{density}}."], "Third."]
"""
ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(ids, min_size=2, max_size=12, unique=True), st.integers(0, 2**63 - 1), st.data())
def test_a_text_depends_on_its_own_row(names, seed, data):
    """Adding, removing or reordering rows changes no text of another row."""
    source = SEVERAL.format(seed=seed)
    ages = data.draw(st.lists(st.none() | st.integers(0, 120), min_size=len(names), max_size=len(names)))
    table = pl.DataFrame({"id": names, "age": pl.Series(ages, dtype=pl.Int64), "density": ["A"] * len(names)})
    whole = dict(zip(names, texts(source, table), strict=True))
    some = data.draw(st.permutations(range(len(names))))[: len(names) // 2 + 1]
    assert texts(source, table[some]) == [whole[names[i]] for i in some]


def test_seeds_choose_phrasings_and_orders():
    """Every phrasing and order is used, and another seed chooses others; without shuffling the order is fixed."""
    table = pl.DataFrame({"id": [f"{i}" for i in range(400)], "age": [50] * 400, "density": ["A"] * 400})
    first, second = (texts(SEVERAL.format(seed=seed), table) for seed in (0, 1))
    assert len(set(first)) == 3 * 2 * 6
    assert first != second
    counts = pl.Series(first).value_counts()["count"]
    assert counts.max() < 4 * 400 / 36  # no order or phrasing is preferred
    fixed = texts(SEVERAL.format(seed=0).replace('order = "shuffled"', ""), table)
    assert all(text.endswith("Third.") for text in fixed)


def test_samples_of_one_exam_have_one_wording():
    """With vary_by, rows of one value have one wording; a row without a value has that of its id."""
    table = pl.DataFrame(
        {
            "id": [f"{i}" for i in range(60)],
            "age": [50] * 60,
            "density": ["A"] * 60,
            "exam": [i // 4 if i < 56 else None for i in range(60)],
        }
    )
    source = 'vary_by = "exam"' + SEVERAL.format(seed=0)
    made = pl.Series(texts(source, table))
    per = table.with_columns(text=made).drop_nulls("exam").group_by("exam").agg(pl.col("text").n_unique())
    assert per["text"].to_list() == [1] * 14
    assert made.n_unique() > 8
    assert made[56:].to_list() == texts(SEVERAL.format(seed=0), table)[56:]


PLAIN = st.text(string.ascii_letters + string.digits + " .,;:-_äß{}'\"\\/%$", max_size=30)


@settings(max_examples=100, deadline=None)
@given(PLAIN, st.none() | PLAIN)
def test_words_of_a_template_stand_as_they_are(words, value):
    """Whatever surrounds a field or stands in a cell is copied, but for blanks; nothing in it is interpreted."""
    quoted = words.replace("\\", "\\\\").replace('"', '\\"').replace("{", "{{").replace("}", "}}")
    table = pl.DataFrame({"id": ["a"], "note": pl.Series([value], dtype=pl.String)})
    (text,) = texts(f'sentences = ["x {quoted} {{note}} y"]', table)
    cell = " ".join((value or "").split())
    cell = cell if cell and cell.lower() not in ("na", "n/a", "nan", "null") else "unknown"
    assert text == " ".join(f"x {words} {'yes' if cell == 'true' else 'no' if cell == 'false' else cell} y".split())


def test_a_withheld_column_says_nothing():
    """Without a column, texts are the same whatever its values are, and all others stay as they were."""
    source = """sentences = ["Age {age}.", "Density {density}.", { text = "T {thickness}.", if_missing = "leave out" },
    { text = "{age} and {implant}.", if_missing = "leave out" }]"""
    without = texts(source, without="age")
    other = TABLE.with_columns(age=pl.Series([5, None, 3, None]))
    assert without[0] == "Age unknown. Density A. T 52.25. unknown and yes."
    assert without[1:3] == ["Age unknown. Density D. T 60. unknown and no.", "Age unknown. Density unknown."]
    assert texts(source, other, without="age") == without
    assert texts(source, without="thickness")[0] == "Age 61. Density A. 61 and yes."


def test_a_withheld_column_leaves_rows_as_they_are():
    """A row keeps a text, or none, if its only column is withheld, so that the same samples are compared."""
    source = 'sentences = [{ text = "{age}", if_missing = "leave out" }]'
    assert of("age", source)[2] is None
    table = TABLE.select("id", "age")
    assert texts(source, table, without="age") == ["unknown", "unknown", None, "unknown"]


def test_a_column_that_a_table_may_lack_is_missing_in_each_row():
    """With ``optional``, one template serves tables of different columns; other names are still refused."""
    source = """
        outcomes = ["cancer"]
        optional = ["implant", "machine", "cancer"]
        vary_by = "machine"
        sentences = ["Age {age}.", "Implant {implant}.", { text = "By {machine}.", if_missing = "leave out" }]
    """
    there = TABLE.with_columns(machine=pl.Series(["X", None, "Y", "Z"]), cancer=pl.lit(1))
    assert texts(source, there)[:2] == ["Age 61. Implant yes. By X.", "Age 1. Implant no."]
    lacks = TABLE.drop("implant")
    assert texts(source, lacks)[:2] == ["Age 61. Implant unknown.", "Age 1. Implant unknown."]
    found = missing_in(parse_template(source), lacks)
    assert {name: values.to_list() for name, values in found.items()} == {
        "age": [False, False, True, False],
        "implant": [True] * 4,
        "machine": [True] * 4,
    }
    with pytest.raises(InputError, match="there is no such column"):
        texts(source, TABLE.drop("age"))


def test_which_values_are_missing():
    """A value counts as missing as the texts say it."""
    template = parse_template('sentences = ["{age} {country}"]\n[columns.country]\nmap = { NA = "n", PL = "p" }')
    found = missing_in(template, TABLE)
    assert found["age"].to_list() == [False, False, True, False]
    assert found["country"].to_list() == [False, False, True, True]


# Templates that are refused


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("sentences = [", "not TOML"),
        ("sentences = " + "[" * 20_000, "not TOML"),
        ("x = 1", "unknown key 'x'"),
        ("sentence = ['{age}']", "Did you mean 'sentences'?"),
        ("sentences = []", "sentences must be a list"),
        ("sentences = [1]", "sentence 1 must be"),
        ("sentences = ['']", "sentence 1 must be words"),
        ("sentences = ['no field']", "no sentence has a field"),
        ("sentences = ['{age']", "single '{'"),
        ("sentences = ['age}']", "single '}'"),
        ("sentences = ['{}']", "field without a name"),
        ("sentences = ['{:d}']", "field without a name"),
        ("sentences = ['{age:>1000000000}']", "form of {age:>1000000000} is not known"),
        ("sentences = ['{age:.9f}']", "There are: d, .0f"),
        ("sentences = ['{age!r}']", "no such column"),
        ("sentences = ['{age.__class__}']", "field {age.__class__}, but there is no such column"),
        ("sentences = ['{age[0]}']", "no such column"),
        ("sentences = ['{agee}']", "Did you mean 'age'?"),
        ("sentences = [['{age}', '{density}']]", "different fields"),
        ("sentences = ['{age}']\n[columns.ages]\nunit = 'x'", "no sentence has a field {ages}. Did you mean 'age'?"),
        ("sentences = ['{age}']\n[columns.age]\nunits = 'x'", "Did you mean 'unit'?"),
        ("sentences = ['{age}']\n[columns.age]\nother = 'x'", "other goes with map"),
        ("sentences = ['{age}']\n[columns.age]\nmap = {}\nbins = [{ word = 'x' }]", "both map and bins"),
        (
            "sentences = ['{age}']\n[columns.age]\nbins = [{ below = 2, word = 'x' }, { below = 1, word = 'y' }]",
            "ascend",
        ),
        ("sentences = ['{age}']\n[columns.age]\nbins = [{ word = 'x' }, { below = 1, word = 'y' }]", "only the last"),
        ("sentences = ['{age}']\n[columns.age]\nbins = [{ below = 5, word = 'x' }]", "above all bins"),
        ("sentences = ['{age}']\n[columns.age]\nbins = [{ below = nan, word = 'x' }]", "below must be a number"),
        ("sentences = ['{density:.1f}']", "is for numbers"),
        ("sentences = ['{density}']\n[columns.density]\nbins = [{ word = 'x' }]", "which are for numbers"),
        ("sentences = ['{density}']\n[columns.density]\nmap = { A = 'x', d = 'y' }", "'D' (1 row so)"),
        ("order = 'random'\nsentences = ['{age}']", "order must be"),
        ("optional = ['agee']\nsentences = ['{age}']", "optional names 'agee', which the template does not use"),
        ("sentences = ['{age}']\n[columns.age]\nunit = 'x'\nmap = { 1 = 'y' }", "unit goes with numbers"),
        ('sentences = ["{a\\nb}"]', "field {a b}, but there is no such column"),
        ('sentences = ["{a\\u009b}"]', "control characters"),
        ("vary_by = 'exm'\nsentences = ['{age}']", "vary_by names 'exm'"),
        ("vary_by = 'x'\noutcomes = ['x']\nsentences = ['{age}']", "the wording would tell it"),
        ('sentences = ["{age}"]\n[columns."a\\nb"]\nunit = "x"', "no sentence has a field {a b}"),
        ("seed = -1\nsentences = ['{age}']", "seed must be"),
        ("seed = true\nsentences = ['{age}']", "seed must be"),
        ("if_missing = 'skip'\nsentences = ['{age}']", "if_missing must be"),
        ("outcomes = ['age']\nsentences = ['{age}']", "among its outcomes"),
        ("outcomes = ['denstiy']\nsentences = ['{age}']", "outcomes name 'denstiy'"),
        ("sentences = ['\\u001b[2J {age}']".replace("'", '"'), "control characters"),
        ("sentences = ['{age}']\n#" + "x" * MOST_BYTES, "longer than"),
        ("sentences = ['" + "{age}" * 30 + "']", "more than 20 fields"),
        ("sentences = [" + "'{age}'," * 101 + "]", "at most 100"),
        ("sentences = [[" + "'{age}'," * 51 + "]]", "1 to 50 phrasings"),
        ("sentences = ['{age} " + "x" * 2_000 + "']", "characters"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(source, words):
    """Each mistake is refused by one line that says what is wrong."""
    with pytest.raises(InputError) as caught:
        texts(source)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 700


KEYS = ["sentences", "columns", "missing", "if_missing", "order", "seed", "outcomes", "text", "map", "bins", "age"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["{age}", "say"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS[:7]), VALUES, max_size=4))
def test_any_values_make_a_template_or_one_line(values):
    """Whatever a TOML file holds, it makes a template, or is refused by one line, and never another error."""
    values.setdefault("sentences", ["{age} {density}"])
    message = ""
    try:
        template = _Reader("t").template("", values)
        write_texts(template, TABLE, TABLE["id"].to_list())
    except InputError as error:
        message = str(error)
    assert "\n" not in message


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_makes_a_template_or_one_line(text):
    """The same holds for text that is no TOML, and for a phrasing of any characters."""
    for source in (text, f"sentences = [{json.dumps(text)}]"):
        message = ""
        try:
            parse_template(source)
        except InputError as error:
            message = str(error)
        assert "\n" not in message


def test_forms_are_a_closed_set():
    """A field's form rounds a number or changes case, and nothing else."""
    assert set(FORMS) == {"d", ".0f", ".1f", ".2f", ".3f", ".4f", ".5f", ".6f", "lower", "upper", "capital"}


def test_no_template_builds_texts_without_end():
    """Long words and long cells are refused before they are multiplied."""
    note = pl.DataFrame({"id": ["a"], "note": ["x" * (MOST_CELL + 1)]})
    with pytest.raises(InputError, match="can stand in a sentence"):
        texts('sentences = ["{note}"]', note)
    note = pl.DataFrame({"id": ["a"], "note": ["x" * MOST_CELL]})
    fields = "{note}" * 20
    with pytest.raises(InputError, match=f"at most {MOST_TEXT:,}"):
        texts(f'sentences = ["{fields}", "{fields}"]', note)


def test_a_text_is_no_formula_and_moves_no_cursor():
    """A text that begins like a formula gets an apostrophe; control characters of a cell become blanks."""
    table = pl.DataFrame({"id": ["a"], "note": ["=cmd|x\x1b[2J\u202e\ny"]})
    assert texts('sentences = ["{note}"]', table) == ["'=cmd|x [2J y"]


def test_what_is_no_file_is_refused(tmp_path):
    """A missing file, a folder, another encoding and a large file are each one line."""
    (tmp_path / "latin.toml").write_bytes('sentences = ["{Größe}"]'.encode("latin-1"))
    (tmp_path / "large.toml").write_bytes(b"#" * (MOST_BYTES + 1))
    for name, words in (("gone.toml", "no such file"), ("", "cannot be read"), ("latin.toml", "not in UTF-8")):
        with pytest.raises(InputError, match=words):
            read_template(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_template(tmp_path / "large.toml")


def test_bytes_and_structs_cannot_be_written():
    """A column of structs is refused by name."""
    table = pl.DataFrame({"id": ["a"], "s": [{"x": 1}]})
    with pytest.raises(InputError, match="column 's' holds Struct"):
        texts('sentences = ["{s}"]', table)
