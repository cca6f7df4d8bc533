"""The one master for every program that runs ssh: the block in ssh_config, and what its hook cannot decide.

Uses `login`, `master` and below.
"""
