"""Push a trained network to the Hugging Face hub, with its model card."""

from jsonargparse import Namespace

from residua import deploy
from residua.cli.options import add_json_option, add_model_argument
from residua.cli.parser import CommandParser
from residua.console.output import print_note, print_result


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(
        parser, "a run's folder (its last network is pushed) or a model folder, such as RUN/best"
    )
    parser.add_argument(
        "target", help="hf:OWNER/NAME; the repository is created if there is none of this name"
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="create the repository as private, or fail if it is public",
    )
    parser.add_argument(
        "--message", default="", help="the message of the commit (default: the network's name)"
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    upload = deploy.prepare_upload(arguments.model, arguments.target, arguments.message)
    print_note(upload.describe())
    pushed = deploy.push_to_hub(upload, private=arguments.private, on_note=print_note)
    kind = "private" if pushed.is_private else "public"
    state = "new" if pushed.is_new else "updated"
    summary = (
        f"{pushed.address}\n{state}, {kind}, commit {pushed.commit[:7]}\n\n"
        f"Next:\n  residua predict {arguments.target} image.jpg"
    )
    print_result(pushed.json, summary, arguments.json)
