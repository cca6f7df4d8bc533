"""Everything that is open on a master.

Channels, warm ones for the next command, remote shells and byte streams.

Uses `login` and below; a login is started as a process of its own.
"""
