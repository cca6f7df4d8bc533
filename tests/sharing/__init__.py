"""Sharing the one master with every program that runs ssh."""
