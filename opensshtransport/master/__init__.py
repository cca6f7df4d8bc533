"""The one master of each destination.

What is known about it, whether it works, and its budget of sessions.

Uses `openssh` and below.
"""
