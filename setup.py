"""Start setuptools; everything that it is told stands in setup.cfg."""

from setuptools import setup

setup()
