"""Logging in.

The one ssh that may dial, the conversation with it, secrets, and the budget of failed logins.

Runs in a process of its own, because pexpect and sh fork. Uses `master` and below.
"""
