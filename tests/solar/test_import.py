import doctest
import subprocess
import sys
from importlib import import_module
from pkgutil import walk_packages

import pytest

import solar

MODULES = sorted(module.name for module in walk_packages(solar.__path__, "solar."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_say_what_happens(name):
    assert doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_every_public_name_is_there():
    assert sorted(solar._HOME) == solar.__all__
    for name in solar.__all__:
        assert getattr(solar, name).__name__ == name
    assert set(solar.__all__) <= set(dir(solar))
    with pytest.raises(AttributeError, match="'solar' has no attribute 'solo'"):
        _ = solar.solo


def test_gymnasium_knows_the_environments():
    registry = pytest.importorskip("gymnasium", reason="gymnasium is not installed").registry
    for name in ("Soundcheck-v0", "SoundcheckDb-v0"):
        spec = registry[name]
        for entry in (spec.entry_point, spec.vector_entry_point):
            module, _, attribute = entry.partition(":")
            assert callable(getattr(import_module(module), attribute))


def test_importing_it_imports_nothing_that_is_heavy():
    command = "import sys, solar; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert not {"torch", "demucs", "matplotlib", "scipy", "starlette"} & set(done.stdout.split())
