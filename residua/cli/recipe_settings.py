"""Apply the assignments of `--set` to a recipe, and say what they mean."""

from residua.config.optimisers import Optimiser
from residua.config.recipe import Recipe
from residua.config.registry import registered_kinds
from residua.config.serialize import apply_override, parse_literal
from residua.console.output import print_note
from residua.errors import UsageError


def apply_recipe_setting(recipe: Recipe, assignment: str) -> Recipe:
    """Return `recipe` with one field replaced by an assignment, as given to `--set`.

    Raises UsageError if that is impossible; of an optimiser that is given as a word, such as
    `optimiser=adamw`, the message also names the option that takes the word.
    """
    try:
        return apply_override(recipe, assignment)
    except UsageError as error:
        field, _, text = assignment.partition("=")
        value = parse_literal(text)
        kinds = [kind.lower() for kind in registered_kinds(Optimiser)]
        if field not in ("optimiser", "optimiser.kind") or not isinstance(value, str):
            raise
        name = value.lower() if value.lower() in kinds else kinds[0]
        raise UsageError(f"{error}; shorter: --optimiser {name}") from None


def note_accumulation(new_recipe: Recipe) -> None:
    """Say what gradient accumulation is called here, and what it does to the batch and to BN."""
    parts, batch_size = new_recipe.bn_splits, new_recipe.batch_size
    print_note(
        f"accumulate={parts} sets parts={parts}: a batch of {batch_size} is split into {parts} "
        "equal parts, each with its own BN statistics; their gradients are averaged"
    )
