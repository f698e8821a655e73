"""Being asked to stop."""

import signal
import subprocess
import sys

import pytest

from precocial.signals import held

SCRIPT = """
import os, signal, time
from precocial.signals import Terminated, stop_by

before = stop_by(signal.SIGTERM, Terminated)
ready, says_so = os.pipe()
child = os.fork()
if not child:
    os.write(says_so, b"!")
    time.sleep(60)
    os._exit(0)
os.read(ready, 1)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt as stop:
    print(type(stop).__name__)
os.kill(os.getpid(), signal.SIGTERM)  # whoever stops already is not disturbed
print(before)
"""


@pytest.fixture
def heard():
    """SIGINT as on a terminal; a shell's background processes have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_they_wait_for_the_end_of_what_must_not_be_cut_in_two(heard):
    done = []

    @held()
    def whole():
        signal.raise_signal(signal.SIGINT)
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        whole()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_is_an_exception_here_and_an_end_in_children():
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["-15", "Terminated", "0"]
    assert ran.stderr == ""
