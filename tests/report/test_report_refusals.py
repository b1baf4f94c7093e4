"""report: what cannot be reported ends in one line, before anything is written."""

import json

import pytest

from headwater.api import report
from headwater.errors import HeadError, HeadwaterError, InputError
from tests.report.test_report import copied


class TestRefusals:
    """What cannot be reported ends in one line, and no file is written."""

    @pytest.fixture
    def refused(self, tmp_path):
        def check(paths, error, match, **options):
            out = options.pop("out", tmp_path / "report.html")
            with pytest.raises(error, match=match) as caught:
                report(paths, out=out, **options)
            assert "\n" not in str(caught.value)
            assert not (tmp_path / "report.html").exists()

        return check

    def test_no_run(self, refused, tmp_path):
        refused(tmp_path / "nothing", HeadError, "no run here")

    def test_no_name(self, refused):
        refused([], InputError, "name at least one run")

    def test_other_samples(self, runs, refused):
        refused([runs["north"], runs["image"]], InputError, "tested different samples")

    def test_other_tasks(self, runs, refused):
        refused([runs["regression"], runs["image"]], InputError, "different tasks .* make a report of each")

    def test_twice(self, runs, refused):
        refused([runs["image"], runs["image"]], HeadwaterError, "named twice|names")

    def test_a_file_that_is_no_html(self, runs, refused, tmp_path):
        refused(runs["image"], InputError, r"ends in \.html", out=tmp_path / "report.pdf")

    def test_a_folder(self, runs, refused, tmp_path):
        (tmp_path / "there.html").mkdir()
        refused(runs["image"], InputError, "is a folder", out=tmp_path / "there.html")

    def test_no_folds(self, runs, refused, tmp_path):
        refused(copied(runs["text"], tmp_path, lambda m: m.pop("folds")), HeadError, "no folds")

    def test_a_run_of_contrast(self, runs, refused, tmp_path):
        def change(metrics):
            metrics["task"] = "retrieval"

        refused(copied(runs["text"], tmp_path, change), InputError, "is a run of contrast")

    def test_an_unknown_checklist(self, runs, refused):
        refused(runs["image"], InputError, "Did you mean|There are: claim", checklist="clam")

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{", "not the result of an audit"),
            ("[]", "expected object"),
            ('{"n_samples": 3}', "missing required field"),
            ("NaN", "not the result of an audit"),
        ],
    )
    def test_a_file_that_is_no_audit(self, runs, refused, tmp_path, text, why):
        (tmp_path / "audit.json").write_text(text)
        refused(runs["image"], InputError, why, audit=tmp_path / "audit.json")

    @pytest.mark.parametrize(("key", "value"), [("robustness", 1.5), ("interval", [0.1]), ("same_site", None)])
    def test_an_audit_with_another_number(self, runs, refused, tmp_path, audited, key, value):
        found = json.loads(json.dumps(audited.to_dict()))
        found["sites"][0][key] = value
        (tmp_path / "audit.json").write_text(json.dumps(found))
        refused(runs["image"], InputError, rf"sites\[0?\]\.{key}|sites\[\.\.\.\]\.{key}", audit=tmp_path / "audit.json")

    def test_no_audit_there(self, runs, refused, tmp_path):
        refused(runs["image"], InputError, "no such file", audit=tmp_path / "nothing.json")

    def test_a_column_that_is_not_there(self, runs, refused):
        refused(runs["image"], InputError, "no column", columns=["agee"])

    @pytest.mark.parametrize("columns", [["age"], None])
    def test_by_that_is_not_there(self, runs, refused, columns):
        refused(runs["image"], InputError, "Did you mean 'site'", columns=columns, by="sitee")

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            ("1 = ", "cannot be read as TOML"),
            ("43 = 'x'", "no item '43'"),
            ("1 = 5", "must be text"),
            ("titel = 'x'", "no item 'titel'"),
        ],
    )
    def test_a_study_that_cannot_be_read(self, runs, refused, tmp_path, words, match):
        (tmp_path / "study.toml").write_text(words)
        refused(runs["image"], InputError, match, checklist="claim", study=tmp_path / "study.toml")

    def test_a_study_that_is_not_there(self, runs, refused, tmp_path):
        refused(runs["image"], InputError, "no such file", checklist="claim", study=tmp_path / "study.toml")

    def test_items_without_a_checklist(self, runs, refused, tmp_path):
        (tmp_path / "study.toml").write_text("1 = 'x'")
        refused(runs["image"], InputError, "pass --checklist", study=tmp_path / "study.toml")

    def test_damaged_numbers(self, runs, refused, tmp_path):
        refused(copied(runs["text"], tmp_path, lambda m: m.update(mean="all")), HeadwaterError, "Make|make")
