"""Running commands.

What is asked for, the running process, and the way of `ossh run`.

Uses `sessions` and below.
"""
