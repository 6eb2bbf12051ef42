"""The command line, `residua COMMAND`.

main         parse the arguments, run one command, report errors
parser       the parser of a command's arguments, with error messages in our words
options      arguments that several commands share
output       results on standard output, notes on standard error
progress     the progress bar
run_options  the run that the options of `train` describe
preset       the command line of a study in a Python file, see experiments/

Every other module is one command, named as the command is.
"""
