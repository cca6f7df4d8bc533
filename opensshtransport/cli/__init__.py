"""The command `ossh`: one file for each command, with its parser, its handler and its help.

Uses everything. Handlers import what they need when they run, so that `ossh` starts fast.
"""
