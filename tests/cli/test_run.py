"""The script `zoo` ends at once if TensorFlow was loaded, loses nothing, and does not wait for ever."""

import subprocess
import sys

import pytest

CODE = """
import atexit, os, sys, threading, time, types
from concurrent.futures import ThreadPoolExecutor
if {loaded}: sys.modules["tensorflow"] = types.ModuleType("tensorflow")
class Slow:
    def __del__(self, write=os.write): write(1, b"freed\\n")
kept = Slow()
atexit.register(print, "handler")
threading.Thread(target=lambda: (time.sleep(0.2), os.write(1, b"thread\\n"))).start()
pool = ThreadPoolExecutor(1)  # its thread waits for more work
pool.submit(os.write, 1, b"pool\\n")
sys.argv = ["zoo", *{arguments!r}]
from zoo.cli import run
run()
"""


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize(("arguments", "code"), [(["info", "mobilenetv2"], 0), (["info", "nothing-like-it"], 2)])
def test_the_process_ends_with_its_code_output_threads_and_handlers(loaded, arguments, code):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(loaded=loaded, arguments=arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    lines = done.stdout.split()
    assert lines.index("thread") < lines.index("handler")
    assert any("mobilenetv2" in line for line in lines) is (code == 0)
    # With TensorFlow, nothing is freed object by object.
    assert ("freed" in lines) is not loaded


def test_a_plugin_may_end_the_process_with_a_text():
    code = """
import sys, types
sys.modules["tensorflow"] = types.ModuleType("tensorflow")
from zoo import cli
cli._run = lambda: sys.exit("no licence")
cli.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "no licence\n")


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize(
    ("started", "named"),
    [
        ("threading.Thread(target=time.sleep, args=(600,), name='sender').start()", "the thread 'sender'"),
        ("ThreadPoolExecutor(1, 'sender').submit(time.sleep, 600)", "the thread 'sender_0'"),
        ("atexit.register(time.sleep, 600)", "an exit handler"),
    ],
)
def test_the_process_does_not_wait_for_ever(loaded, started, named):
    code = f"""
import atexit, sys, threading, time, types
from concurrent.futures import ThreadPoolExecutor
if {loaded}: sys.modules["tensorflow"] = types.ModuleType("tensorflow")
from zoo.cli import ending, run
ending.PATIENCE = 0.4
{started}
sys.argv = ["zoo", "info", "nothing-like-it"]
run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(f"warning: {named} still runs ")


def test_a_traceback_ends_the_process_too():
    code = """
import threading, time
from zoo import cli
from zoo.cli import ending
ending.PATIENCE = 0.4
threading.Thread(target=time.sleep, args=(600,), name="sender").start()
cli._run = lambda: 1 / 0
cli.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "'sender' still runs" in done.stderr


@pytest.mark.parametrize("module", ["zoo.cli", "click"])
def test_ctrl_c_before_the_commands_are_there_prints_one_line(module):
    """Also in the first tenth of a second, and inside an import of another package."""
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Press:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
from zoo.__main__ import run
run()
"""
    ran = subprocess.run([sys.executable, "-c", program, "list"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")
