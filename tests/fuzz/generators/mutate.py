"""Mutations of bytes and of JSON, shared by the generators."""

import base64
import json

NASTY_NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, 10**30, 1e308, -1e308, 0.5, 1e-320)
HUGE_NUMBERS = (2**14, 2**31, 2**63, 2**64, 10**30, 10**400)
NASTY_TEXTS = (
    "",
    " ",
    "\x00",
    "\ud800",
    "\x1b[2J",
    "../../etc",
    "é" * 50,
    "=1+1",
    "a" * 5000,
    "nan",
)
RAW_JSON = (
    "[" * 100_000,
    '{"a":' * 3000,
    "9" * 6000,
    "NaN",
    "-Infinity",
    "1e999",
    '"\\ud800"',
    "",
    "\ufeff{}",
    "[" * 70 + "]" * 70,
    '{"a": 1, "a": 2}',
    "tru",
    "\x00",
)


def make_edits(rng, size, most=4):
    """Edits of a file of about `size` bytes: flipped bits, cuts, repeats, zeros, insertions."""
    kind = rng.choice(("flip", "flip", "cut", "zeros", "insert", "end", "random"))
    offset = (
        rng.randrange(max(size, 1)) if rng.random() < 0.7 else rng.randrange(min(size, 600) + 1)
    )
    if kind == "cut":
        return [[offset, rng.choice((1, 4, 100, 10**9)), ""]]
    if kind == "end":
        return [[max(size - rng.randrange(200), 0), rng.randrange(200), ""]]
    count = rng.choice((1, 4, 16))
    content = bytes(count) if kind == "zeros" else rng.randbytes(count)
    removed = 0 if kind == "insert" else count
    if kind == "flip":
        return make_flips(rng, size, most)
    return [[offset, removed, encode(content)]]


def make_flips(rng, size, most):
    """Edits that give some bytes another value; any will do, as the bytes are not known here."""
    return [
        [rng.randrange(max(size, 1)), 1, encode(rng.randbytes(1))]
        for _ in range(rng.randint(1, most))
    ]


def encode(content):
    return base64.b64encode(content).decode()


def make_value(rng, depth=0):
    """A JSON value that nobody expects."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return rng.choice(NASTY_NUMBERS)
    if kind == 1:
        return rng.choice(NASTY_TEXTS)
    if kind == 2:
        return rng.choice((None, True, False))
    if kind in (3, 4):
        return rng.choice((-5, 3, "x", "Add", 1.5))
    if kind == 5:
        return [make_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = ("kind", "a", "", "width", "é")
    return {rng.choice(keys): make_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def mutate_json(rng, value):
    """Change one place of a JSON value: replace, delete, add, double or nest it."""
    places = list(list_places(value))
    path = rng.choice(places)
    if not path:
        return make_value(rng)
    parent = get_place(value, path[:-1])
    last, kind = path[-1], rng.randrange(6)
    if kind == 0:
        parent.pop(last)
    elif kind == 1 and isinstance(parent, list):
        parent.insert(last, parent[last])
    elif kind == 2 and isinstance(parent, dict):
        parent[rng.choice(("kind", "unknown", "classes", "format"))] = parent[last]
    elif kind == 3:
        parent[last] = [parent[last]]
    elif kind == 4 and isinstance(parent[last], (int, float)):
        parent[last] = rng.choice(NASTY_NUMBERS)
    else:
        parent[last] = make_value(rng)
    return value


def list_places(value, path=()):
    """The path of each value inside a JSON value."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in list(items):
        yield from list_places(inner, (*path, key))


def get_place(value, path):
    for key in path:
        value = value[key]
    return value


def mutate_json_text(rng, text):
    """The text of a JSON value with something wrong: in its meaning, in its text, or all of it."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice(RAW_JSON)
    if kind == 1:
        cut = rng.randrange(len(text))
        return text[:cut]
    if kind == 2:
        place = rng.randrange(len(text))
        return (
            text[:place]
            + rng.choice(('"', "[", "}", ",", "\\", "\x00", "é", "NaN"))
            + text[place + 1 :]
        )
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 2))):
        value = mutate_json(rng, value)
    return json.dumps(value)
