"""The command line: ``solar analyse``, ``soundcheck`` and ``simulate``."""

from __future__ import annotations

from collections.abc import Sequence

from alm_plugin import __version__
from alm_plugin.cli import Parser, run
from solar import analyse, simulate, soundcheck


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 2 for input that does not fit (one line)."""
    return run(_parser(), argv)


def _parser() -> Parser:
    parser = Parser(
        prog="solar",
        description="A soundcheck against a reference: listen to a band, compare it with a recording of the mix that "
        "is wanted, and tell a player in dB what to turn.",
        epilog="Start with 'solar analyse STEMS/', then 'solar soundcheck --help'.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (analyse, soundcheck, simulate):
        module.add_command(commands)
    return parser
