"""Plugins that break, hang, lie or change the process: they spoil nothing, and the user learns which one it was."""

from __future__ import annotations

import json
import locale
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path

import click
import pluggy
import pytest

from zoo import installed
from zoo.plugin import api, faults, guard, registry

SCHEDULE = """
from zoo.plugin import Phase, Schedule, hookimpl

def schedule(name="fine"):
    phases = [Phase(name="a", train="all", epochs=1, learning_rate=0.1)]
    return Schedule(name=name, summary="one epoch", phases=phases)
"""
GOOD = SCHEDULE + "\n@hookimpl\ndef zoo_schedules():\n    return [schedule('good')]\n"
WORKS = SCHEDULE + "\n@hookimpl\ndef zoo_schedules():\n    return [schedule('fine')]\n"

ADDRESS = re.compile("0x[0-9a-f]+")
# The code of a plugin, and what the message says.
HOSTILE = {
    "recursion": (SCHEDULE + "@hookimpl\ndef zoo_schedules():\n    return zoo_schedules()", "RecursionError"),
    "recursion_at_import": ("def f():\n    return f()\nf()", "RecursionError"),
    "endless_generator": (
        SCHEDULE + "@hookimpl\ndef zoo_schedules():\n    while True:\n        yield schedule()",
        "more than 10,000 objects, or never ends",
    ),
    "coroutine": (SCHEDULE + "@hookimpl\nasync def zoo_schedules():\n    return []", "must return Schedule objects"),
    "number": (SCHEDULE + "@hookimpl\ndef zoo_schedules():\n    return 3", "Received: 3"),
    "text": (SCHEDULE + "@hookimpl\ndef zoo_schedules():\n    return 'fine'", "Received: 'fine'"),
    "silent_object": (
        "from zoo.plugin import hookimpl\nclass Mute:\n    def __repr__(self): raise ValueError\n"
        "@hookimpl\ndef zoo_schedules():\n    return [Mute()]",
        "Received: an object of Mute",
    ),
    "endless_text": ("raise ValueError('x' * 10_000_000)", "xxx…"),
    "escapes": ("raise ValueError('\\x1b[2J\\x1b]0;title\\x07gone')", "ValueError:  [2J ]0;title gone"),
    "exits_in_text": (
        "class Odd(Exception):\n    def __str__(self): raise SystemExit(3)\nraise Odd()",
        "cannot be used: Odd",
    ),
    "exits_in_hook": ("import sys\n" + SCHEDULE + "@hookimpl\ndef zoo_schedules():\n    sys.exit('bye')", "bye"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "aborts": ("import os\nos.abort()", "it called os.abort while it was loaded"),
    "replaces_process": ("import os\nos.execvp('true', ['true'])", "it called os.execv while it was loaded"),
    "lying_name": (
        SCHEDULE + "class Name(str):\n    def __hash__(self): raise RuntimeError\n"
        "@hookimpl\ndef zoo_schedules():\n    return [schedule(Name('fine'))]",
        "a name must be plain text",
    ),
    "builtin_module": ("", "already registered"),
    "replaces_function": (
        "from zoo.plugin import registry\nregistry.load = None\n" + WORKS,
        "it replaced zoo.plugin.reg",
    ),
    "replaces_method": (
        "from zoo.plugin.registry import Registry\nRegistry.all = lambda self, kind: []\n" + WORKS,
        "it replaced zoo.plugin.registry.Registry.all",
    ),
    "replaces_check": (
        "from zoo.plugin import Schedule\nSchedule.__post_init__ = lambda self: None\n" + WORKS,
        "it replaced zoo.plugin.types.Schedule.__post_init__",
    ),
    "replaces_code": (
        "from zoo import errors\nerrors.reason.__code__ = (lambda error: 'fine').__code__\n" + WORKS,
        "it replaced zoo.errors.reason",
    ),
    "empties_table": (
        "from zoo.plugin import registry\nregistry.HOOKS.clear()\n" + WORKS,
        "it replaced zoo.plugin.registry.HOOKS",
    ),
    "replaces_pluggy": (
        "import pluggy\npluggy.PluginManager.register = lambda *more, **named: None\n" + WORKS,
        "it replaced pluggy._manager.PluginManager.register",
    ),
    "replaces_click": ("import click\nclick.echo = lambda *more, **named: None\n" + WORKS, "it replaced click.echo"),
    "replaces_print": ("import builtins\nbuiltins.print = None\n" + WORKS, "it replaced builtins.print"),
    "future": (
        "zoo_api = 99\n" + WORKS,
        "version 99 of the plugin API, and this zoo has version 1. Update zoo: `pip in",
    ),
    "future_import": (
        "from zoo.plugin import Dreams\nzoo_api: int = 7\n",
        "version 7 of the plugin API, and this zoo has version 1. Update zoo",
    ),
    "api_as_text": ("zoo_api = '1'\n" + WORKS, "zoo_api must be a whole number from 1 on, such as 1. Received: '1'"),
    "future_hook": (
        "from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_dreams():\n    return []",
        "there is no hook 'zoo_dreams'",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_plugin_is_named_and_spoils_nothing(zoo, install_plugin, tmp_path, case):
    code, why = HOSTILE[case]
    install_plugin(case, code)
    if case == "builtin_module":
        (points,) = (tmp_path / f"site-{case}").glob("*.dist-info/entry_points.txt")
        points.write_text(f"[zoo.plugins]\n{case} = zoo_plugins.vgg\n")
    install_plugin("zz_good", GOOD)
    ran = zoo("list", "--json")
    rows = {(row["kind"], row["name"]): row for row in json.loads(ran.out)}
    assert ran.code == 0 and ("architecture", "vgg16") in rows and ("schedule", "good") in rows
    assert ("schedule", "fine") not in rows and rows["plugin", case]["state"].startswith("broken: ")
    (warning,) = ran.err.splitlines()
    assert warning.startswith(f"warning: plugin {case} (zoo-{case} 1.2) cannot be used: ") and why in warning
    assert warning.endswith("`zoo doctor` explains it and says what to do.") and len(warning) < 800
    # The process is as it was: the same command says the same again.
    again = zoo("list", "--json")
    assert again.code == 0 and ADDRESS.sub("", again.out) == ADDRESS.sub("", ran.out)


def test_doctor_says_what_to_do_about_each_broken_plugin(zoo, install_plugin):
    install_plugin("needs", "import nothing_of_that_name")
    install_plugin("future", HOSTILE["future_import"][0])
    install_plugin("older", "from zoo.plugin import Gone")
    install_plugin("syntax", "def")
    install_plugin("boom", "def f():\n    raise RuntimeError('no luck')\nf()")
    ran = zoo("doctor")
    assert ran.code == 1
    said = {
        text.split(" ")[1]: text
        for text in json.loads(zoo("doctor", "--json").out)["problems"]
        if text.startswith("plugin ")
    }
    assert "`pip install --force-reinstall zoo-needs`" in said["needs"] and "nothing_of_that_name" in said["needs"]
    assert "If the plugin is yours, add the package to `dependencies` in its pyproject.toml." in said["needs"]
    assert "`pip install --upgrade finezoo`. Or install an older version of zoo-future." in said["future"]
    assert "Update both: `pip install --upgrade finezoo zoo-older`" in said["older"]
    assert f"another Python than {sys.version_info[0]}.{sys.version_info[1]}" in said["syntax"]
    assert "`pip uninstall zoo-boom` removes it." in said["boom"]
    for name, text in said.items():
        assert text.startswith(f"plugin {name} (zoo-{name} 1.2) cannot be used: ") and "Traceback" in text
        assert f"\n  {text}\n" in ran.out
    assert "boom_plugin_module.py" in said["boom"] and "in f" in said["boom"]


def test_os_exit_at_import_does_not_end_zoo(install_plugin):
    """In a process of its own: without the guard, it would end the tests."""
    install_plugin("leaves", "import os\nos._exit(0)")
    ran = subprocess.run([sys.executable, "-m", "zoo", "list"], capture_output=True, text=True)
    assert ran.returncode == 0 and "mobilenetv2 " in ran.stdout
    assert "plugin leaves (zoo-leaves 1.2) cannot be used: EndedProcess: it called os._exit" in ran.stderr


def test_ctrl_c_ends_zoo_while_a_plugin_loads(install_plugin, tmp_path):
    install_plugin("hangs", f"import time\nopen({str(tmp_path / 'here')!r}, 'w').close()\ntime.sleep(600)")
    process = subprocess.Popen([sys.executable, "-m", "zoo", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (tmp_path / "here").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, b"", b"interrupted")


FORKS = """
import os
child = os.fork()
if not child:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_a_process_that_a_plugin_forks_may_end(zoo, install_plugin):
    install_plugin("forks", FORKS + GOOD)
    ran = zoo("list", "schedules")
    assert ran.code == 0 and "good" in ran.out and ran.err == ""


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time\ntime.sleep(600)", "import threading\nthreading.Event().wait()"]
)
def test_a_plugin_that_never_ends_is_broken_off(zoo, install_plugin, monkeypatch, code):
    monkeypatch.setattr(guard, "NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(guard, "LIMIT_SECONDS", 0.3)
    install_plugin("hangs", code)
    install_plugin("zz_good", GOOD)
    ran = zoo("list", "schedules")
    assert ran.code == 0 and "good" in ran.out
    waits, broken = ran.err.splitlines()
    assert waits == "warning: zoo waits for the plugin hangs (zoo-hangs 1.2), which is still loading. Ctrl-C ends zoo."
    assert "plugin hangs (zoo-hangs 1.2) cannot be used: TookTooLong: it was not loaded after 0 seconds" in broken
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


CHANGES = """
import gc, locale, logging, os, signal, socket, sys, threading, warnings
os.chdir("/")
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: None)
locale.setlocale(locale.LC_ALL, "C")
warnings.simplefilter("error")
sys.path.insert(0, "/nowhere")
sys.path_hooks.clear()
sys.argv[:] = ["other"]
os.environ["KERAS_BACKEND"] = "nonsense"
os.environ.pop("HOME", None)
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
logging.disable(logging.CRITICAL)
sys.excepthook = None
sys.setrecursionlimit(150)
sys.settrace(lambda *_: None)
threading.excepthook = None
gc.disable()
socket.setdefaulttimeout(0.001)
sys.stdout = sys.stderr = open(os.devnull, "w")
sys.modules["json"] = None
"""


def present() -> list[object]:
    return [
        *(os.getcwd(), dict(os.environ), list(sys.path), list(sys.path_hooks), list(sys.argv), sys.modules["json"]),
        *(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), locale.setlocale(locale.LC_ALL)),
        *(list(warnings.filters), logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        *(sys.excepthook, threading.excepthook, sys.getrecursionlimit(), sys.gettrace(), sys.stdout, sys.stderr),
    ]


def test_what_a_plugin_changes_at_import_is_put_back(install_plugin):
    install_plugin("changes", CHANGES + GOOD)
    before = present()
    loaded = registry.load()
    for was, now in zip(before, present(), strict=True):
        assert now == was
    # The plugin itself works, and `zoo doctor` tells its authors.
    assert loaded.schedule("good") and not loaded.broken
    (remark,) = loaded.remarks
    assert remark.startswith("plugin changes (zoo-changes 1.2) changed the working folder, handlers of signals, ")
    for what in ("environment variables", "sys.path", "the root logger", "hooks of sys", "modules that were imported"):
        assert what in remark


def test_nothing_that_a_plugin_prints_gets_into_json(install_plugin):
    install_plugin(
        "loud",
        "import os, subprocess, sys\nprint('one')\nsys.stdout.write('two')\nsys.__stdout__.write('three\\n')\n"
        "sys.__stdout__.flush()\nos.write(1, b'four')\nos.system('echo five')\nsubprocess.run(['echo', 'six'])\n"
        "os.close(1)\n" + GOOD,
    )
    ran = subprocess.run([sys.executable, "-m", "zoo", "list", "schedules", "--json"], capture_output=True, text=True)
    assert ran.returncode == 0 and "good" in {row["name"] for row in json.loads(ran.stdout)}
    for word in ("one", "two", "three", "four", "five", "six"):
        assert word in ran.stderr


def test_a_slow_plugin_is_named_with_its_seconds_and_its_reason(zoo, install_plugin, monkeypatch, tmp_path):
    monkeypatch.setattr(faults, "SLOW_SECONDS", 0.05)
    # A package of that name which is quick to import; the next test takes the real TensorFlow.
    install_plugin("slow", "import time\ntime.sleep(0.1)\nimport keras_hub\n" + GOOD)
    (tmp_path / "site-slow" / "keras_hub.py").write_text("")

    def fresh(*arguments: str):
        for name in ("keras_hub", "slow_plugin_module"):
            sys.modules.pop(name, None)
        try:
            return zoo(*arguments)
        finally:
            sys.modules.pop("keras_hub", None)

    assert "took 0." in "\n".join(json.loads(fresh("doctor", "--json").out)["remarks"])
    ran = fresh("list", "schedules")
    assert ran.code == 0 and "good" in ran.out
    (warning,) = [line for line in ran.err.splitlines() if "plugin slow" in line]
    assert warning.startswith("warning: plugin slow (zoo-slow 1.2) took 0.")
    assert "s to load: it imports keras_hub at the top of its module. Most commands wait for that." in warning
    assert "`zoo --no-plugins` or ZOO_PLUGINS" in warning


@pytest.mark.slow
def test_a_plugin_that_imports_tensorflow_at_the_top_is_named(install_plugin):
    install_plugin("heavy", "import tensorflow\n" + GOOD)
    ran = subprocess.run([sys.executable, "-m", "zoo", "list", "schedules"], capture_output=True, text=True)
    assert ran.returncode == 0 and "good" in ran.stdout
    assert "plugin heavy (zoo-heavy 1.2) took " in ran.stderr
    assert "it imports tensorflow at the top of its module" in ran.stderr


def test_names_given_by_two_plugins_say_how_to_go_on(zoo, install_plugin, monkeypatch):
    install_plugin("one", GOOD)
    install_plugin("two", GOOD)
    ran = zoo("info", "good")
    assert ran.code == 1 and "one (zoo-one 1.2) and two (zoo-two 1.2)" in ran.err and "with ZOO_PLUGINS" in ran.err
    monkeypatch.setenv("ZOO_PLUGINS", "two")
    ran = zoo("info", "good")
    assert ran.code == 0 and "two (zoo-two 1.2)" in ran.out and ran.err == ""


def plugins(zoo, *options: str) -> list[str]:
    ran = zoo(*options, "list", "plugins", "--json")
    assert ran.code == 0, ran.err
    return [row["name"] for row in json.loads(ran.out) if row["distribution"] != "finezoo"]


def test_zoo_plugins_limits_what_is_loaded(zoo, install_plugin, monkeypatch, tmp_path):
    install_plugin("alpha", GOOD)
    install_plugin("beta", f"open({str(tmp_path / 'imported')!r}, 'w')\nraise RuntimeError")
    monkeypatch.setenv("ZOO_PLUGINS", " alpha ,vgg")
    assert plugins(zoo) == ["alpha"] and not (tmp_path / "imported").exists()
    assert "vgg16" in zoo("list").out and zoo("list").err == ""
    monkeypatch.setenv("ZOO_PLUGINS", "Zoo_Alpha")
    assert plugins(zoo) == ["alpha"]
    monkeypatch.setenv("ZOO_PLUGINS", "")
    assert plugins(zoo) == []
    states = {row["name"]: row["state"] for row in json.loads(zoo("doctor", "--json").out)["plugins"]}
    assert states["alpha"] == states["beta"] == "left out" and states["vgg"] == "loaded"
    monkeypatch.delenv("ZOO_PLUGINS")
    assert plugins(zoo, "--no-plugins") == [] and not (tmp_path / "imported").exists()
    assert plugins(zoo) == ["alpha", "beta"] and (tmp_path / "imported").exists()


def test_an_unknown_name_in_zoo_plugins_is_an_error_with_the_nearest(zoo, install_plugin, monkeypatch):
    install_plugin("alpha", GOOD)
    monkeypatch.setenv("ZOO_PLUGINS", "alpa")
    ran = zoo("list")
    assert ran.code == 2 and "no installed plugin called 'alpa'. Did you mean alpha?" in ran.err
    assert "ZOO_PLUGINS names the plugins" in ran.err
    assert zoo("--help").code == 0 and zoo("--no-plugins", "list").code == 0
    ran = zoo("doctor")
    assert ran.code == 1 and "no installed plugin called 'alpa'" in ran.out and "xception" in ran.out


def test_no_plugins_after_the_command_says_where_it_belongs(zoo):
    ran = zoo("list", "--no-plugins")
    assert ran.code == 2 and "--no-plugins stands before the command: `zoo --no-plugins list`." in ran.err


def test_older_plugins_work_with_a_warning_and_very_old_ones_are_refused(zoo, install_plugin, monkeypatch):
    monkeypatch.setattr(api, "API_VERSION", 3)
    monkeypatch.setattr(api, "OLDEST_API", 2)
    install_plugin("old", "zoo_api = 2\n" + GOOD)
    install_plugin("ancient", "zoo_api = 1\n" + WORKS)
    install_plugin("says_nothing", SCHEDULE + "@hookimpl\ndef zoo_schedules():\n    return [schedule('new')]")
    with pytest.warns(DeprecationWarning, match="written for version 2 of the plugin API, and this zoo has version 3"):
        loaded = registry.load()
    assert loaded.schedule("good") and loaded.schedule("new")
    (broken,) = loaded.broken
    assert broken.name == "ancient" and "this zoo runs plugins for 2 to 3. Update it" in broken.error
    assert broken.error.endswith("Update it: `pip install --upgrade zoo-ancient`")
    assert broken.advice == "`pip uninstall zoo-ancient` removes it."
    assert [remark for remark in loaded.remarks if "plugin old (zoo-old 1.2): it was written for version 2" in remark]


COMMANDS = """
import click
from zoo.plugin import hookimpl

@click.command("{name}")
@click.argument("word", default="you")
def command(word):
    \"\"\"Greets {name}.\"\"\"
    if word == "fail":
        raise ValueError("no such greeting")
    click.echo(f"hello {{word}}")
    return ["not", "a", "code"]

@hookimpl
def zoo_commands():
    return [command{more}]
"""


def test_a_plugin_adds_a_command(zoo, install_plugin):
    install_plugin("greets", COMMANDS.format(name="greet-all", more=""))
    text = zoo("--help").out
    own, _, added = text.partition("\nCommands of plugins:\n")
    assert "  finetune " in own and "greet-all" not in own
    assert added.split() == ["greet-all", "Greets", "greet-all.", "(plugin", "greets)"]
    assert zoo("greet-all", "cat").out == "hello cat\n" and zoo("greet-all", "cat").code == 0
    assert "Greets greet-all." in zoo("greet-all", "--help").out
    assert "Did you mean `zoo greet-all`?" in zoo("greet-al").err
    ran = zoo("greet-all", "fail")
    assert ran.code == 1 and "Traceback" in ran.err
    assert "`zoo greet-all` is a command of the plugin greets (zoo-greets 1.2), and it failed: ValueError" in ran.err
    assert zoo("--no-plugins", "greet-all").code == 2
    assert "greet-all" not in zoo("--no-plugins", "--help").out


def test_commands_that_clash_or_are_none_are_refused_with_a_message(zoo, install_plugin):
    install_plugin("one", COMMANDS.format(name="greet", more=", click.Command('list'), 3, click.Command('Bad Name')"))
    install_plugin("two", COMMANDS.format(name="greet", more=", click.Command('extra')"))
    ran = zoo("--help")
    assert ran.code == 0 and "  extra " in ran.out and "greet" not in ran.out
    assert "plugin one (zoo-one 1.2): it brings the command 'list', but `zoo list` is a command of zoo." in ran.err
    assert "zoo_commands must return click.Command objects. Received: one of int." in ran.err
    assert "single hyphens, and begins with a letter. Received: 'Bad Name'" in ran.err
    assert "the command 'greet' is brought by 2 plugins: one (zoo-one 1.2) and two (zoo-two 1.2)." in ran.err
    assert "architecture" not in zoo("list").err and "mobilenetv2 " in zoo("list").out
    doctor = zoo("doctor").out
    assert "it brings the command 'list'" in doctor and "the command 'greet' is brought by 2" in doctor


@pytest.mark.parametrize("fault", ["raise RuntimeError('boom')", "return None", "return zoo_commands()"])
def test_a_broken_hook_for_commands_does_not_break_the_help(zoo, install_plugin, fault):
    install_plugin("bad", f"from zoo.plugin import hookimpl\n@hookimpl\ndef zoo_commands():\n    {fault}")
    install_plugin("greets", COMMANDS.format(name="greet", more=""))
    ran = zoo("--help")
    assert ran.code == 0 and "  finetune " in ran.out and "greet" in ran.out
    assert "plugin bad (zoo-bad 1.2) cannot be used: " in ran.err
    # Commands of zoo do not call the hook.
    assert zoo("list").err == ""


def test_commands_of_zoo_import_no_plugin(zoo, install_plugin, tmp_path):
    install_plugin("marks", f"open({str(tmp_path / 'imported')!r}, 'w')\n" + COMMANDS.format(name="greet", more=""))
    for arguments in (["runs", "--runs", tmp_path], ["predict", "--help"], ["finetune", "--help"]):
        zoo(*arguments)
        assert not (tmp_path / "imported").exists(), arguments
    assert zoo("greet").out == "hello you\n" and (tmp_path / "imported").exists()


def test_plugins_in_an_archive_are_found(zoo, install_plugin, tmp_path, monkeypatch):
    install_plugin("packed", GOOD)
    folder, archive = tmp_path / "site-packed", tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            writer.write(path, path.relative_to(folder))
    monkeypatch.setattr(sys, "path", [str(archive), *(each for each in sys.path if each != str(folder))])
    assert plugins(zoo) == ["packed"]
    assert "good" in zoo("list", "schedules").out


def test_the_version_of_a_distribution_whose_metadata_are_incomplete(install_plugin, tmp_path):
    install_plugin("bare", GOOD)
    (info,) = (tmp_path / "site-bare").glob("*.dist-info")
    (info / "METADATA").unlink()
    (point,) = [point for point in installed.entry_points() if point.name == "bare"]
    assert (point.distribution, point.version, point.builtin) == ("zoo_bare", "1.2", False)
    assert str(Path(info).name) == "zoo_bare-1.2.dist-info"


def test_the_guard_watches_what_zoo_and_its_tools_consist_of():
    """If these move, the guard would look at nothing."""
    kept = {name for name, *_ in guard.Guard()._namespaces._kept}
    assert {"zoo.plugin.registry", "zoo.plugin.types.Architecture", "pluggy._manager.PluginManager", "builtins"} <= kept
    assert click.__name__ in kept and pluggy.__name__ in kept and len(kept) > 100


ENDS = """
import sys
import click
from zoo.plugin import Schedule, hookimpl

def phases(architecture):
    sys.exit(0)

@hookimpl
def zoo_schedules():
    return [Schedule(name="ends", summary="ends zoo", phases=phases)]

@click.command("end-it")
@click.argument("how")
def end_it(how):
    if how == "odd":
        raise BaseException("odd")
    sys.exit({"text": "it is done", "four": 4, "nothing": None}[how])

@hookimpl
def zoo_commands():
    return [end_it]
"""


def test_sys_exit_in_a_function_of_a_plugin_is_no_success(zoo, install_plugin):
    install_plugin("ends", ENDS)
    ran = zoo("schedule", "show", "ends", "mobilenetv2")
    assert ran.code == 1
    assert "error: the command ended before it was done, by SystemExit: 0 (" in ran.err
    assert "ends_plugin_module.py:7). That is code of a plugin" in ran.err


def test_a_command_of_a_plugin_may_end_with_a_code_or_a_text(zoo, install_plugin):
    install_plugin("ends", ENDS)
    assert [zoo("end-it", how).code for how in ("nothing", "four", "text")] == [0, 4, 1]
    assert zoo("end-it", "text").err == "it is done\n"
    ran = zoo("end-it", "odd")
    assert (
        ran.code == 1 and "is a command of the plugin ends (zoo-ends 1.2), and it failed: BaseException: odd" in ran.err
    )


def test_names_are_short_enough_for_folders(zoo, install_plugin):
    install_plugin("long", SCHEDULE + f"@hookimpl\ndef zoo_schedules():\n    return [schedule('{'x' * 101}')]\n")
    ran = zoo("list", "schedules")
    assert ran.code == 0 and "plugin long (zoo-long 1.2) cannot be used: Schedule: a name may hold" in ran.err
