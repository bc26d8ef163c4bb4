"""Ctrl-C and SIGTERM: held until the next check, raised at once elsewhere, and deadly the second time."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from zoo import interrupts

SIGNALS = [
    (signal.SIGINT, KeyboardInterrupt, 130),
    (signal.SIGTERM, interrupts.Terminated, 143),
    (signal.SIGHUP, interrupts.HungUp, 129),
]


@pytest.fixture(autouse=True)
def terminal():
    """Give Ctrl-C and SIGHUP their usual meaning. Background jobs and `nohup` ignore them."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    outer = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in outer.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "error", "code"), SIGNALS)
def test_a_signal_waits_for_the_check(number, error, code):
    before = signal.getsignal(number)
    done = []
    with pytest.raises(error) as raised, interrupts.handled(), interrupts.held():
        os.kill(os.getpid(), number)
        done.append("goes on")
        interrupts.check()
        done.append("never")
    assert done == ["goes on"] and interrupts.exit_code(raised.value) == code
    assert signal.getsignal(number) is before
    with pytest.raises(error), interrupts.handled(), interrupts.held():
        os.kill(os.getpid(), number)
    with pytest.raises(error), interrupts.handled():
        os.kill(os.getpid(), number)


def test_the_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time\nfrom zoo import interrupts\n"
        "with interrupts.handled(), interrupts.held():\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('held', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('never', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "held\n")


def test_a_job_that_ignores_ctrl_c_still_does():
    code = (
        "import os, signal\nfrom zoo import interrupts\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with interrupts.handled():\n    os.kill(os.getpid(), signal.SIGINT)\nprint('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_closed_terminal_ends_the_work_in_order(tmp_path):
    code = (
        "import os, pathlib, sys, time\nfrom zoo import interrupts\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    with interrupts.handled(), interrupts.held():\n"
        "        place.write_text('ready'); end = time.monotonic() + 20\n"
        "        while interrupts._requests.received is None and time.monotonic() < end: time.sleep(0.01)\n"
        "        print('nobody reads this', flush=True)\n"
        "except KeyboardInterrupt as error:\n"
        "    print('nor this', file=sys.stderr, flush=True)\n"
        "    place.write_text(f'ended with {interrupts.exit_code(error)}')"
    )
    place = tmp_path / "place"
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", code, str(place)])
    end = time.monotonic() + 20
    while not place.exists() and time.monotonic() < end:
        time.sleep(0.02)
    os.close(terminal)
    os.waitpid(child, 0)
    assert place.read_text() == "ended with 129"


@pytest.mark.parametrize(("number", "error", "code"), SIGNALS)
def test_a_signal_that_python_ignores_arrives_again(number, error, code, capfd):
    class Removed:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(0)

    hook, begun = sys.unraisablehook, time.monotonic()
    with pytest.raises(error) as raised, interrupts.handled():
        removed = Removed()
        del removed
        time.sleep(20)
    assert interrupts.exit_code(raised.value) == code and time.monotonic() - begun < 10
    assert "ignored" not in capfd.readouterr().err and sys.unraisablehook is hook


def test_other_ignored_errors_are_still_printed():
    code = (
        "from zoo import interrupts\nclass Removed:\n    def __del__(self): 1 / 0\n"
        "with interrupts.handled():\n    removed = Removed()\n    del removed"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "ZeroDivisionError" in done.stderr


HALF_IMPORTED = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)
except KeyboardInterrupt as error:
    raise ImportError("initialization failed") from error
"""


def test_ctrl_c_while_keras_is_imported_prints_one_line(tmp_path, photos):
    """Modules in C turn an interruption into an ImportError."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "__init__.py").write_text(HALF_IMPORTED)
    words = ["finetune", "mnist_convnet", "--data", str(photos), "--weights", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "zoo.cli", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.split("\n")[-2] == "interrupted" and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr and "cannot start" not in done.stderr
