"""Options of commands: what their values become, and the words that give the same values again."""

from __future__ import annotations

import click
import pytest

from zoo.cli import options


@click.command()
@options.training_options
@options.variant_options
def command(**values):
    """Stands in for the commands that train."""


def parsed(*words):
    """Return the values of a command's words, and the words that `typed_again` makes of them."""
    with command.make_context("command", ["net", *words]) as context:
        values = context.params
        typed = [options.typed_again(name, values[name]) for name in values if name != "architecture"]
        return values, [word for words in typed for word in words]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--size", "160"], "size", (160, 160)),
        (["--size", "120X160"], "size", (120, 160)),
        (["--epochs", "3,0,5"], "epochs", (3, 0, 5)),
        (["--learning-rate", "1e-3,0.5"], "learning_rate", (1e-3, 0.5)),
        (["--cache-size", "500MB"], "cache_size", 500_000_000),
        (["--cache-size", "1.5 gib"], "cache_size", 1_610_612_736),
        (["--cache-size", "0"], "cache_size", 0),
        (["--pool", "roi:3"], "pool", {"pool": "roi", "grid": 3}),
        (["--pool", "max"], "pool", {"pool": "max"}),
        (["--hidden", "none"], "hidden", ()),
        (["--hidden", "64,8"], "hidden", (64, 8)),
        (["--balance"], "balance", True),
        (["--classes", 'b,"a, c"', "--classes", "d"], "classes", ("b", "a, c", "d")),
        (["--exclude", "raw", "--exclude", "*.png"], "exclude", ("raw", "*.png")),
        (["--rate", "one-cycle"], "override_lr_schedule", "one-cycle"),
    ],
)
def test_values_and_the_words_that_give_them_again(words, name, value):
    values, again = parsed(*words)
    assert values[name] == value
    assert again and parsed(*again)[0] == values


def test_defaults_need_no_words():
    assert parsed()[1] == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--size", "0"], "must be 1 to 4096 pixels. Received: '0'"),
        (["--size", "1x2x3"], "must be SIDE or HEIGHTxWIDTH"),
        (["--epochs", "1,,2"], "must be whole numbers from 0 to 999999, separated by commas. Received: '1,,2'"),
        (["--learning-rate", "nan"], "must be numbers above 0 and below 100"),
        (["--cache-size", "8 apples"], "must be a number of bytes, such as 500MB, 8GB or 0. Received: '8 apples'"),
        (["--pool", "roi:0"], "roi:GRID"),
        (["--pool", "avg:2"], "roi:GRID"),
        (["--max-drop", "nan"], "must be a number. Received: nan"),
    ],
)
def test_wrong_values(words, problem):
    with pytest.raises(click.BadParameter) as caught:
        parsed(*words)
    assert problem in caught.value.format_message()


def test_values_become_a_request():
    words = ["--optimizer", "sgd", "--views", "3", "--pool", "roi:2", "--dropout", "0.5", "--keep", "last"]
    with command.make_context("command", ["net", *words, "--learning-rate", "0.1"]) as context:
        values = context.params
        assert options.variant_requests(values) == ()
        request = options.training_values(values, export=False)
    assert request.overrides == {"optimizer": "sgd", "views": 3} and request.learning_rates == (0.1,)
    assert request.head == {"pool": "roi", "grid": 2, "dropout": 0.5}
    assert (request.architecture, request.keep_best, request.export) == ("net", False, False)
