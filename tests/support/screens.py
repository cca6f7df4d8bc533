"""What ssh shows at its terminal, as OpenSSH, PAM modules and login nodes print it, with names replaced."""

from __future__ import annotations

from opensshtransport.prompts.recognition import Prompt, Way
from opensshtransport.prompts.screen import Screen

FAILLOCK = (
    "(me@login.hpc.example) The account is locked due to 3 failed logins.\r\n"
    "(10 minutes left to unlock)\r\n"
    "Password: "
)
DUO = (
    "(me@login.hpc.example) Duo two-factor login for me\r\n"
    "\r\n"
    "Enter a passcode or select one of the following options:\r\n"
    "\r\n"
    " 1. Duo Push to XXX-XXX-1078\r\n"
    " 2. Phone call to XXX-XXX-1078\r\n"
    " 3. SMS passcodes to XXX-XXX-1078 (next code starts with: 1)\r\n"
    "\r\n"
    "Passcode or option (1-3): "
)
NCHC = "(me@login.hpc.example) Login method (1: Mobile APP OTP, 2: Mobile APP PUSH, 3: Email OTP): "
HOST_KEY = (
    "The authenticity of host 'login.hpc.example (192.0.2.7)' can't be established.\r\n"
    "ED25519 key fingerprint is SHA256:uS2WyJ8n0pDSVAMwEMb9GpxSt0EIgzgxrQMAvMZHh0I.\r\n"
    "This key is not known by any other names.\r\n"
    "Are you sure you want to continue connecting (yes/no/[fingerprint])? "
)


def shown(text: str, way: Way | None = None, *, unseen: bool = True) -> Prompt:
    """The prompt on a fresh screen after `text`; the terminal does not show what is typed."""
    screen = Screen(way)
    screen.feed(text)
    prompt = screen.prompt(unseen=unseen)
    assert prompt is not None
    return prompt
