"""Commands as a user types them."""

from residua.cli.main import main


def run_cli(capsys, *arguments):
    """Exit code, standard output, and the last line on standard error, which is never a traceback's."""
    capsys.readouterr()
    try:
        code = main([*map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err.strip().splitlines()[-1] if err.strip() else ""
