"""Published weights as values: against the sources of torchvision and timm, and the user's file."""

import ast
import json
import re
from importlib.util import find_spec
from math import floor
from pathlib import Path

import pytest

from residua.cli.main import main
from residua.config.imagenet_classes import (
    IDS_SHA256,
    ClassMatcher,
    hash_imagenet_ids,
    read_imagenet_classes,
)
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.published_weights import PublishedWeights
from residua.config.weight_registry import (
    choose_best,
    find_weights,
    find_weights_of_network,
    list_short_names,
    list_weights,
)
from residua.config.weight_table import list_table_entries
from residua.errors import RecordError, UsageError

ENTRIES = {entry.name: entry for entry in list_table_entries()}
PARAMETERS = {
    "cifar-resnet20": 269_722,
    "cifar-record11-small": 463_960,
    "resnet10t": 5_435_488,
    "resnet14t": 10_081_632,
    "resnet18": 11_689_512,
    "resnet18d": 11_708_744,
    "resnet26d": 16_014_408,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet50d": 25_576_264,
    "resnet101": 44_549_160,
    "resnet101d": 44_568_392,
    "resnet152": 60_192_808,
    "resnet152d": 60_212_040,
    "resnet200d": 64_693_064,
    "seresnet50": 28_088_024,
    "seresnext50_32x4d": 27_559_896,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnetv2_18": 11_687_720,
    "resnetv2_34": 21_795_880,
    "resnetv2_50": 25_549_352,
    "resnetv2_101": 44_541_480,
}
"""As torchvision and timm publish them."""


def read_source(package, module):
    """The text of a module of an installed package, which is not imported."""
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    return (Path(spec.origin).parent / module).read_text()


@pytest.fixture(autouse=True)
def only_the_known_weights(monkeypatch):
    monkeypatch.delenv("RESIDUA_WEIGHTS")


def test_torchvision_has_these_files_with_these_accuracies_and_sizes():
    source = read_source("torchvision", "models/resnet.py")
    published = {}
    for block in re.split(r"= Weights\(", source)[1:]:
        url = re.search(r'url="([^"]+)"', block)[1]
        accuracy = float(re.search(r'"acc@1": ([\d.]+)', block)[1])
        resize = re.search(r"resize_size=(\d+)", block)
        published[url] = (round(1 - accuracy / 100, 5), int(resize[1]) if resize else 256)
    ours = [entry for entry in ENTRIES.values() if "pytorch.org" in entry.address]
    assert {entry.address for entry in ours} == set(published)
    for entry in ours:
        assert (entry.top1_error, entry.resize) == published[entry.address], entry.name
        assert entry.interpolation == "bilinear"
        assert entry.sha256 in entry.address


def read_timm_settings(module):
    """What timm says of its weights, by name; read without importing it."""
    tree = ast.parse(read_source("timm", f"models/{module}.py"))
    kept = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name.endswith("cfg"))
        or (isinstance(node, ast.Assign) and node.targets[0].id == "default_cfgs")
    ]
    scope = {
        "Dict": dict,
        "Any": object,
        "generate_default_cfgs": lambda settings: settings,
        "IMAGENET_DEFAULT_MEAN": (0.485, 0.456, 0.406),
        "IMAGENET_DEFAULT_STD": (0.229, 0.224, 0.225),
        "IMAGENET_INCEPTION_MEAN": (0.5, 0.5, 0.5),
        "IMAGENET_INCEPTION_STD": (0.5, 0.5, 0.5),
    }
    exec(compile(ast.Module(kept, []), module, "exec"), scope)
    return scope["default_cfgs"]


def test_timm_has_these_weights_with_these_statistics_and_crops():
    settings = read_timm_settings("resnet") | read_timm_settings("resnetv2")
    ours = {name: entry for name, entry in ENTRIES.items() if "/timm/" in entry.address}
    assert len(ours) > 25
    for name, entry in ours.items():
        theirs = settings[name]
        assert entry.address.startswith(f"https://huggingface.co/timm/{name}/resolve/")
        assert (entry.mean, entry.std) == (theirs["mean"], theirs["std"]), name
        assert entry.interpolation == theirs["interpolation"], name
        assert entry.licence == theirs["license"], name
        side, crop = theirs["input_size"][1], theirs["crop_pct"]
        if side == 176:  # these are published with their error at 224
            side, crop = theirs["test_input_size"][1], theirs["test_crop_pct"]
        assert (entry.side, entry.resize) == (side, floor(side / crop)), name


def test_imagenets_ids_are_those_of_timm_and_its_names_those_of_torchvision():
    classes = read_imagenet_classes()
    assert hash_imagenet_ids() == IDS_SHA256
    assert list(classes) == read_source("timm", "data/_info/imagenet_synsets.txt").split()
    tree = ast.parse(read_source("torchvision", "models/_meta.py"))
    names = next(
        node.value
        for node in tree.body
        if getattr(node, "targets", [None])[0] is not None
        and node.targets[0].id == "_IMAGENET_CATEGORIES"
    )
    assert list(classes.values()) == ast.literal_eval(names)
    assert len(set(classes.values())) == 1000


def can_be_built(name):
    try:
        network(ENTRIES[name].network)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name in ENTRIES if can_be_built(name)])
def test_the_network_of_weights_has_the_published_number_of_parameters(name):
    built = plan(network(ENTRIES[name].network))
    assert built.parameters == PARAMETERS[ENTRIES[name].short_name]


def test_the_networks_of_all_weights_can_be_built():
    assert [name for name in ENTRIES if not can_be_built(name)] == []


def make_entry(name, **fields):
    return PublishedWeights(
        **{"name": name, "network": "resnet18", "address": "https://a.b/c.pth"} | fields
    )


FULL = "0" * 64


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        # the lowest error among those whose whole sum is known
        ({"n.a": (0.3, FULL), "n.b": (0.2, FULL), "n.c": (0.1, "01234567")}, "n.b"),
        # else among those of which the first digits are known, else of all
        ({"n.a": (0.3, "01234567"), "n.b": (0.2, "01234567"), "n.c": (0.1, "")}, "n.b"),
        ({"n.a": (0.3, ""), "n.b": (0.2, "")}, "n.b"),
        # a measured one before one that nobody measured
        ({"n.a": (None, FULL), "n.b": (0.2, "")}, "n.b"),
        ({"n.a": (None, FULL)}, "n.a"),
    ],
)
def test_a_name_without_a_tag_stands_for_the_best_weights_that_can_be_checked(entries, chosen):
    values = [make_entry(n, top1_error=e, sha256=s) for n, (e, s) in entries.items()]
    assert choose_best(values).name == chosen
    assert choose_best(values[::-1]).name == chosen


def test_non_commercial_weights_and_other_sizes_stand_for_a_name_last():
    free = make_entry("n.a", top1_error=0.4, sha256=FULL)
    restricted = make_entry("n.b", top1_error=0.1, sha256=FULL, licence="cc-by-nc-4.0")
    large = make_entry("n.c", top1_error=0.2, sha256=FULL, side=256)
    assert choose_best([restricted, large, free]) == free
    assert choose_best([restricted]) == restricted
    assert choose_best([large]) == large


def test_short_names_of_the_table():
    short = {name: entry.name for name, entry in list_short_names(ENTRIES.values()).items()}
    assert short["resnet18"] == "resnet18.a1_in1k"
    assert short["resnet50"] == "resnet50.a1_in1k"
    assert short["resnext50_32x4d"] == "resnext50_32x4d.a1h_in1k"
    assert short["wide_resnet50_2"] == "wide_resnet50_2.tv_v2"
    assert find_weights("resnet50").network == "resnet50,stride=3x3"
    assert find_weights_of_network("resnet50,stride=3x3").name == "resnet50.a1_in1k"
    assert find_weights("resnet51") is None


def write_user_file(tmp_path, monkeypatch, content):
    path = tmp_path / "registry.json"
    path.write_text(content if isinstance(content, str) else json.dumps({"weights": content}))
    monkeypatch.setenv("RESIDUA_WEIGHTS", str(path))


def test_the_users_file_adds_weights_and_changes_fields(tmp_path, monkeypatch):
    changed = {"name": "resnet18.a1_in1k", "sha256": FULL, "class_names": ["a", "b"]}
    added = {"name": "ours.v1", "network": "resnet34", "address": "https://intra.net/ours.pth"}
    write_user_file(tmp_path, monkeypatch, [changed, added])
    entry = find_weights("resnet18")
    assert (entry.sha256, entry.classes) == (FULL, ("a", "b"))
    assert entry.address == ENTRIES["resnet18.a1_in1k"].address
    assert find_weights("ours").network == "resnet34"
    assert len(list_weights()) == 1 + sum(map(can_be_built, ENTRIES))


def test_weights_with_other_classes_do_not_become_what_a_known_name_means(tmp_path, monkeypatch):
    own = {
        "name": "resnet50.products",
        "network": "resnet50,stride=3x3",
        "address": "https://intra.net/p.pth",
        "sha256": FULL,
        "class_names": ["chair", "table"],
        "top1_error": 0.03,
    }
    write_user_file(tmp_path, monkeypatch, [own, own | {"name": "products.v1"}])
    assert find_weights("resnet50").name == "resnet50.a1_in1k"
    assert find_weights_of_network("resnet50,stride=3x3").name == "resnet50.a1_in1k"
    assert find_weights("products").name == "products.v1"


def test_a_sum_may_be_in_capitals(tmp_path, monkeypatch):
    write_user_file(tmp_path, monkeypatch, [{"name": "resnet18.a1_in1k", "sha256": "AB" * 32}])
    assert find_weights("resnet18").sha256 == "ab" * 32


def test_a_missing_users_file_is_said_with_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDUA_WEIGHTS", str(tmp_path / "gone.json"))
    with pytest.raises(RecordError, match=r"RESIDUA_WEIGHTS names .* there is no file .*gone.json"):
        find_weights("resnet18")


OWN = {"name": "own.v1", "network": "resnet18", "address": "https://a.b/c.pth"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "registry.json is damaged"),
        ("[]", 'describes no weights: write {"weights": [...]}'),
        ([5], "registry.json (RESIDUA_WEIGHTS) is wrong"),
        ([{"name": "a"}], "lacks network, address"),
        ([{"name": "resnet18.a1_in1k", "sha265": ""}], "no field 'sha265': did you mean 'sha256'"),
        ([{"name": "resnet18.a1_in1k", "sha256": "xyz"}], "is not a SHA-256 sum"),
        ([{"name": "resnet18.a1_in1k", "network": "resnat18"}], "did you mean"),
        (
            [{"name": "../a", "network": "resnet18", "address": "https://a/b"}],
            "cannot name weights",
        ),
        ([OWN | {"name": "none.v1"}], "cannot name weights"),
        ([OWN | {"name": "a" * 101}], "cannot name weights"),
        *(
            ([OWN | {"address": address}], "is not the URL of a file")
            for address in (
                "b.pth",
                "https://a.b/..",
                "https://a.b/.",
                "https://[b/c",
                "https:///c",
            )
        ),
        ([OWN | {"std": [0, 0, 0]}], "stds (0.0, 0.0, 0.0) are invalid"),
        ([OWN | {"mean": [0.5]}], "1 means and 3 stds do not match"),
        ([OWN | {"class_names": ["a", "a"]}], "class names must be distinct"),
        ([OWN | {"class_names": ["a", "b\x1b"]}], "has control characters"),
        ([OWN | {"licence": "x\x1b[31m"}], "has control characters"),
        ([OWN | {"top1_error": 5}], "give a share from 0 to 1"),
        ([OWN | {"network": "resnet50"}], "write resnet50,stride=3x3 for weights of torchvision"),
    ],
)
def test_a_wrong_users_file_is_one_sentence(tmp_path, monkeypatch, content, message):
    write_user_file(tmp_path, monkeypatch, content)
    with pytest.raises(RecordError) as error:
        find_weights("resnet18")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("n01440764", [0]),
        ("tench", [0]),
        ("Golden_Retriever", [207]),
        ("GOLDENretriever", [207]),
        ("cardigan", [474]),
        ("Cardigan", [264]),
        ("CARDIGAN", [264, 474]),
        ("my dog", []),
    ],
)
def test_classes_are_matched_by_id_or_loosely_by_name(name, labels):
    assert ClassMatcher(tuple(read_imagenet_classes().values())).find_labels(name) == labels


def test_classes_of_other_models_are_matched_exactly():
    matcher = ClassMatcher(("cat", "my dog"))
    assert matcher.find_labels("cat") == [0]
    assert matcher.find_labels("Cat") == matcher.find_labels("my_dog") == []


def test_models_lists_the_weights(capsys):
    assert main(["models", "resnet50*", "--weights", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["weights"]}
    assert listed["resnet50.a1_in1k"] == {
        "name": "resnet50.a1_in1k",
        "network": "resnet50,stride=3x3",
        "address": ENTRIES["resnet50.a1_in1k"].address,
        "sha256": ENTRIES["resnet50.a1_in1k"].sha256,
        "classes": 1000,
        "dataset": "imagenet",
        "top1_error": 0.19618,
        "licence": "apache-2.0",
        "stands_for": "resnet50",
    }
    assert listed["resnet50.tv_v1"]["stands_for"] is None
    assert main(["models", "resnet50*", "--weights"]) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"resnet50\.a1_in1k +19\.62.% +224  apache-2\.0 +773525d5821d resnet50\n", text
    )
    assert re.search(r"resnet50\.fb_swsl_ig1b_ft_in1k .* cc-by-nc-4\.0  the hub's\n", text)
    assert main(["models", "resnet50", "--weights", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["weights"]
    assert len(listed) > 1
    assert all(entry["name"].startswith("resnet50.") for entry in listed)
    assert main(["models", "resnat50", "--weights"]) == 0
    assert capsys.readouterr().out == "no weights match resnat50\n"
    assert main(["models", "resnet1", "--weights"]) == 0
    assert re.fullmatch(
        r"no weights match resnet1, but \d+ match 'resnet1\*'\n", capsys.readouterr().out
    )
