"""The decisions, pure: no clock, no randomness, no I/O, no logging, no await. Time and identity are arguments."""
