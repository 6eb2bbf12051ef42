"""`residua convert`, as a user calls it."""

from residua.cli.main import main
from tests.cli_runner import require_no_finding

IMAGENET_MEAN, IMAGENET_STD = ("0.485", "0.456", "0.406"), ("0.229", "0.224", "0.225")
CIFAR10_OPTIONS = ["--classes", "cifar10", "--mean", *IMAGENET_MEAN, "--std", *IMAGENET_STD]


def run_convert(capsys, *arguments):
    """Exit code, standard output, and standard error: one line, and the data's block before it."""
    try:
        code = main(["convert", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    require_no_finding(err)
    assert len([line for line in err.splitlines() if not is_of_block(line)]) <= 1
    return code, out, err.strip()


def is_of_block(line):
    return line.startswith(("residua: data ", "  "))
