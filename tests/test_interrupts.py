"""Ctrl-C and SIGTERM: held until the next check, raised at once elsewhere, and deadly the second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from zoo import interrupts

SIGNALS = [(signal.SIGINT, KeyboardInterrupt, 130), (signal.SIGTERM, interrupts.Terminated, 143)]


@pytest.fixture(autouse=True)
def terminal():
    """Give Ctrl-C its usual meaning. A shell starts background jobs with SIGINT ignored, and processes inherit that."""
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, outer)


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
