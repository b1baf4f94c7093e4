"""Options as values: fields by name, unknown names, and values made of the options of a command."""

import inspect
from dataclasses import fields

import numpy as np
import pytest

import headwater as hw
from headwater import api
from headwater._options import picked, with_options
from headwater.errors import InputError

VALUES = (
    "EncoderChoice",
    "Execution",
    "ManifestColumns",
    "Protocol",
    "Selection",
    "Storage",
    "Training",
    "CaseFilter",
    "NearDuplicates",
)


def test_fields_by_name_go_to_their_value():
    """Each option replaces the field of its name, in the value that has it."""
    protocol, selection = with_options("f", {"folds": 3, "where": "a > 1"}, hw.Protocol(seed=7), hw.Selection())
    assert (protocol.folds, protocol.seed) == (3, 7)
    assert selection.where == "a > 1"


def test_an_option_replaces_what_the_value_says():
    """What is given by name counts over the value."""
    assert with_options("f", {"folds": 3}, hw.Protocol(folds=9)).folds == 3


@pytest.mark.parametrize("verb", ["fit_head", "sweep", "fine_tune", "contrast", "zero_shot", "evaluate", "embed"])
def test_an_unknown_name_is_pythons_own_error(verb, tmp_path):
    """A misspelt option is a TypeError that names the function, the option and the nearest one."""
    required = {
        "fit_head": {"store": "a.hw", "features": "a/image", "label": "x"},
        "sweep": {"store": "a.hw", "features": ["a/image"], "label": "x", "out": tmp_path / "s"},
        "fine_tune": {"manifest": "a.csv", "encoder": "builtin:clip", "label": "x"},
        "contrast": {"manifest": "a.csv", "encoder": "builtin:clip"},
        "zero_shot": {"store": "a.hw", "features": "a", "prompts": "p.toml", "label": "x"},
        "evaluate": {"run": "run", "store": "a.hw", "label": "x"},
        "embed": {"manifest": "a.csv", "store": "a.hw", "encoder": "stub:8"},
    }[verb]
    wrong, right = ("devise", "device") if verb == "embed" else ("grups", "groups")
    with pytest.raises(TypeError, match=rf"{verb}\(\).*'{wrong}'.*'{right}'"):
        getattr(api, verb)(**required, **{wrong: "x"})


@pytest.mark.parametrize("verb", ["embed", "encode", "doctor", "fine_tune", "contrast"])
def test_the_encoder_is_no_option(verb):
    """``spec``, which would replace the encoder, is a TypeError that says how the encoder is named."""
    required = {
        "embed": {"manifest": "a.csv", "store": "a.hw"},
        "encode": {"items": ["a"]},
        "doctor": {},
        "fine_tune": {"manifest": "a.csv", "label": "x"},
        "contrast": {"manifest": "a.csv"},
    }[verb]
    with pytest.raises(TypeError, match=rf"{verb}\(\).*'spec'\. Name the encoder with encoder=SPEC\."):
        getattr(api, verb)(**required, encoder="stub:8", spec="stub:16")


def test_a_value_may_hold_an_array():
    """A field that holds an array is neither compared as a truth value nor lost."""
    choice = hw.EncoderChoice("stub:8", image_size=np.array([224, 192]), tokens=4, layer=np.int64(2))
    assert (choice.image_size, choice.tokens, choice.layer) == ((224, 192), "4", "2")
    with pytest.raises(InputError, match="f does not use groups"):
        with_options("f", {}, hw.Protocol(groups=np.array([1, 2])), only={"folds"})


@pytest.mark.parametrize(
    "call",
    [
        lambda: api.fit_head("a.hw", features=[], label="x"),
        lambda: api.sweep("a.hw", features="a/image", label=[], out="sweep-of-nothing"),
        lambda: api.zero_shot("a.hw", features="a", prompts="p.toml", label=[]),
        lambda: api.evaluate("run", "a.hw", label=[]),
    ],
)
def test_an_empty_list_of_names(call):
    """An empty list of features or labels is refused with its option, before anything is read."""
    with pytest.raises(InputError, match=r"^--(features|label) is an empty list\. Name at least one\.$"):
        call()


def test_an_argument_of_an_earlier_version_says_what_to_use():
    """``bar`` of fine_tune and contrast is part of ``progress`` now."""
    for verb in (hw.fine_tune, hw.contrast):
        with pytest.raises(TypeError, match="progress=True"):
            verb("a.csv", encoder="builtin:clip", bar=True, **({"label": "x"} if verb is hw.fine_tune else {}))


def test_a_field_that_a_function_has_no_use_for(tmp_path):
    """A value with a field that a sweep would pass over in silence is refused, by the option's name too."""
    with pytest.raises(InputError, match=r"sweep .*conformal_per_class \(--conformal-per-class\)"):
        api.sweep(
            "a.hw", features=["a/image"], label="x", out=tmp_path / "s", protocol=hw.Protocol(conformal_per_class=True)
        )
    with pytest.raises(TypeError, match="'shots'"):
        api.sweep("a.hw", features=["a/image"], label="x", out=tmp_path / "s", shots=3)


def test_no_two_values_share_a_field():
    """A field's name says which value it belongs to, where a function takes several."""
    training = ("EncoderChoice", "ManifestColumns", "Protocol", "Selection", "Training")
    for together in (VALUES[:3] + VALUES[5:6], training):
        names = [field.name for value in together for field in fields(getattr(hw, value))]
        assert len(names) == len(set(names))


def test_values_are_frozen_and_compare():
    """A value can be made once and handed on: nothing changes it, and equal options are equal values."""
    protocol = hw.Protocol(groups="patient")
    assert protocol == hw.Protocol(groups="patient")
    with pytest.raises(AttributeError):
        protocol.folds = 3


def test_a_value_of_the_options_of_a_command():
    """A command's arguments become a value; None is the default, and arguments of others are passed over."""
    given = {"folds": None, "groups": "patient", "store": "a.hw", "seed": 3}
    assert picked(hw.Protocol, given) == hw.Protocol(groups="patient", seed=3)


@pytest.mark.parametrize("name", [name for name in api.__all__ if inspect.isfunction(getattr(api, name))])
def test_no_verb_has_many_parameters(name):
    """A function has at most 15 parameters; what belongs together is a value."""
    assert len(inspect.signature(getattr(api, name)).parameters) <= 15
