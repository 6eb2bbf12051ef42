"""Answer with a trained network over HTTP: a page, and JSON."""

from jsonargparse import Namespace

from residua.cli.parser import Parser


def add_arguments(parser: Parser) -> None: ...
def run(arguments: Namespace) -> None: ...
