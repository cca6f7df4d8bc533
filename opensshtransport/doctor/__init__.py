"""`ossh doctor`: what can be found out before and after a login, each as a finding with its remedy.

Uses `login` and below.
"""
