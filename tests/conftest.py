"""For all tests."""

import signal

# A shell in the background ignores Ctrl-C, and what it starts inherits that: the tests' own children must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
