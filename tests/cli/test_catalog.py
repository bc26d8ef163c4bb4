"""What `zoo list` and `zoo info` print, and that both ways to start the command work."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import zoo_runtime
from zoo.plugin import Architecture, Schedule


def test_info_says_once_what_all_files_share_and_gives_a_row_per_file(zoo, plugins, monkeypatch, tmp_path):
    local = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5"
    (tmp_path / local).write_bytes(b"x")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path))
    text = zoo("info", "mobilenetv2").out
    assert "mobilenetv2.imagenet1k: 10 files; `zoo info mobilenetv2.imagenet1k` shows them in full" in text
    entries = plugins.weights_of("mobilenetv2", "imagenet1k")
    for fact in ("source", "licence"):
        assert text.count(f"  {fact:<9}{getattr(entries[0], fact)}\n") == 1
    assert text.count("https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/\n") == 1
    assert text.count("none published; zoo records it on the first download") == 1
    rows = {line.split()[-1]: line.split() for line in text.splitlines() if line.endswith(".h5")}
    assert rows.keys() == {entry.filename for entry in entries}
    assert rows[local][:5] == ["160x160", "without", "0.688", "yes", "-"]
    first = rows["mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"]
    assert first[:5] == ["224x224", "without", "0.718", "no", "9,406,464"]
    assert len(text.splitlines()) < 40


def test_info_shows_the_beginning_of_each_hash(zoo):
    text = zoo("info", "vgg16").out
    rows = [line.split() for line in text.splitlines() if line.endswith(".h5")]
    assert [row[5] for row in rows] == ["md5:6d6bbae143d…", "md5:64373286793…"]
    assert "none published" not in text


def test_info_of_weights_shows_every_file_in_full(zoo, plugins):
    text = zoo("info", "mobilenetv2.imagenet1k").out
    for entry in plugins.weights_of("mobilenetv2", "imagenet1k"):
        assert f"  url           {entry.url}\n" in text
    assert text.count("mobilenetv2.imagenet1k, without top\n") == text.count("mobilenetv2.imagenet1k, with top\n") == 5
    full = zoo("info", "vgg16.imagenet1k").out
    for entry in plugins.weights_of("vgg16", "imagenet1k"):
        assert f"  hash          {entry.hash}\n" in full


def test_files_that_differ_in_a_shared_fact_say_so(zoo, install_plugin):
    install_plugin(
        "owls",
        """
from zoo.plugin import Weights, hookimpl

@hookimpl
def zoo_weights():
    for i, licence in enumerate(("MIT", "CC-BY-4.0")):
        yield Weights(architecture="vgg16", tag="owls", url=f"https://example.org/{i}.h5", filename=f"{i}.h5",
                      includes_top=bool(i), input_size=(96, 96), licence=licence, source="https://example.org")
""",
    )
    owls = zoo("info", "vgg16").out.partition("vgg16.owls: 2 files")[2]
    assert "licence  differs from file to file\n" in owls and "address  https://example.org/\n" in owls
    assert "plugin   owls (zoo-owls 1.2)\n" in owls


def test_info_shows_a_schedule_for_a_network_that_users_know(zoo):
    text = zoo("info", "fine-tune").out
    assert "Those of mobilenetv2 are:" in text and "`zoo schedule show fine-tune ARCH`" in text
    assert "head: trains head, 8 epochs, adam at 0.003 (cosine), BatchNorm frozen" in text


def test_info_describes_everything_that_is_listed(zoo, plugins):
    names = [item.name for item in plugins.all(Schedule)] + [item.name for item in plugins.all(Architecture)][:5]
    for name in names:
        ran = zoo("info", name)
        assert ran.code == 0 and ran.out.startswith(f"{name}: "), ran.err


def test_the_column_is_called_local_and_the_key_at_hand(zoo):
    heading = zoo("list", "vgg16").out.splitlines()[0].split()
    assert "local" in heading and "at" not in heading
    (row,) = json.loads(zoo("list", "architectures", "vgg16", "--json").out)
    assert row["at_hand"] is False


def test_list_says_how_to_list_another_kind(zoo):
    ran = zoo("list", "schedules", "nothing-like-this")
    assert ran.code == 2 and "no name among the schedules contains 'nothing-like-this'" in ran.err
    assert "`zoo list KIND`" in ran.err
    assert zoo("list", "kinds", "x").code == 2


@pytest.mark.parametrize("module", ["zoo", "zoo.cli"])
def test_the_command_as_a_module(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"zoo, version {zoo_runtime.__version__}\n"


def test_help_loads_no_plugin_system_and_nothing_that_only_one_command_needs():
    code = "import sys; from zoo import cli; cli.cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.splitlines()[-1].split())
    assert "zoo.cli.doctor" in modules
    assert not modules & {"pluggy", "zoo.plugin", "zoo.pretrained.fetch", "zoo.backend", "zoo.files", "zoo.runs"}
    assert not modules & {"importlib.metadata", "numpy", "PIL", "keras", "onnxruntime", "zoo_runtime"}
