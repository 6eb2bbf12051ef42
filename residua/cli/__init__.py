"""The command line, `residua COMMAND`.

main             parses the arguments, runs one command, reports errors
parser           parses the arguments of a command, with our own error messages
options          arguments that several commands share
option_groups    groups the options of a command in its help
completion       the shell's tab key, through argcomplete
requested_run    finds the run that the arguments of `train` ask for, or resume
run_options      turns the options of `train` into a request to train
preset           the command line of the study scripts in experiments/
convert_options  the options of `convert` that describe another project's weights

Every other module is the command of the same name.
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.cli.parser import CommandParser as CommandParser
    from residua.cli.parser import make_command_parser as make_command_parser

__getattr__, __dir__ = export_lazily(__name__, {"parser": "CommandParser make_command_parser"})
