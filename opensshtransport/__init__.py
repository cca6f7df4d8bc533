"""One OpenSSH login shared by everything that runs on this machine."""

__version__ = "0.1.0"
