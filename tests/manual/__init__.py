"""Tests of README and the manual."""
