"""Errors of the Python functions: their sentences name keywords instead of options."""

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from residua.errors import ResiduaError

ParametersT = ParamSpec("ParametersT")
ResultT = TypeVar("ResultT")
KEYWORDS = {"from": "from_", "resume": "resume=True"}  # by option


def name_keywords_in_errors(
    function: Callable[ParametersT, ResultT],
) -> Callable[ParametersT, ResultT]:
    """Wrap a function so that its errors name keywords, such as `from_`, not `--from`."""

    @wraps(function)
    def call(*args: ParametersT.args, **keywords: ParametersT.kwargs) -> ResultT:
        try:
            return function(*args, **keywords)
        except ResiduaError as error:
            error.args = (name_keywords(str(error)),)
            raise

    return call


def name_keywords(sentence: str) -> str:
    """Replace the options in a sentence by Python's keywords."""

    def replace_option(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        return KEYWORDS.get(name, name)

    return re.sub(r"(?<![\w-])--([a-z][a-z0-9-]*)", replace_option, sentence)
