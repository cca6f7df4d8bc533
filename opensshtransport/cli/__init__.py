"""The command `ossh`: one file for each command, with its parser, its handler and its help.

`start` and `main` begin, `command_table` lists the commands; `masters`, `options` and `output` are shared.

Uses everything. Handlers import what they need when they run, so that `ossh` starts fast.
"""
