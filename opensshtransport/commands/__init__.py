"""Running commands.

What a command is, the running process, and what `ossh run` does.

Uses `sessions` and below.
"""
