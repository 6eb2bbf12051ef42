"""Folders of photographs: by class, by split, wrapped, mixed, renamed, with litter and links."""

from tests.fuzz.case import Case
from tests.fuzz.seeds import CLASSES as MODEL_CLASSES
from tests.fuzz.seeds import NETWORK

TRAIN_NAMES = (
    "train",
    "Train",
    "TRAIN",
    "training",
    "Training set",
    "train_images",
    "trainset",
    "seg_train",
    "my-train",
    "TrainData",
    "01_train",
)
TEST_NAMES = (
    "test",
    "Test",
    "testing",
    "Test set",
    "test_images",
    "testset",
    "seg_test",
    "TestData",
    "02_test",
    "my-test",
)
DEV_NAMES = ("val", "valid", "Validation", "dev", "val_images", "Validation set", "seg_val")
OTHER_NAMES = ("holdout", "evaluation", "eval set", "unseen", "extra", "raw", "private")
OUTER_NAMES = ("Learn", "Exam", "batch 1", "site A", "2023", "new", "extra", "unseen")
CLASS_NAMES = (
    "cat",
    "dog",
    "bird",
    "Cat fish",
    "7",
    "008",
    "né",
    "a,b",
    "=sum",
    "-x",
    "train_station",
    "car's",
    'a"b',
    "tester",
    "contest",
    " ox",
)
LITTER = (
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "__pycache__",
    ".hidden",
    "__MACOSX",
    "@EADIR",
)
FORMATS = ("PNG", "PNG", "PNG", "JPEG", "BMP", "GIF", "WEBP")


def make_case(rng, seeds):
    """A folder of two to nine classes in one of the layouts, with some irregularities."""
    photos, files = PhotoMaker(rng, is_uneven=rng.random() < 0.35), {}
    known = rng.random() < 0.4  # to the model of the seeds
    least, most = (2, 3) if known else (4, 9) if photos.is_uneven else (2, 4)
    classes = rng.sample(MODEL_CLASSES if known else CLASS_NAMES, rng.randint(least, most))
    layout = rng.choice(
        ("classes", "classes", "splits", "splits", "splits", "wrapped", "beside", "flat")
    )
    root = "in/photos"
    if layout == "classes":
        photos.add_classes(files, root, classes, 9)
    else:
        train = rng.choice(TRAIN_NAMES)
        tests = [rng.choice(TEST_NAMES)]
        if rng.random() < 0.4:
            tests.append(rng.choice(DEV_NAMES))
        if rng.random() < 0.15:
            tests = [rng.choice(DEV_NAMES)]
        if rng.random() < 0.15:
            tests[0] = rng.choice(OTHER_NAMES)
        if rng.random() < 0.1:  # no name means anything, but all hold the same classes
            train, *tests = rng.sample(OUTER_NAMES, 1 + len(tests))
        for i, split in enumerate([train, *tests]):
            wrapped = f"{split}/{split}" if layout == "wrapped" else split
            if layout == "flat" and i:
                photos.add_files(files, f"{root}/{wrapped}", 4)
            else:
                photos.add_classes(files, f"{root}/{wrapped}", classes, 3 if i else 8)
        if layout == "beside":
            photos.add_classes(files, root, rng.sample(CLASS_NAMES, 1), 5)
    add_irregularities(rng, photos, files, root)
    name = f"{layout}: {', '.join(sorted({path.split('/')[2] for path in files}))}"
    return choose_commands(rng, Case("folder", name, files, []), root)


class PhotoMaker:
    """Adds images to a case's files; no two are alike.  If `is_uneven`, only one class has many."""

    def __init__(self, rng, is_uneven=False):
        self.rng, self.count = rng, rng.randrange(1000, 10**6)
        self.is_uneven = is_uneven

    def make_photo(self):
        self.count += 1
        image_format = self.rng.choice(FORMATS)
        return f".{image_format.lower()}", {"image": self.count, "format": image_format}

    def add_files(self, files, folder, least, more=2):
        for _ in range(self.rng.randint(least, least + more)):
            suffix, content = self.make_photo()
            files[f"{folder}/{self.count}{suffix}"] = content

    def add_classes(self, files, folder, classes, least):
        for i, name in enumerate(classes):
            inner = f"/{self.rng.choice('ab')}" if self.rng.random() < 0.1 else ""
            fewest, more = (least, 2) if not self.is_uneven else (1, 0) if i else (2, least)
            self.add_files(files, f"{folder}/{name}{inner}", fewest, more)


def add_irregularities(rng, photos, files, root):
    """Litter, hidden files, files that are no images, copies, empty folders, other outputs."""
    paths = [path for path in files if path.startswith(root)]
    if rng.random() < 0.3:
        place = rng.choice((root, rng.choice(paths).rsplit("/", 1)[0]))
        photos.add_files(files, f"{place}/{rng.choice(LITTER)}", 2)
    if rng.random() < 0.15:
        files[f"{rng.choice(paths).rsplit('/', 1)[0]}/notes.txt"] = "no image"
    if rng.random() < 0.1:
        files[f"{root}/readme.txt"] = "no image"
    if rng.random() < 0.15:
        files[rng.choice(paths) + "-copy.png"] = files[rng.choice(paths)]
    if rng.random() < 0.1:
        files[f"{rng.choice(paths)}.cut.png"] = {"image": 1, "edits": [[60, 10**6, ""]]}
    if rng.random() < 0.1:
        files[f"{root}/empty"] = {"folder": ""}
    if rng.random() < 0.1:
        files[f"{root}/runs/old"] = {"folder": "run"}
    if rng.random() < 0.05:
        files[f"{root}/{rng.choice(paths).split('/')[2]}/loop"] = {"link": ".."}


def choose_commands(rng, case, root, reader="folder", **arguments):
    """Add the commands that read the data at `root`, with what the independent reader expects."""
    facts = {"reader": reader, "path": root, **arguments}
    case.commands.append(["data", "check", root, "--out", "out/check", "--json"])
    case.checks["read"] = {"command": 0, **facts}
    if reader != "shards":
        case.commands[0] += ["--fix", "out/fix.csv"]
        case.checks["read"]["fix"] = "out/fix.csv"
    other = rng.random()
    if other < 0.15:
        case.commands.append(["train", root, *NETWORK, "--out", "out/run", "--json"])
        case.checks["trained"] = {"command": 1, "model": "out/run/last", **facts}
    elif other < 0.35:
        case.files["in/model"] = {"folder": "run/last"}
        words = ["evaluate", "in/model", root, "--json", "--skip-unknown-classes"]
        case.commands.append(words)
        case.checks["evaluated"] = {"command": 1, **facts}
    elif other < 0.42:
        case.commands.append(["train", root, *NETWORK, "--dry-run", "--json"])
    elif other < 0.6 and reader == "folder":
        copy = root.replace("photos", "else/photos")
        case.files |= {
            path.replace(root, copy, 1): c
            for path, c in case.files.items()
            if path.startswith(root)
        }
        case.commands.append(["data", "check", copy, "--out", "out/other", "--json"])
        case.checks["same"] = [[0, 1, ["data", "page"]]]
    return case
