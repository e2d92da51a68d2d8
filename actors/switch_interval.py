"""How soon a thread that computes lets the event loop's thread go on.

Python's own 5 ms (`sys.setswitchinterval`) are paid at each system call, after which the event loop's thread has to get
the interpreter's lock back: a token is sent and received by a dozen of them.
"""

import sys

SWITCH_S = 0.0005


def shorten_switch_interval() -> None:
    """Makes it `SWITCH_S` in this process."""
    sys.setswitchinterval(SWITCH_S)
