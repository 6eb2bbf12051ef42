"""Find the class that a user wants to have explained, by its name."""

from collections.abc import Sequence

from residua.errors import UsageError, unknown_name_error

MAX_SUGGESTED = 3
MAX_LISTED = 20  # classes in a message


def find_class_index(classes: Sequence[str], name: str) -> int:
    """Return the index of the class `name`; raise UsageError with near names if there is none."""
    if name in classes:
        return classes.index(name)
    plain = name.strip().lower()
    alike = [known for known in classes if plain and plain in known.lower()]
    if not alike:
        error = unknown_name_error("class", name, classes)
        if len(classes) <= MAX_LISTED or "did you mean" in str(error):
            raise error
        first = ", ".join(classes[:MAX_SUGGESTED])
        raise UsageError(
            f"there is no class {name!r}: give one of the model's {len(classes):,} classes, such "
            f"as {first}"
        )
    near = " or ".join(map(repr, sorted(alike, key=len)[:MAX_SUGGESTED]))
    raise UsageError(f"there is no class {name!r}: did you mean {near}?")
