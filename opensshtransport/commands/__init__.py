"""Running commands.

What is asked for, the running process, what may be tried again, and the way of `ossh run`.

Uses `sessions` and below.
"""
