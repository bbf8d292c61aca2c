"""The part of the build that pyproject.toml cannot say: which module cffi compiles."""

from setuptools import setup

setup(py_modules=[], cffi_modules=["build_kernel.py:builder"])
