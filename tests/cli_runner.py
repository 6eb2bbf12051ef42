"""Runs commands as a user types them."""

from pathlib import Path

from residua.cli.main import main
from residua.cli.unexpected_error import UNEXPECTED_ERROR


def require_no_finding(err):
    """Fail if the standard error of a command has a traceback, or names the file of one."""
    assert "Traceback" not in err
    if UNEXPECTED_ERROR in err:
        file = err.rpartition("with the file ")[2].strip()
        raise AssertionError(f"{err}\n{Path(file).read_text()}")


def run_cli(capsys, *arguments):
    """Run `residua` with the arguments, converted to strings; fails on an error not foreseen.

    Returns the exit code, the standard output, and the last line of the standard error.
    """
    capsys.readouterr()
    try:
        code = main([*map(str, arguments)])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    require_no_finding(err)
    return code, out, err.strip().splitlines()[-1] if err.strip() else ""
