"""An independent reader of folders, tables and shards: what a person would say that they hold.

It shares no code with residua.  What it cannot say it calls doubtful: then residua may refuse, or
leave things out and say so, but must not train on what is held out.
"""

import csv
import hashlib
import io
import os
import re
import tarfile
from collections import Counter, namedtuple

from PIL import Image

ROLES = {"train": "train|training", "dev": "val|valid|validation|dev|development"}
ROLES["test"] = "test|testing"
ROLES["other"] = "holdout|heldout|eval|evaluation|private|unseen|probe|final"
LITTER = re.compile(
    r"(\..*|@eadir|#recycle|\$recycle\.bin|system volume information|lost\+found|__pycache__|"
    r"__macosx|thumbs\.db|desktop\.ini|@recycle|#snapshot)$",
    re.IGNORECASE,
)
OUTPUTS = {"run.json", "check.json", "study.json", "signals.json", "model.safetensors"}
Photo = namedtuple("Photo", "digest class_name role is_image")
Reading = namedtuple("Reading", "photos is_doubtful")  # False, True, or REFUSE
REFUSE = "whatever is done with it may be wrong"


def find_role(name):
    """The split that a name stands for, "" if none, "doubt" if its words disagree."""
    words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
    nouns = "(set|data|images|imgs|img|photos|pics|split|folder)?"
    roles = {
        r for word in words for r, names in ROLES.items() if re.fullmatch(f"({names}){nouns}", word)
    }
    return roles.pop() if len(roles) == 1 else "doubt" if roles else ""


def make_photo(content, class_name, role):
    try:
        Image.open(io.BytesIO(content)).load()
        is_image = True
    except Exception:
        is_image = False
    return Photo(hashlib.sha256(content).hexdigest(), class_name, role, is_image)


def leads_up(path):
    """Whether a path is a link to a folder that it lies in."""
    if not os.path.islink(path):
        return False
    folder = os.path.realpath(os.path.dirname(path)) + os.sep
    return folder.startswith(os.path.realpath(path) + os.sep)


def walk_visible(root):
    """As os.walk, without litter and links that lead up."""
    for folder, children, files in os.walk(root, followlinks=True):
        children[:] = [
            name
            for name in children
            if not LITTER.match(name) and not leads_up(os.path.join(folder, name))
        ]
        yield folder, children, [name for name in files if not LITTER.match(name)]


def read_folder(root):
    """DIR/CLASS/..., or DIR/SPLIT/CLASS/...; a split may be wrapped in a folder of its name."""
    found = []
    for folder, children, files in walk_visible(root):
        if OUTPUTS & set(files) and folder != str(root):
            children.clear()
            continue
        parts = os.path.relpath(folder, root).split(os.sep)
        found += [(parts, os.path.join(folder, name)) for name in files]
    tops = {parts[0] for parts, _ in found if parts != ["."]}
    roles = {top: find_role(top) for top in tops}
    by_role = bool(tops) and all(roles.values())
    photos, inner = [], {}
    for parts, _ in found:
        inner.setdefault(parts[0], set()).update(parts[1:2] or [""])
    for parts, path in found:
        place = list(parts)
        role = roles.get(place[0], "")
        if by_role and role and len(inner[parts[0]]) == 1 and role == find_role((*place, "")[1]):
            place.pop(0)  # wrapped
        name = (*place, "")[1] if by_role else place[0]
        with open(path, "rb") as file:
            photo = make_photo(file.read(), "" if name == "." else name, role)
        if photo.is_image or parts != ["."]:  # a text beside the folders is nobody's photo
            photos.append(photo)
    if not any(roles.values()):
        inner = {
            top: find_inner([parts[1:] for parts, _ in found if parts[0] == top]) for top in tops
        }
    counts = Counter(name for top in tops for name in inner[top] - {""})
    shared = {name for name, count in counts.items() if count > 1}
    has_train = list(roles.values()).count("train") == 1
    kinds = set(roles.values())
    is_plain = len(kinds) == len(roles) and not kinds & {"other", "doubt"}
    flat = any(inner[top] == {""} for top in tops)
    if not any(roles.values()):
        is_split = len(shared) > 1 and all("" not in inner[top] for top in tops)
        return Reading(photos, REFUSE if is_split else bool(shared))
    return Reading(photos, flat or not (by_role and has_train and is_plain))


def find_inner(places):
    """The folders in a folder, below one that holds nothing but folders; "" if it holds files."""
    while len(firsts := {(*place, "")[0] for place in places}) == 1 and min(map(len, places)) > 1:
        places = [place[1:] for place in places]
    return firsts


def read_table(path, delimiter=",", encoding="utf-8-sig"):
    """A table with the columns path, label and, perhaps, split."""
    with open(path, encoding=encoding, newline="") as file:
        rows = [
            {k.strip().lower(): (v or "").strip() for k, v in row.items() if k}
            for row in csv.DictReader(file, delimiter=delimiter)
        ]
    photos, roles = {}, {find_role(row.get("split", "")) for row in rows}
    for row in rows:
        name = os.path.join(os.path.dirname(path), row["path"])
        if os.path.isfile(name) and row["label"]:
            role = find_role(row.get("split", ""))
            first = photos.get(name)
            with open(name, "rb") as file:
                new = make_photo(file.read(), row["label"], role)
            if first is None or first.role == "train":
                photos[name] = new if first is None else first._replace(role=role)
    unknown = any(row.get("split") and not find_role(row["split"]) for row in rows)
    doubt = unknown or {"other", "doubt"} & roles or ("" in roles and len(roles) > 1)
    return Reading(list(photos.values()), REFUSE if doubt else False)


def read_shards(root):
    """Archives of KEY.EXTENSION beside KEY.cls; their names tell the splits."""
    photos, roles = [], set()
    for name in sorted(os.listdir(root)):
        role = find_role(name.removesuffix(".tar"))
        roles.add(role)
        with tarfile.open(os.path.join(root, name)) as archive:
            members = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
        labels = {n[:-4]: c.decode().strip() for n, c in members.items() if n.endswith(".cls")}
        photos += [
            make_photo(content, labels[n.rsplit(".", 1)[0]], role)
            for n, content in members.items()
            if not n.endswith(".cls") and labels.get(n.rsplit(".", 1)[0])
        ]
    doubt = ({"other", "doubt"} & roles and len(roles) > 1) or ("" in roles and len(roles) > 1)
    return Reading(photos, REFUSE if doubt else bool({"other", "doubt"} & roles))
