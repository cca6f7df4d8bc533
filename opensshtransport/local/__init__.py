"""This machine: settings and directories, locks, and short questions to local programs.

Uses `prompts` (rules are settings) and `errors`.
"""
