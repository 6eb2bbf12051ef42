"""Training on a folder of photos: automatic choices, initial weights, bit-identical resuming."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from residua.cli.main import main
from residua.config.augmentation import Augmentation
from residua.config.memory import estimate_data_bytes
from residua.config.model import ImagePreprocessing, ModelConfig
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.data.batches import TrainingBatches
from residua.data.image_cache import load_or_decode_images
from residua.data.images import Images
from residua.data.sources.resolve import cached_image_side, list_image_dataset, resolve_dataset
from residua.errors import Interrupted, UsageError
from residua.net.build import build
from residua.net.model_folder import from_pretrained, read_model_config, save_pretrained
from residua.record import RunRecord
from residua.training.assess import evaluate_model_folder
from residua.training.auto_config import choose_config_for_photos
from residua.training.initial_weights import adapt_network_to_data, resolve_weight_source
from residua.training.memory import suggest_smaller_images
from residua.training.run import train_run
from residua.training.run_request import RunRequest, resolve_run
from tests.data.faulty_photos import CLASS_CHANNELS, make_picture
from tests.third_party import randomize_weights, torchvision
from tests.training.interrupted_runs import run_interrupted
from tests.training.short_runs import CPU_FP32, ignore_progress, never_stop, stop_after

SMALL_OPTIONS = [
    "--model",
    "cifar-resnet8",
    "--size",
    "16",
    "--precision",
    "fp32",
    "--set",
    "batch_size=8",
]


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    """Three classes with 16 training images and 6 test images each."""
    root = tmp_path_factory.mktemp("photos") / "pets"
    for split, count in (("train", 16), ("val", 6)):
        for name, channel in CLASS_CHANNELS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                make_picture(1000 * channel + 100 * (split == "val") + i, channel).save(
                    root / split / name / f"{i:02}.png"
                )
    return root


@pytest.fixture(autouse=True)
def isolate_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def run_train(capsys, *arguments):
    code = main(["train", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_training_on_a_folder_gives_a_classifier_with_its_classes(photo_folder, tmp_path, capsys):
    code, out, err = run_train(
        capsys, photo_folder, *SMALL_OPTIONS, "--epochs", "6", "--out", tmp_path / "r", "--json"
    )
    assert code == 0
    result = json.loads(out)
    assert result["test_error"] < 0.2, result
    config = read_model_config(tmp_path / "r" / "last")
    assert config.classes == ("bird", "cat", "dog")
    assert (config.dataset, config.recipe, config.resize, config.input) == (
        "pets",
        "photos",
        20,
        (3, 16, 16),
    )
    assert "network" not in err.partition("step")[0]  # choices of the user are not explained
    assert json.loads((tmp_path / "r" / "run.json").read_text())["run"]["dataset"] == str(
        photo_folder
    )
    assert main(["report", str(tmp_path / "r")]) == 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Pets, 3 classes" in page
    augmentation = (
        "images are crops of 35\N{NO-BREAK SPACE}% or more of a photo, resized to one size, "
        "mirrored at random"
    )
    assert augmentation in page


def test_automatic_choices_are_reported_with_their_reasons(photo_folder, capsys):
    options = ("--size", "16", "--model", "cifar-resnet8", "--dry-run", "--json")
    code, out, said = run_train(capsys, photo_folder, *options, "--epochs", "2")
    assert code == 0
    assert "changed by your options: epochs 2 (override: --recipe)" in said
    assert json.loads(out)["recipe"] == "photos"
    chosen = choose_config_for_photos(list_image_dataset(photo_folder), CPU_FP32)
    assert (chosen.model_name, chosen.image_size, chosen.recipe.name) == (
        "cifar-resnet20",
        64,
        "photos",
    )
    assert (
        chosen.reasons["model"]
        == "network cifar-resnet20: it is made for small images, and these have 40 pixels"
    )
    assert chosen.recipe.batch_size == 12
    assert (
        choose_config_for_photos(list_image_dataset(photo_folder), CPU_FP32) == chosen
    )  # the same command is the same run
    gpu = replace(CPU_FP32, device=torch.device("cuda"))
    assert (
        choose_config_for_photos(list_image_dataset(photo_folder), gpu, finetune=True).recipe.name
        == "tuning"
    )


def test_the_reason_of_a_recipe_names_each_number_that_is_not_the_recipes_own(photo_folder):
    listing = list_image_dataset(photo_folder)
    assert choose_config_for_photos(listing, CPU_FP32).reasons["recipe"] == (
        "recipe photos, 100 epochs (not its 60), batch size 12 (not its 32): 4,800 crops in all "
        "take minutes on a few CPU cores, and a batch holds at most a quarter of the 48 images"
    )
    gpu = replace(CPU_FP32, device=torch.device("cuda"))
    on_gpu = choose_config_for_photos(listing, gpu).reasons["recipe"]
    assert on_gpu.startswith("recipe photos, 60 epochs, batch size 12 (not its 32): few images")


def test_a_changed_recipe_keeps_its_reason_and_a_named_one_has_none(photo_folder):
    dataset = resolve_dataset(str(photo_folder))

    def explain(*given, **changes):
        request = RunRequest(
            size=16, change_recipe=lambda chosen: replace(chosen, **changes), given=frozenset(given)
        )
        return resolve_run(request, dataset, CPU_FP32).reasons.get("recipe", "")

    assert "your options" not in explain()
    assert explain("epochs", epochs=3.0).endswith("; changed by your options: epochs 3")
    assert explain("steps", epochs=0, steps=9).endswith("; changed by your options: steps 9")
    other = explain(schedule=replace(recipe("photos").schedule, lr=0.25), smoothing=0.2)
    assert other.endswith("; changed by your options: schedule.lr 0.25, smoothing 0.2")
    assert explain("recipe", "epochs", epochs=3.0) == ""


def test_an_interrupted_run_is_bit_identical(photo_folder, tmp_path, capsys):
    final_states = []
    for name, stops in (("whole", ()), ("cut", (3, 7))):
        out = tmp_path / name
        for steps in stops:
            run_interrupted(
                [*SMALL_OPTIONS, "--steps", "12", "--balance"], photo_folder, out, steps
            )
        assert (
            run_train(
                capsys,
                photo_folder,
                *SMALL_OPTIONS,
                "--steps",
                "12",
                "--balance",
                "--out",
                out,
                "--resume",
            )[0]
            == 0
        )
        final_states.append(from_pretrained(out / "last").state_dict())
    for name, x in final_states[0].items():
        assert torch.equal(x, final_states[1][name]), name


def test_a_recipe_for_small_images_crops_from_the_cached_squares_too(
    photo_folder, tmp_path, capsys
):
    options = [*SMALL_OPTIONS, "--steps", "2", "--recipe", "small", "--out", tmp_path / "r"]
    assert run_train(capsys, photo_folder, *options)[0] == 0
    assert read_model_config(tmp_path / "r" / "last").input == (3, 16, 16)


def test_vlad_is_fitted_on_center_crops(photo_folder, tmp_path, capsys):
    code, out, _ = run_train(
        capsys,
        photo_folder,
        "--model",
        "vlad,words=2,dimensions=4,samples=500",
        "--size",
        "12",
        "--out",
        tmp_path / "v",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["test_error"] < 0.7


@pytest.fixture
def model_folder(tmp_path):
    """A model folder for five other classes and images of 16 x 16 pixels."""
    spec = network("cifar-resnet8", input=(3, 16, 16), classes=5)
    config = ModelConfig(network=spec, classes=tuple("vwxyz"), mean=(0.5,) * 3, std=(0.25,) * 3)
    save_pretrained(build(spec, seed=9), config, tmp_path / "start")
    return tmp_path / "start"


def test_a_model_with_other_classes_gets_a_new_head_and_keeps_its_body(
    photo_folder, model_folder, tmp_path, capsys
):
    options = [
        "--precision",
        "fp32",
        "--steps",
        "2",
        "--set",
        "batch_size=8",
        "--freeze",
        "--out",
        tmp_path / "r",
    ]
    code, _, err = run_train(capsys, photo_folder, "--from", model_folder, *options)
    assert code == 0
    assert "changed by your options: batch_size 8, steps 2, freeze (override: --recipe)" in err
    old, new = (
        from_pretrained(model_folder).state_dict(),
        from_pretrained(tmp_path / "r" / "last").state_dict(),
    )
    head = [name for name in new if name.startswith("head.")]
    assert [tuple(new[name].shape) for name in head] == [(3, 64), (3,)]
    for name in set(new) - set(head):
        assert torch.equal(old[name], new[name]), name
    config = read_model_config(tmp_path / "r" / "last")
    assert (config.mean, config.classes, config.input) == (
        (0.5,) * 3,
        ("bird", "cat", "dog"),
        (3, 16, 16),
    )


def test_a_model_with_the_same_classes_keeps_its_head(photo_folder, model_folder, tmp_path, capsys):
    config = read_model_config(model_folder)
    same = replace(
        config, network=replace(config.network, classes=3), classes=("bird", "cat", "dog")
    )
    save_pretrained(build(same.network, seed=9), same, model_folder)
    options = [
        "--precision",
        "fp32",
        "--steps",
        "1",
        "--set",
        "schedule.lr=0",
        "--set",
        "batch_size=8",
        "--out",
        tmp_path / "r",
    ]
    assert run_train(capsys, photo_folder, "--from", model_folder, *options)[0] == 0
    before, after = from_pretrained(model_folder), from_pretrained(tmp_path / "r" / "last")
    assert torch.equal(before.head[-1].weight, after.head[-1].weight)


def test_equally_many_but_different_classes_get_a_new_head(
    photo_folder, model_folder, tmp_path, capsys
):
    config = read_model_config(model_folder)
    other = replace(config, network=replace(config.network, classes=3), classes=("x", "y", "z"))
    save_pretrained(build(other.network, seed=9), other, model_folder)
    options = [
        "--precision",
        "fp32",
        "--steps",
        "1",
        "--set",
        "schedule.lr=0",
        "--set",
        "batch_size=8",
        "--out",
        tmp_path / "r",
    ]
    assert run_train(capsys, photo_folder, "--from", model_folder, *options)[0] == 0
    before, after = from_pretrained(model_folder), from_pretrained(tmp_path / "r" / "last")
    assert not torch.equal(before.head[-1].weight, after.head[-1].weight)


def test_a_torchvision_weight_file_is_recognised_and_fine_tuned(photo_folder, tmp_path, capsys):

    third_party_net = randomize_weights(torchvision.models.resnet18(num_classes=7))
    torch.save(third_party_net.state_dict(), tmp_path / "resnet18-f37072fd.pth")
    found = resolve_weight_source(tmp_path / "resnet18-f37072fd.pth")
    net = adapt_network_to_data(found, resolve_dataset(str(photo_folder), (3, 32, 32)), None)
    assert (net.name, net.classes, net.input) == ("resnet18", 3, (3, 32, 32))
    options = [
        "--size",
        "32",
        "--precision",
        "fp32",
        "--steps",
        "1",
        "--set",
        "batch_size=4",
        "--freeze",
        "--out",
        tmp_path / "r",
    ]
    assert (
        run_train(capsys, photo_folder, "--from", tmp_path / "resnet18-f37072fd.pth", *options)[0]
        == 0
    )
    ours = from_pretrained(tmp_path / "r" / "last")
    assert torch.equal(ours.stem[0].weight, third_party_net.conv1.weight)
    assert read_model_config(tmp_path / "r" / "last").mean == (0.485, 0.456, 0.406)


def test_photos_that_do_not_fit_in_memory_get_a_size_suggestion_that_does(photo_folder):
    data = replace(resolve_dataset(str(photo_folder), (3, 224, 224)), num_images=1_000_000)
    assert suggest_smaller_images(data, 10 * 2**30) == (
        "1,000,000 photos of 224 x 224 pixels alone need 183.1 GiB, so add --size 51"
    )
    kept = replace(data, input=(3, 51, 51), resize=cached_image_side(51))
    assert (
        estimate_data_bytes(kept, 0)
        <= 10 * 2**30
        < estimate_data_bytes(replace(kept, input=(3, 53, 53), resize=cached_image_side(53)), 0)
    )
    assert suggest_smaller_images(data, 1000).endswith("so use fewer of them")


def test_impossible_options_give_a_one_line_error(photo_folder, tmp_path, capsys):
    def get_error_line(*arguments):
        code, _, err = run_train(capsys, *arguments, "--out", tmp_path / "o")
        assert code in (1, 2)
        return err.splitlines()[-1]

    assert (
        get_error_line(photo_folder, "--freeze")
        == "residua: --freeze needs pretrained weights: add --from"
    )
    assert (
        get_error_line("digits", "--size", "16")
        == "residua: --size applies only to photographs: leave it out, because images of digits "
        "are always 8 x 8"
    )
    assert (
        get_error_line(photo_folder, "--size", "4")
        == "residua: --size 4 is invalid: give 8 to 1024 pixels"
    )
    (tmp_path / "x.pth").write_bytes(b"no weights")
    assert "is damaged or not written by torch.save" in get_error_line(
        photo_folder, "--from", tmp_path / "x.pth"
    )
    assert "there is no file or folder" in get_error_line(
        photo_folder, "--from", tmp_path / "gone.pth"
    )
    with pytest.raises(SystemExit):
        main(["train", "digits", "--shortcut", "B"])
    assert (
        "write it into the network's name, as in --model cifar-resnet20,shortcut=B"
        in capsys.readouterr().err
    )


def test_an_unwritable_output_folder_gives_a_one_line_error(photo_folder, tmp_path, capsys):
    (tmp_path / "o").write_bytes(b"a file stands where the folder would")
    code, _, err = run_train(
        capsys, photo_folder, *SMALL_OPTIONS, "--steps", "1", "--out", tmp_path / "o" / "run"
    )
    assert code == 1
    assert err.splitlines()[-1].startswith("residua: Not a directory")


def test_balance_samples_each_class_equally_often(photo_folder):
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    images = Images(torch.randint(0, 256, (100, 3, 20, 20), dtype=torch.uint8), labels)
    augment = Augmentation(pad=0, area=0.3, colour=0.2)
    batches = TrainingBatches(
        images, 10, augment, (0.5,) * 3, (0.2,) * 3, 0, crop_size=(16, 16), balance_classes=True
    )
    epochs = [
        torch.cat([batches.make_batch(10 * epoch + i)[1] for i in range(10)]).bincount()
        for epoch in range(3)
    ]
    assert all((counts - 33).abs().max() <= 2 for counts in epochs), epochs
    indices_seen = torch.cat(
        [
            (batches.orders.compute(epoch) % 100)[labels[batches.orders.compute(epoch) % 100] == 0]
            for epoch in range(3)
        ]
    )
    assert len(indices_seen.unique()) > 60  # later epochs use the rest of a large class
    rare_class_images = [
        x for step in range(10) for x, y in zip(*batches.make_batch(step), strict=True) if y == 2
    ]
    assert (
        len({x.numpy().tobytes() for x in rare_class_images}) > 30
    )  # one image, but a new crop each time


def test_two_processes_see_the_same_batches_as_one(photo_folder):
    pixels, labels = load_or_decode_images(
        list_image_dataset(photo_folder), ImagePreprocessing((3, 20, 20), 20)
    ).split_tensors("train")
    images, augment, grey, spread = (
        Images(pixels, labels),
        Augmentation(pad=0, area=0.3, colour=0.3),
        (0.5,) * 3,
        (0.2,) * 3,
    )
    batches_by_share = [
        TrainingBatches(
            images, 12, augment, grey, spread, 5, share, crop_size=(16, 16), balance_classes=True
        )
        for share in (range(12), range(6), range(6, 12))
    ]
    for step in (0, 3, 9):
        whole, first, second = [batches.make_batch(step) for batches in batches_by_share]
        assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
        assert torch.equal(whole[1], torch.cat([first[1], second[1]]))


def test_a_run_resumes_after_its_photographs_have_moved(photo_folder, tmp_path):
    """Only if their content is the same; run.json then has the new path."""
    before, after, out = tmp_path / "before", tmp_path / "after", tmp_path / "run"
    shutil.copytree(photo_folder, before)
    run = Run(
        network("cifar-resnet8", input=(3, 16, 16), classes=3),
        str(before),
        replace(recipe("small"), batch_size=8).with_duration(steps=6),
    )
    with pytest.raises(Interrupted):
        train_run(run, out, CPU_FP32, on_progress=ignore_progress, should_stop=stop_after(3))
    before.rename(after)
    moved_run, summaries = replace(run, dataset=str(after)), []

    def resume_moved():
        return train_run(
            moved_run,
            out,
            CPU_FP32,
            resume=True,
            on_data=summaries.append,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )

    changed = after / "train" / "cat" / "00.png"
    original = changed.read_bytes()
    changed.write_bytes((after / "train" / "cat" / "01.png").read_bytes())
    with pytest.raises(UsageError, match=f"holds another run: dataset is .*{before}.* there"):
        resume_moved()
    changed.write_bytes(original)
    assert resume_moved()["steps"] == 6
    assert summaries[-1].notes[-1] == (
        f"when this run was started, the same photographs were in {before}"
    )
    stored = RunRecord(out).read_run_json()
    assert (stored["run"]["dataset"], stored["id"]) == (str(after), moved_run.id)
    assert evaluate_model_folder(out, resolve_dataset(str(after), (3, 16, 16)), "test", CPU_FP32)
