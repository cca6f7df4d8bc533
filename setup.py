"""Start setuptools; everything that it is told is in setup.cfg."""

from setuptools import setup

setup()
