"""Groups of options in the help of commands that have many."""

from argparse import ArgumentParser

MIN_GROUPED_OPTIONS = 14  # below, one list is easily read

OPTION_GROUPS = {
    "data": "data size storage split max-pixels white-level skip-unknown-classes images null "
    "data-dir offline",
    "network": "arms model from freeze add-class families depths",
    "recipe": "recipe steps epochs batch-size optimizer lr weight-decay set balance",
    "run": "seed seeds folds resume save-every workers ray device precision recompute engine batch "
    "dry-run profile",
    "evaluation": "views mirror calibrate",
    "conversion": "check classes mean std resize interpolation license to",
    "server": "host port allow-host allow-origin threshold examples",
    "limits": "max-bytes max-total-bytes max-waiting timeout head-timeout",
    "sorting": "sort-into unsure-below link",
    "packing": "quality shard-mib",
    "output": "out fix log top explain explain-class json csv",
}
"""The names of the options in each group of the help, in the order of the groups."""


def group_options(parser: ArgumentParser) -> None:
    """Show the options of a command in groups in its help, if there are many.

    Options that are in no group, such as `--help`, come last.
    """
    ungrouped = parser._optionals._group_actions
    options = {action.option_strings[-1].removeprefix("--"): action for action in ungrouped}
    if len(options) < MIN_GROUPED_OPTIONS:
        return
    for title, names in OPTION_GROUPS.items():
        members = [options[name] for name in names.split() if name in options]
        if members:
            parser.add_argument_group(title)._group_actions.extend(members)
            ungrouped[:] = [action for action in ungrouped if action not in members]
    parser._action_groups.remove(parser._optionals)
    parser._action_groups.append(parser._optionals)
