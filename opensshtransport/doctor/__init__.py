"""`ossh doctor`: what can be found out before a login and after it, each as a finding with its remedy.

Uses `login` and below.
"""
