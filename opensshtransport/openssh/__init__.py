"""The OpenSSH programs: every command line that the package runs, and what their words mean.

A new option for ssh, scp or sftp belongs in `command_lines`, with its reason next to it. Uses `local`,
`remote` and `errors`.
"""
