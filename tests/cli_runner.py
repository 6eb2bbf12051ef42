"""Runs commands as a user types them."""

from residua.cli.main import main


def run_cli(capsys, *arguments):
    """Run `residua` with the arguments, converted to strings; fails if it prints a traceback.

    Returns the exit code, the standard output, and the last line of the standard error.
    """
    capsys.readouterr()
    try:
        code = main([*map(str, arguments)])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err.strip().splitlines()[-1] if err.strip() else ""
