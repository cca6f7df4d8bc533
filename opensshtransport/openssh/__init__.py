"""The OpenSSH programs: every command line that the package runs, and what their words mean.

A new option for ssh, scp or sftp belongs into `command_lines`, with its reason beside it. Uses `local`,
`remote` and `errors`.
"""
