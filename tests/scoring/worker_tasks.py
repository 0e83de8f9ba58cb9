"""What the workers of `test_workers.py` run, in a file that imports nothing heavy: every worker imports it anew."""

import os
import signal
import time


def load(*options):
    if options == ("broken",):
        raise OSError("no such model")
    return options


def answer(options, number, content=b""):
    if number == 13:
        raise KeyError("unlucky")
    if number == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return options, number * 2, os.getpid(), content[:10]


def sleep(options, seconds):
    time.sleep(seconds)
