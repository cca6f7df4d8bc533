"""What is asked during a login, and which answer fits.

Pure: it sees text and rules, never a secret's value.

Uses `errors` only.
"""
