"""`zoo check` prints a table of pass, fail, skip and expected, with advice; its list and its JSON."""

from __future__ import annotations

import json
import re

import pytest

from zoo import testing

CODE = """
from zoo.plugin import Phase, Schedule, Weights, hookimpl


@hookimpl
def zoo_weights():
    facts = {"architecture": "mnist_convnet", "source": "https://arxiv.org/abs/1412.6806", "licence": "TODO"}
    facts |= {"includes_top": False, "input_size": (28, 28), "url": "https://example.org/odd.h5"}
    return [Weights(**facts, tag="odd", filename="odd.h5")]
"""


def test_the_table_shows_failures_with_advice(install_plugin, zoo):
    install_plugin("odd", CODE)
    ran = zoo("check", "odd")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert re.fullmatch(r"pass +odd +load +\d+\.\d s", lines[0])
    (failed,) = [i for i, line in enumerate(lines) if line.startswith("FAIL")]
    assert re.fullmatch(r"FAIL +mnist_convnet\.odd +metadata +\d+\.\d s", lines[failed])
    assert lines[failed + 1].strip() == "licence is the placeholder 'TODO'"
    assert "SPDX identifier" in lines[failed + 2]
    assert re.search(r"skip +mnist_convnet\.odd +weights +\d\.\d s  the file is not available: odd\.h5", ran.out)
    assert re.fullmatch(r"5 checks in \d+ s: 3 passed, 1 failed, 1 skipped", lines[-1])


def test_an_expected_failure_is_shown_and_one_that_passes_fails(install_plugin, zoo):
    install_plugin("odd", CODE)
    ran = zoo("check", "odd", "--expect", "metadata=we have asked the publisher")
    assert ran.code == 0
    assert re.search(r"expected +mnist_convnet\.odd +metadata +\d\.\d s  we have asked the publisher", ran.out)
    ran = zoo("check", "odd", "--only", "ids", "--expect", "mnist_convnet.odd-ids=never")
    assert ran.code == 1
    assert ran.out.startswith("UNEXPECTED") and "it passes, but a failure was expected: never" in ran.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "PLUGIN is missing"),
        (["odd", "--only", "metdata"], "Did you mean metadata or format-metadata?"),
        (["odd", "--only", "stages"], "odd provides nothing that stages could check"),
        (["odd", "--expect", "metadata"], "give CHECK=REASON. Received: 'metadata'"),
        (["mobilenetv9"], "There is no plugin, network or module called 'mobilenetv9'. Did you mean mobilenetv"),
        (["./nothing"], "holds no plugin"),
    ],
)
def test_wrong_usage_is_explained(arguments, problem, install_plugin, zoo):
    install_plugin("odd", CODE)
    ran = zoo("check", *arguments)
    assert ran.code == 2 and problem in ran.err


def test_the_checks_are_listed_with_their_rules_and_advice(zoo):
    listed = zoo("check", "--list")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == [check.name for check in testing.CHECKS]
    explained = zoo("check", "--explain", "--only", "stages").out
    assert explained.startswith("stages ") and "from the stem to the top" in explained
    facts = json.loads(zoo("check", "--explain", "--json").out)
    assert {each["check"] for each in facts} == {check.name for check in testing.CHECKS}
    for each in facts:
        assert each["rule"].endswith(".") and len(each["rule"]) > 20 and len(each["advice"]) > 60
        for sentence in re.split(r"(?<=[.:;]) ", f"{each['rule']} {each['advice']}"):
            assert len(sentence.split()) <= 25, sentence
