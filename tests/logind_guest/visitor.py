"""Runs in the guest as root: somebody logs in from elsewhere, as sshd would do it (PAM with a remote host), and stays.

Arguments: user name, host. Ends the session when its standard input ends. Standard library only.
"""

import ctypes
import os
import sys

_PAM_TTY, _PAM_RHOST = 3, 4


class Conversation(ctypes.Structure):
    """struct pam_conv; nothing is asked."""

    _fields_ = [("conv", ctypes.CFUNCTYPE(ctypes.c_int)), ("data", ctypes.c_void_p)]


def main(user: str, host: str) -> None:
    """Open the session, say so, wait, close it."""
    pam = ctypes.CDLL("libpam.so.0")
    handle = ctypes.c_void_p()
    conversation = Conversation(ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 19), None)
    _sure(pam.pam_start(b"visitor", user.encode(), ctypes.byref(conversation), ctypes.byref(handle)), "start")
    _sure(pam.pam_set_item(handle, _PAM_RHOST, ctypes.c_char_p(host.encode())), "rhost")
    _, terminal = os.openpty()
    _sure(pam.pam_set_item(handle, _PAM_TTY, ctypes.c_char_p(os.ttyname(terminal).encode())), "tty")
    _sure(pam.pam_open_session(handle, 0), "open_session")
    print(os.ttyname(terminal), flush=True)
    sys.stdin.read()
    pam.pam_close_session(handle, 0)
    pam.pam_end(handle, 0)


def _sure(code: int, what: str) -> None:
    if code:
        raise SystemExit(f"pam_{what}: code {code}")


if __name__ == "__main__":
    main(*sys.argv[1:])
