"""The program that ssh runs instead of asking at a terminal (SSH_ASKPASS in ssh(1)).

The idea: pass the prompt to the login process through its private socket, and print the answer. No secret is
in an argument, in the environment or in a file.

The trap: if this program fails, ssh sends an empty answer, which counts as a failed login. So if no answer is
to be given, or the login process has died, it ends ssh before it ends itself.

It is run as a script, once per prompt: it imports only small parts of the standard library.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

# What an answer begins with; anything else means that there is none.
ANSWER = b"+"

_PATIENCE = 2.0


def main(path: str, prompt: str) -> int:
    """Ask through the socket, and print the answer. The status is 1 if there is none."""
    # "none": a notice, which ssh ends by SIGTERM; "confirm": the status answers (readpass.c)
    hint = os.environ.get("SSH_ASKPASS_PROMPT", "")
    asker = os.getppid()
    if not hint:
        # a signal that ends the whole login must end ssh first
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    reply = _ask(path, hint.encode() + b"\0" + os.fsencode(prompt))
    if reply.startswith(ANSWER):
        os.write(1, reply[len(ANSWER) :] + b"\n")
        return 0
    if not hint:
        _end(asker)
    return 1


def _ask(path: str, question: bytes) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(question)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return b""


def _end(asker: int) -> None:
    """End the ssh that asked us, and wait for that. It is in our group; a process that adopts us is not."""
    begin = time.monotonic()
    try:
        while os.getppid() == asker and os.getpgid(asker) == os.getpgrp():
            late = time.monotonic() - begin > _PATIENCE
            os.kill(asker, signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(0.01)
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
