"""The remote side's language: scripts for POSIX sh, what is sent to them, and what they answer.

Everything here is pure: text in, text out. All `.sh` files of the package are here, where shellcheck reads
them. Uses `errors` only.
"""
