"""Plugins: found by entry points, isolated one by one. Every test installs its plugin as a stranger would."""

from __future__ import annotations

import json

import pytest

from zoo.plugin import Architecture, Weights, registry

GOOD = """
from zoo.plugin import Augmentation, Phase, Schedule, hookimpl

def build():
    return lambda images, labels, seeds: (255 - images, labels)

@hookimpl
def zoo_augmentations():
    return [Augmentation(name="negative", summary="inverts", build=build)]

@hookimpl
def zoo_schedules():
    phases = [Phase(name="a", train="all", epochs=1, learning_rate=0.1)]
    return (Schedule(name=name, summary="one epoch", phases=phases) for name in ["blink"])
"""

BROKEN = {
    "raises_at_import": ("import nothing_of_that_name", "nothing_of_that_name"),
    "exits_at_import": ("raise SystemExit('bye')", "bye"),
    "syntax": ("def", "SyntaxError"),
    "raises_in_hook": (
        "from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_architectures():\n    raise RuntimeError('no luck')",
        "no luck",
    ),
    "raises_in_generator": (
        "from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_weights():\n    yield from [1/0]",
        "ZeroDivisionError",
    ),
    "returns_rubbish": (
        "from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_schedules():\n    return [{'name': 'x'}]",
        "must return Schedule objects",
    ),
    "returns_none": (
        "from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_schedules():\n    return None",
        "must return Schedule objects",
    ),
    "bad_data": (
        "from zoo.plugin import Phase, hookimpl\n@hookimpl\ndef zoo_schedules():\n"
        "    return [Phase(name='x', train='top', epochs=1, learning_rate=1e-3)]",
        "train must be",
    ),
    "misspelt_hook": (
        "from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_architecture():\n    return []",
        "there is no hook 'zoo_architecture'. Did you mean 'zoo_architectures'?",
    ),
    "subclass": (
        "from zoo.plugin import Schedule, hookimpl\nclass Mine(Schedule):\n    def __post_init__(self): pass\n"
        "@hookimpl\ndef zoo_schedules():\n    return [Mine(name='x', summary='y', phases=())]",
        "must return Schedule objects",
    ),
    "raises_no_exception": ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    "raises_unspeakable": (
        "class Mute(Exception):\n    def __str__(self): raise RuntimeError\nraise Mute()",
        "Mute",
    ),
    "lists_twice": (
        "from zoo.plugin import Phase, Schedule, hookimpl\n@hookimpl\ndef zoo_schedules():\n"
        "    phases = [Phase(name='a', train='all', epochs=1, learning_rate=0.1)]\n"
        "    return [Schedule(name='same', summary='s', phases=phases) for _ in range(2)]",
        "lists 'same' twice",
    ),
    "argument": (
        "from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_schedules(registry):\n    return []",
        "PluginValidationError",
    ),
    "no_hook": ("x = 1", "implements none of the hooks"),
}


def names(zoo, kind: str) -> list[str]:
    ran = zoo("list", kind, "--json")
    assert ran.code == 0
    return [row["name"] for row in json.loads(ran.out)]


def test_a_strangers_plugin_is_listed_with_its_origin(zoo, install_plugin):
    install_plugin("good", GOOD, "zoo-stranger")
    rows = json.loads(zoo("list", "--json").out)
    mine = {row["name"]: row for row in rows if row["plugin"] == "good"}
    assert mine["negative"]["kind"] == "augmentation"
    assert mine["blink"]["kind"] == "schedule"
    assert mine["good"]["distribution"] == "zoo-stranger"
    assert mine["good"]["version"] == "1.2"
    assert {"kind", "name", "plugin"} <= set.intersection(*(set(row) for row in rows))
    assert "inverts" in zoo("info", "negative").out
    assert "zoo-stranger 1.2" in zoo("info", "negative").out


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_named_and_the_rest_works(zoo, install_plugin, case):
    code, reason = BROKEN[case]
    install_plugin(case, code)
    install_plugin("good", GOOD)
    ran = zoo("list")
    assert ran.code == 0
    assert "mobilenetv2 " in ran.out and "vgg19" in ran.out
    warnings = [line for line in ran.err.splitlines() if line]
    assert len(warnings) == 1
    assert f"{case} (zoo-{case} 1.2)" in warnings[0] and reason in warnings[0]
    assert "negative" in names(zoo, "augmentations")
    doctor = zoo("doctor")
    assert doctor.code == 1
    assert "Traceback" in doctor.out and reason in doctor.out


@pytest.mark.parametrize("case", ["raises_at_import", "returns_rubbish"])
def test_strict_makes_a_broken_plugin_fatal(zoo, install_plugin, monkeypatch, case):
    install_plugin(case, BROKEN[case][0])
    monkeypatch.setenv("ZOO_STRICT_PLUGINS", "1")
    ran = zoo("list")
    assert ran.code == 1
    assert case in ran.err and "Traceback" not in ran.err


DUPLICATE = """
from zoo.plugin import Phase, Schedule, hookimpl

@hookimpl
def zoo_schedules():
    return [Schedule(name="full", summary="other", phases=[Phase(name="a", train="all", epochs=1, learning_rate=0.1)])]
"""


def test_a_name_given_twice_is_usable_by_nobody(zoo, install_plugin, photos):
    install_plugin("twin", DUPLICATE)
    ran = zoo("finetune", "mobilenetv2_035", "--data", photos, "--schedule", "full")
    assert ran.code == 1
    assert "schedules (finezoo" in ran.err and "twin (zoo-twin 1.2)" in ran.err
    listed = names(zoo, "schedules")
    assert "full" not in listed and "fine-tune" in listed
    assert "twin (zoo-twin 1.2)" in zoo("list").err


def test_strict_makes_a_name_given_twice_fatal(zoo, install_plugin, monkeypatch):
    install_plugin("twin", DUPLICATE)
    monkeypatch.setenv("ZOO_STRICT_PLUGINS", "1")
    ran = zoo("list")
    assert ran.code == 1 and "'full'" in ran.err


def test_weights_for_another_plugins_architecture(zoo, install_plugin):
    install_plugin(
        "more",
        """
from zoo.plugin import Weights, hookimpl

@hookimpl
def zoo_weights():
    for arch in ("vgg16", "nobody"):
        yield Weights(architecture=arch, tag="birds", url="https://example.org/b.h5", filename="b.h5",
                      includes_top=False, input_size=(96, 96), licence="MIT", source="https://example.org")
""",
    )
    assert "vgg16.birds, without top" in zoo("info", "vgg16.birds").out
    doctor = zoo("doctor")
    assert doctor.code == 1 and "nobody.birds" in doctor.out and "vgg16.birds" not in doctor.out


def test_unknown_names_suggest_the_nearest(zoo):
    for arguments, nearest in (
        (["info", "mobilnetv2"], "mobilenetv2"),
        (["finetune", "vgg166"], "vgg16"),
        (["finetune", "mobilenetv2.imagenet"], "imagenet1k"),
        (["finetune", "vgg16", "--schedule", "finetune"], "fine-tune"),
        (["finetune", "vgg16", "--augment", "lite"], "light"),
    ):
        ran = zoo(*arguments)
        assert ran.code == 2
        assert f"Did you mean {nearest}" in ran.err, ran.err


def test_list_shows_what_the_table_promises(zoo, monkeypatch, tmp_path):
    weights = tmp_path / "mirror"
    weights.mkdir()
    (weights / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.5_128_no_top.h5").write_bytes(b"x")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(weights))
    rows = {row["name"]: row for row in json.loads(zoo("list", "architectures", "--json").out)}
    assert rows.keys() == {item.name for item in registry.load().all(Architecture)}
    assert rows["mobilenetv2_050"]["at_hand"] is True and rows["mobilenetv2"]["at_hand"] is False
    assert rows["vgg16"]["parameters"] == 14_714_688 and rows["vgg16"]["top1"] == 0.713
    assert rows["mobilenetv2_140"]["size"] == [224, 224]
    text = zoo("list", "050").out.splitlines()
    assert len(text) == 3 and "706,224" in text[2] and "yes" in text[2] and "0.654" in text[2]
    files = json.loads(zoo("list", "weights", "--json").out)
    # MobileNetV2 is published for 22 combinations of width and resolution, each with and without top.
    assert len([row for row in files if row["name"].startswith("mobilenetv2")]) == 2 * 22
    assert len(files) == len(registry.load().all(Weights))
    assert zoo("list", "nothing-like-this").code == 2


def test_a_backbone_without_parameters_is_not_called_a_network_of_none(zoo):
    """All parameters of mnist_dense are in its head, whose size depends on the number of classes."""
    (row,) = json.loads(zoo("list", "mnist_dense", "--json").out)
    assert row["parameters"] == 0
    line = zoo("list", "mnist_dense").out.splitlines()[-1].split()
    assert line[:4] == ["mnist_dense", "-", "28x28", "-"]
    assert "parameters" in zoo("info", "mnist_dense").out and "none before the head" in zoo("info", "mnist_dense").out


def test_a_distribution_whose_entry_points_cannot_be_read_is_named(zoo, install_plugin, tmp_path):
    install_plugin("good", GOOD)
    (info,) = (tmp_path / "site-good").glob("*.dist-info")
    other = info.with_name("zoo_torn-1.0.dist-info")
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-torn\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[zoo.plugins]\nno equals sign\n")
    ran = zoo("list", "augmentations")
    assert ran.code == 0 and "negative" in ran.out and "light" in ran.out
    assert "the entry points of zoo-torn cannot be read" in ran.err


def test_what_a_plugin_prints_does_not_spoil_json(zoo, install_plugin):
    install_plugin("loud", "print('hello from a plugin')\n" + GOOD)
    ran = zoo("list", "--json")
    assert any(row["name"] == "negative" for row in json.loads(ran.out))
    assert "hello from a plugin" in ran.err


def test_a_schedule_that_fails_for_an_architecture_is_named(zoo, install_plugin, photos, tmp_path):
    install_plugin(
        "fails",
        "from zoo.plugin import Schedule, hookimpl\n\ndef phases(architecture):\n    raise RuntimeError('boom')\n\n"
        "@hookimpl\ndef zoo_schedules():\n    return [Schedule(name='fails', summary='s', phases=phases)]\n",
    )
    ran = zoo("finetune", "vgg16", "--data", photos, "--schedule", "fails", "--runs", tmp_path / "runs")
    assert ran.code == 1
    assert "schedule 'fails' has no phases for vgg16: RuntimeError: boom (" in ran.err
    assert "fails_plugin_module.py:4)" in ran.err
    assert zoo("info", "fails").code == 1


FOREIGN = """
from zoo.plugin import Weights, hookimpl

@hookimpl
def zoo_weights():
    yield Weights(architecture="mobilenetv2_035", tag="{tag}", url="https://example.org/y.h5", filename="y.h5",
                  includes_top=False, input_size=(64, 64), licence="MIT", source="https://example.org")
"""


def test_another_plugins_file_does_not_slip_into_published_weights(zoo, install_plugin, photos):
    """The same tag at another resolution would be taken silently where it fits better."""
    install_plugin("aaa", FOREIGN.format(tag="imagenet1k"))
    for arguments in (["--weights", "imagenet1k"], []):
        ran = zoo("finetune", "mobilenetv2_035", "--data", photos, "--size", 64, *arguments)
        assert ran.code == 1
        assert "mobilenetv2_035.imagenet1k" in ran.err and "aaa (zoo-aaa 1.2)" in ran.err and "brought by 2" in ran.err


def test_an_architectures_own_weights_come_first(zoo, install_plugin):
    install_plugin("aaa", FOREIGN.format(tag="mine"))
    entries = registry.load().weights_of("mobilenetv2_035", top=False)
    assert [entry.tag for entry in entries] == ["imagenet1k"] * 5 + ["mine"]
    (row,) = [row for row in json.loads(zoo("list", "--json").out) if row["name"] == "mobilenetv2_035"]
    assert row["top1"] == 0.603


def test_info_of_a_name_given_twice_says_so(zoo, install_plugin):
    install_plugin("twin", DUPLICATE)
    ran = zoo("info", "full")
    assert ran.code == 1 and "brought by 2 plugins" in ran.err
