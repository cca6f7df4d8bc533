"""Running commands.

What a command is, the running process, what may be tried again, and what `ossh run` does.

Uses `sessions` and below.
"""
