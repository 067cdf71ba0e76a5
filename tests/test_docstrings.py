import doctest
from importlib import import_module
from pkgutil import walk_packages

import pytest

import alm_plugin

MODULES = sorted(module.name for module in walk_packages(alm_plugin.__path__, "alm_plugin."))


@pytest.mark.parametrize("name", ["alm_plugin", *MODULES])
def test_examples_in_docstrings_say_what_happens(name):
    assert doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(import_module(name)) if test.examples]
    assert len(found) > 10
