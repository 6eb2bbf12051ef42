"""What must hold for the results of a case's commands, beyond that they end in order.

Each property yields a sentence per complaint.  It gets the case's folder, the outcomes of its
commands, its own arguments from the case, and the folder of seeds.
"""

import base64
import csv
import hashlib
import json
import os
import re
from collections import Counter

from tests.fuzz.case import locate
from tests.fuzz.reader import (
    REFUSE,
    make_photo,
    read_folder,
    read_shards,
    read_table,
    walk_visible,
)

READERS = {"folder": read_folder, "table": read_table, "shards": read_shards}
USUAL_SUFFIXES = (".png", ".jpeg", ".jpg", ".gif", ".bmp", ".webp")
CONTENT_SPLIT_LEAST = 8  # images, so many that a split by content takes some of them


def read_independently(folder, arguments):
    extra = {key: arguments[key] for key in ("delimiter", "encoding") if key in arguments}
    return READERS[arguments["reader"]](str(locate(folder, arguments["path"])), **extra)


def check_accepted(folder, outcomes, arguments, seeds):
    """Honest input is accepted."""
    for i in arguments:
        if outcomes[i].code != 0:
            yield f"honest input was refused: {outcomes[i].err.strip()[-400:]}"


def check_refused(folder, outcomes, arguments, seeds):
    """Input that cannot be right is refused."""
    for i in arguments:
        if outcomes[i].code == 0:
            yield f"was accepted: {outcomes[i].out.strip()[-300:]} {outcomes[i].err.strip()[-300:]}"


def check_read(folder, outcomes, arguments, seeds):
    """What `data check --json` says equals what the independent reader says."""
    outcome = outcomes[arguments["command"]]
    reading = read_independently(folder, arguments)
    photos = [photo for photo in reading.photos if photo.is_image]
    trainable = {photo.class_name for photo in photos if photo.role in ("train", "")} - {""}
    if outcome.code != 0:
        if not reading.is_doubtful and len(trainable) > 1 and is_complete(reading):
            yield f"honest data was refused: {outcome.err.strip()[-400:]}"
        return
    facts = json.loads(outcome.out)
    splits = facts["splits"]
    if reading.is_doubtful == REFUSE:
        yield f"what it holds can be read in two ways, but it is read as {facts['classes']}"
    used = sum(splits.values())
    roles = Counter(photo.role for photo in photos)
    for_test = roles["test"] + roles["other"]
    if used + sum(facts["skipped"].values()) < len(reading.photos):
        yield (
            f"{len(reading.photos)} files, but {used} are used and {facts['skipped']} skipped: "
            "some vanished"
        )
    if reading.is_doubtful:
        learned = splits["train"] + splits["dev"]
        if (
            learned > len(photos) - for_test
            or splits["train"] > len(photos) - for_test - roles["dev"]
        ):
            yield f"by their names the splits are {dict(roles)}, but it says {splits}"
        return
    if len(trainable) < 2:
        return  # nothing to train on, which the splits say
    known = [photo for photo in photos if photo.class_name in trainable]
    if {name.strip() for name in facts["classes"]} != {escape(name).strip() for name in trainable}:
        yield f"the classes are {sorted(trainable)}, but it says {sorted(facts['classes'])}"
    yield from compare_splits(known, splits, roles)
    if arguments.get("fix"):
        yield from compare_fixed_table(locate(folder, arguments["fix"]), known)


def is_complete(reading):
    """Whether each split that a run needs has images: then nothing is a reason to refuse."""
    roles = Counter(photo.role for photo in reading.photos if photo.is_image)
    return roles[""] >= CONTENT_SPLIT_LEAST or (
        roles["train"] >= CONTENT_SPLIT_LEAST and (set(roles) == {"train"} or len(roles) > 1)
    )


def can_lose_an_image(photos):
    """Whether some class has two training images that differ from each other and all the others."""
    copies = Counter(photo.digest for photo in photos)
    unique = [photo for photo in photos if copies[photo.digest] == 1 and photo.role == "train"]
    return max(Counter(photo.class_name for photo in unique).values(), default=0) > 1


def escape(name):
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def compare_splits(photos, splits, named):
    """Compare the images of known classes with residua's splits; `named` has all images' roles."""
    roles = Counter(photo.role for photo in photos)
    most = max(Counter(photo.class_name for photo in photos).values())
    total = len(photos)
    if sum(splits.values()) != total:
        yield f"{total} images of known classes, but the splits are {splits}"
    elif set(named) <= {"train"} or set(named) == {""}:
        if total >= CONTENT_SPLIT_LEAST and not splits["test"]:
            yield f"no test images are held out of {total} images: {splits}"
        if most >= CONTENT_SPLIT_LEAST and not splits["dev"]:
            yield f"no dev images are held out of {total} images: {splits}"
    else:
        wanted_test = roles["test"] if named["test"] else roles["dev"]
        wanted_dev = roles["dev"] if named["test"] else 0
        if splits["test"] != wanted_test or (wanted_dev and splits["dev"] != wanted_dev):
            yield f"by their names the splits are {dict(roles)}, but it says {splits}"
        if not splits["dev"] and can_lose_an_image(photos):
            yield f"no training image is held out to choose by: {splits}"


def compare_fixed_table(path, photos):
    """Compare the table of usable images with the photos: each content once, and as it was."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_digest = {}
    for photo in photos:
        by_digest.setdefault(photo.digest, set()).add((escape(photo.class_name), photo.role))
    seen = Counter()
    for row in rows:
        name = row["path"][1:] if row["path"].startswith("'") else row["path"]
        digest = hashlib.sha256(locate(path.parent, name).read_bytes()).hexdigest()
        seen[digest] += 1
        label = row["label"].removeprefix("'")
        if digest not in by_digest:
            yield f"--fix lists {row['path']}, which is in no class"
        elif label not in {name for name, _ in by_digest[digest]}:
            yield f"--fix says {row['label']} of {row['path']}, not {by_digest[digest]}"
        elif row["split"] == "train" and "train" not in {role for _, role in by_digest[digest]}:
            yield f"--fix puts {row['path']} into train, but it is {by_digest[digest]}"
    if lost := sorted(digest for digest in by_digest if not seen[digest]):
        yield f"--fix lost {len(lost)} of {len(by_digest)} different images"
    if doubled := [digest for digest, count in seen.items() if count > 1]:
        yield f"--fix lists {len(doubled)} images twice"


def check_trained(folder, outcomes, arguments, seeds):
    """A run learned from training images alone, and from all of them."""
    if outcomes[arguments["command"]].code != 0:
        return
    config = json.loads(locate(folder, arguments["model"] + "/config.json").read_text())
    reading = read_independently(folder, arguments)
    photos = [photo for photo in reading.photos if photo.is_image]
    is_split = not reading.is_doubtful and {p.role for p in photos} & {"dev", "test"}
    train, dev = [split_digests(config.get(f"{name}_digests", "")) for name in ("train", "dev")]
    copies = Counter(photo.digest for photo in photos)
    for photo in photos:
        start = photo.digest[:8]
        if copies[photo.digest] > 1:
            continue
        if photo.role in ("test", "other") and start in train | dev:
            yield f"a {photo.role} image of {photo.class_name} was trained on"
        if is_split and photo.role == "train" and photo.class_name and start not in train | dev:
            yield f"a training image of {photo.class_name} was left out"
    if train & dev:
        yield f"{len(train & dev)} images are in train and in dev"
    if not train:
        yield "the model does not say which images it was trained on"


def split_digests(text):
    data = base64.b64decode(text)
    return {data[i : i + 4].hex() for i in range(0, len(data), 4)}


def check_evaluated(folder, outcomes, arguments, seeds):
    """A folder that was never trained on is scored whole, or, if it has a test split, on that."""
    outcome = outcomes[arguments["command"]]
    reading = read_independently(folder, arguments)
    if outcome.code != 0 or reading.is_doubtful:
        return
    known = json.loads((seeds / "run" / "last" / "config.json").read_text())["classes"]
    images = [photo for photo in reading.photos if photo.is_image]
    photos = [photo for photo in images if photo.class_name in known]
    if {photo.role for photo in photos} != {photo.role for photo in images if photo.class_name}:
        return  # a split has only classes that the model does not know
    count = json.loads(outcome.out)["count"]
    tests = sum(photo.role == "test" for photo in photos)
    devs = sum(photo.role == "dev" for photo in photos)
    by_role = {photo.role for photo in photos} != {""} and {p.role for p in photos} != {"train"}
    wanted = (tests or devs) if by_role else len(photos)
    if count != wanted:
        yield f"of {len(photos)} images {wanted} are to be scored, but {count} were"


def check_same(folder, outcomes, arguments, seeds):
    """Two commands that mean the same give the same code and the same result."""
    for first, second, ignored in arguments:
        a, b = outcomes[first], outcomes[second]
        if a.code != b.code:
            yield f"codes {a.code} and {b.code}: {a.err[-300:]!r} and {b.err[-300:]!r}"
        elif a.code == 0:
            pairs = zip(strip_keys(a.out, ignored), strip_keys(b.out, ignored), strict=True)
            different = {
                key: (one.get(key), two.get(key))
                for one, two in pairs
                for key in one.keys() | two
                if one.get(key) != two.get(key)
            }
            if different:
                yield f"two ways to say the same differ in {str(different)[:500]}"


def strip_keys(text, ignored):
    return [
        {key: value for key, value in json.loads(line).items() if key not in ignored}
        for line in text.splitlines()
    ]


def check_as_seed(folder, outcomes, arguments, seeds):
    """A damaged copy is refused, or gives the very result of the intact one."""
    for command, reference in arguments:
        if outcomes[command].code != 0:
            continue
        wanted = strip_keys((seeds / reference).read_text(), ["model", "data", "page", "path"])
        if strip_keys(outcomes[command].out, ["model", "data", "page", "path"]) != wanted:
            yield f"another result than {reference}, without a word: {outcomes[command].out[:300]}"


def check_passed_over(folder, outcomes, arguments, seeds):
    """Each visible file of a folder has a line of the result, or is counted as passed over."""
    outcome = outcomes[arguments["command"]]
    lines = {json.loads(line)["path"] for line in outcome.out.splitlines()}
    if outcome.code and not lines:
        return  # the command stopped before it looked
    counts = re.findall(r"([\d,]+) files? passed over", outcome.err)
    said = sum(int(count.replace(",", "")) for count in counts)
    files = {
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in walk_visible(locate(folder, arguments["path"]))
        for name in names
    }
    if strangers := lines - files:
        yield f"lines for files that nobody would see there: {sorted(strangers)[:5]}"
    if len(lines) + said != len(files):
        yield f"of {len(files)} files {len(lines)} have a line, and {said} are said to have none"
    for name in sorted(files - lines):
        is_usual = os.path.splitext(name)[1].lower() in USUAL_SUFFIXES
        if is_usual and make_photo(locate(folder, name).read_bytes(), "", "").is_image:
            yield f"{name} is an image, but has no line"


def check_facts(folder, outcomes, arguments, seeds):
    """The JSON of a command has these values."""
    for command, wanted in arguments:
        if outcomes[command].code != 0:
            yield f"was refused: {outcomes[command].err.strip()[-300:]}"
            continue
        facts = json.loads(outcomes[command].out)
        for key, value in wanted.items():
            if facts.get(key) != value:
                yield f"{key} is {facts.get(key)!r}, not {value!r}"


PROPERTIES = {
    "accepted": check_accepted,
    "refused": check_refused,
    "read": check_read,
    "trained": check_trained,
    "evaluated": check_evaluated,
    "same": check_same,
    "as_seed": check_as_seed,
    "passed_over": check_passed_over,
    "facts": check_facts,
}
