"""Training on a folder of photographs: what is chosen, where it starts from, and that it ends in the same bits."""

import json
from dataclasses import replace

import pytest
import torch

from residua.cli.main import main
from residua.data.batches import Batches
from residua.data.folder import data_of, listed, side_kept
from residua.data.gallery import gathered
from residua.data.read import Images
from residua.net.build import build
from residua.net.folder import from_pretrained, read_config, save_pretrained
from residua.spec.memory import data_bytes
from residua.spec.model import ModelConfig, View
from residua.spec.papers import network
from residua.spec.recipe import Augment
from residua.train.choice import choose
from residua.train.memory import smaller
from residua.train.start import network_for, source
from tests.data.faults import COLOURS, picture
from tests.peers import randomised, torchvision
from tests.train.runs import CPU

SMALL = ["--model", "cifar-resnet8", "--size", "16", "--precision", "fp32", "--set", "batch_size=8"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of 16 images to train on and 6 to test on."""
    root = tmp_path_factory.mktemp("photos") / "pets"
    for part, count in (("train", 16), ("val", 6)):
        for name, channel in COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                picture(1000 * channel + 100 * (part == "val") + i, channel).save(root / part / name / f"{i:02}.png")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def said(capsys, *arguments):
    code = main(["train", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_folder_becomes_a_classifier_that_knows_its_classes(photos, tmp_path, capsys):
    code, out, err = said(capsys, photos, *SMALL, "--epochs", "6", "--out", tmp_path / "r", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["test_error"] < 0.2, result
    config = read_config(tmp_path / "r" / "last")
    assert config.classes == ("bird", "cat", "dog")
    assert (config.dataset, config.recipe, config.resize, config.input) == ("pets", "photos", 20, (3, 16, 16))
    assert "network" not in err.partition("step")[0]  # what is said by the user is not explained
    assert json.loads((tmp_path / "r" / "run.json").read_text())["run"]["dataset"] == str(photos)
    assert main(["report", str(tmp_path / "r")]) == 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Pets, 3 classes" in page
    assert "images are parts of 35\N{NO-BREAK SPACE}% or more of a photograph, brought to one size, mirrored at random" in page


def test_what_is_chosen_is_said_with_its_reason(photos, capsys):
    code, out, _ = said(capsys, photos, "--size", "16", "--model", "cifar-resnet8", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["recipe"] == "photos"
    chosen = choose(listed(photos), CPU)
    assert (chosen.model, chosen.side, chosen.recipe.name) == ("cifar-resnet20", 64, "photos")
    assert chosen.reasons["model"] == "network cifar-resnet20, made for images as small as these, of 40 pixels"
    assert chosen.recipe.batch_size == 12
    assert choose(listed(photos), CPU) == chosen  # the same command is the same run
    gpu = replace(CPU, device=torch.device("cuda"))
    assert choose(listed(photos), gpu, tuned=True).recipe.name == "tuning"


def test_an_interrupted_run_ends_in_the_same_bits(photos, tmp_path, capsys):
    ends = []
    for name, stops in (("whole", ()), ("cut", (3, 7))):
        out = tmp_path / name
        for steps in stops:
            stopped_after(steps, photos, out)
        assert said(capsys, photos, *SMALL, "--steps", "12", "--balance", "--out", out, "--resume")[0] == 0
        ends.append(from_pretrained(out / "last").state_dict())
    for name, x in ends[0].items():
        assert torch.equal(x, ends[1][name]), name


def stopped_after(steps, photos, out):
    from residua.cli.parser import Parser
    from residua.cli.train import add_arguments, asked_for
    from residua.errors import Interrupted
    from residua.train.run import train
    from tests.train.runs import after, silent

    parser = Parser(prog="residua")
    add_arguments(parser)
    arguments = parser.parse_args([str(photos), *SMALL, "--steps", "12", "--balance"])
    asked = asked_for(arguments, data_of(str(photos)), CPU)
    with pytest.raises(Interrupted):
        train(asked.run, out, CPU, resume=out.exists(), tell=silent, stop=after(steps))


def test_a_recipe_for_small_images_cuts_from_the_squares_too(photos, tmp_path, capsys):
    options = [*SMALL, "--steps", "2", "--recipe", "small", "--out", tmp_path / "r"]
    assert said(capsys, photos, *options)[0] == 0
    assert read_config(tmp_path / "r" / "last").input == (3, 16, 16)


def test_vlad_is_fitted_to_the_middles(photos, tmp_path, capsys):
    code, out, _ = said(
        capsys, photos, "--model", "vlad,words=2,dimensions=4,samples=500", "--size", "12", "--out", tmp_path / "v", "--json"
    )
    assert code == 0
    assert json.loads(out)["test_error"] < 0.7


@pytest.fixture
def model(tmp_path):
    """A folder of a model for other classes, of images of 16 pixels."""
    spec = network("cifar-resnet8", input=(3, 16, 16), classes=5)
    config = ModelConfig(network=spec, classes=tuple("vwxyz"), mean=(0.5,) * 3, std=(0.25,) * 3)
    save_pretrained(build(spec, seed=9), config, tmp_path / "start")
    return tmp_path / "start"


def test_a_model_of_other_classes_gets_a_new_head_and_keeps_its_body(photos, model, tmp_path, capsys):
    options = ["--precision", "fp32", "--steps", "2", "--set", "batch_size=8", "--freeze", "--out", tmp_path / "r"]
    code, _, err = said(capsys, photos, "--from", model, *options)
    assert code == 0
    assert "recipe tuning" not in err  # --steps says how long
    old, new = from_pretrained(model).state_dict(), from_pretrained(tmp_path / "r" / "last").state_dict()
    head = [name for name in new if name.startswith("head.")]
    assert [tuple(new[name].shape) for name in head] == [(3, 64), (3,)]
    for name in set(new) - set(head):
        assert torch.equal(old[name], new[name]), name
    config = read_config(tmp_path / "r" / "last")
    assert (config.mean, config.classes, config.input) == ((0.5,) * 3, ("bird", "cat", "dog"), (3, 16, 16))


def test_a_model_of_the_same_classes_keeps_its_head(photos, model, tmp_path, capsys):
    config = read_config(model)
    same = replace(config, network=replace(config.network, classes=3), classes=("bird", "cat", "dog"))
    save_pretrained(build(same.network, seed=9), same, model)
    options = ["--precision", "fp32", "--steps", "1", "--set", "schedule.lr=0", "--set", "batch_size=8", "--out", tmp_path / "r"]
    assert said(capsys, photos, "--from", model, *options)[0] == 0
    before, after = from_pretrained(model), from_pretrained(tmp_path / "r" / "last")
    assert torch.equal(before.head[-1].weight, after.head[-1].weight)


def test_as_many_other_classes_get_a_new_head_all_the_same(photos, model, tmp_path, capsys):
    config = read_config(model)
    other = replace(config, network=replace(config.network, classes=3), classes=("x", "y", "z"))
    save_pretrained(build(other.network, seed=9), other, model)
    options = ["--precision", "fp32", "--steps", "1", "--set", "schedule.lr=0", "--set", "batch_size=8", "--out", tmp_path / "r"]
    assert said(capsys, photos, "--from", model, *options)[0] == 0
    before, after = from_pretrained(model), from_pretrained(tmp_path / "r" / "last")
    assert not torch.equal(before.head[-1].weight, after.head[-1].weight)


def test_a_file_of_torchvisions_is_recognised_and_started_from(photos, tmp_path, capsys):

    theirs = randomised(torchvision.models.resnet18(num_classes=7))
    torch.save(theirs.state_dict(), tmp_path / "resnet18-f37072fd.pth")
    found = source(tmp_path / "resnet18-f37072fd.pth")
    net = network_for(found, data_of(str(photos), (3, 32, 32)), None)
    assert (net.name, net.classes, net.input) == ("resnet18", 3, (3, 32, 32))
    options = ["--size", "32", "--precision", "fp32", "--steps", "1", "--set", "batch_size=4", "--freeze", "--out", tmp_path / "r"]
    assert said(capsys, photos, "--from", tmp_path / "resnet18-f37072fd.pth", *options)[0] == 0
    ours = from_pretrained(tmp_path / "r" / "last")
    assert torch.equal(ours.stem[0].weight, theirs.conv1.weight)
    assert read_config(tmp_path / "r" / "last").mean == (0.485, 0.456, 0.406)


def test_photographs_that_do_not_fit_into_memory_are_told_the_size_that_does(photos):
    data = replace(data_of(str(photos), (3, 224, 224)), images=1_000_000)
    assert smaller(data, 10 * 2**30) == ("1,000,000 photographs of 224 x 224 pixels alone need 183.1 GiB, so add --size 51")
    kept = replace(data, input=(3, 51, 51), resize=side_kept(51))
    assert data_bytes(kept, 0) <= 10 * 2**30 < data_bytes(replace(kept, input=(3, 53, 53), resize=side_kept(53)), 0)
    assert smaller(data, 1000).endswith("so give fewer of them")


def test_bad_wishes_end_in_a_sentence(photos, tmp_path, capsys):
    def sentence(*arguments):
        code, _, err = said(capsys, *arguments, "--out", tmp_path / "o")
        assert code in (1, 2)
        return err.splitlines()[-1]

    assert sentence(photos, "--freeze") == "residua: --freeze keeps what --from has learned: give that, too"
    assert sentence("digits", "--size", "16") == "residua: --size is for folders of photographs: images of digits are 8 x 8"
    assert sentence(photos, "--size", "4") == "residua: --size 4 is impossible: give 8 to 1024 pixels"
    (tmp_path / "x.pth").write_bytes(b"no weights")
    assert "is damaged, or no file of torch.save" in sentence(photos, "--from", tmp_path / "x.pth")
    assert "there is no file or folder" in sentence(photos, "--from", tmp_path / "gone.pth")
    with pytest.raises(SystemExit):
        main(["train", "digits", "--shortcut", "B"])
    assert "say it in the network's name, as in --model cifar-resnet20,shortcut=..." in capsys.readouterr().err


def test_a_full_disk_ends_in_a_sentence(photos, tmp_path, capsys):
    (tmp_path / "o").write_bytes(b"a file stands where the folder would")
    code, _, err = said(capsys, photos, *SMALL, "--steps", "1", "--out", tmp_path / "o" / "run")
    assert code == 1
    assert err.splitlines()[-1].startswith("residua: Not a directory")


def test_balance_shows_each_class_equally_often(photos):
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    images = Images(torch.randint(0, 256, (100, 3, 20, 20), dtype=torch.uint8), labels)
    augment = Augment(pad=0, area=0.3, colour=0.2)
    batches = Batches(images, 10, augment, (0.5,) * 3, (0.2,) * 3, 0, size=(16, 16), balance=True)
    epochs = [torch.cat([batches.at(10 * epoch + i)[1] for i in range(10)]).bincount() for epoch in range(3)]
    assert all((counts - 33).abs().max() <= 2 for counts in epochs), epochs
    seen = torch.cat([(batches.order(epoch) % 100)[labels[batches.order(epoch) % 100] == 0] for epoch in range(3)])
    assert len(seen.unique()) > 60  # the rest of a large class comes later
    lonely = [x for step in range(10) for x, y in zip(*batches.at(step), strict=True) if y == 2]
    assert len({x.numpy().tobytes() for x in lonely}) > 30  # one image, but each time another crop


def test_two_processes_see_what_one_sees(photos):
    pixels, labels = gathered(listed(photos), View((3, 20, 20), 20)).part("train")
    images, augment, grey, spread = Images(pixels, labels), Augment(pad=0, area=0.3, colour=0.3), (0.5,) * 3, (0.2,) * 3
    made = [Batches(images, 12, augment, grey, spread, 5, share, size=(16, 16), balance=True) for share in ((0, 1), (0, 2), (1, 2))]
    for step in (0, 3, 9):
        whole, first, second = [batches.at(step) for batches in made]
        assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
        assert torch.equal(whole[1], torch.cat([first[1], second[1]]))
