"""`residua convert` as scripts use it: the files it writes, and the keys of --json."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import residua
from residua.cli.convert_options import resolve_network_and_classes
from residua.cli.main import main
from residua.net.convert.state_dict import read_state_dict
from residua.net.convert.weights import convert_to_project
from residua.net.model_folder import read_model_config
from tests.cli.convert_runner import CIFAR10_OPTIONS, IMAGENET_MEAN, IMAGENET_STD, run_convert
from tests.third_party import ThirdPartyCifarResNet, randomize_weights


def test_a_weight_file_is_converted_to_a_model_folder(capsys, akamaster_file, tmp_path):
    path, third_party_net = akamaster_file
    code, out, err = run_convert(
        capsys, path, "--model", "cifar-resnet8", *CIFAR10_OPTIONS, "--out", tmp_path / "model"
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{tmp_path / 'model'}: cifar-resnet8, 10 classes, 75,290 parameters",
        "44 tensors renamed: conv1.weight -> stem.0.weight, layer2.0.bn1.running_var -> "
        "stages.stage2.0.branch.1.running_var, "
        "linear.bias -> head.1.bias",
    ]
    config = read_model_config(tmp_path / "model")
    assert config.classes == residua.config.dataset.get_dataset("cifar10").classes
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(
            residua.from_pretrained(tmp_path / "model")(images), third_party_net(images)
        )


def test_preprocessing_and_licence_are_stored_with_the_weights(capsys, akamaster_file, tmp_path):
    arguments = [
        akamaster_file[0],
        "--model",
        "cifar-resnet8",
        *CIFAR10_OPTIONS,
        "--out",
        tmp_path / "m",
        "--license",
        "bsd-2-clause",
    ]
    code, _, err = run_convert(capsys, *arguments, "--resize", "20")
    assert (code, err) == (
        2,
        "residua: resize=20 is too small for a center crop of 32 x 32 pixels: give at least 32",
    )
    assert run_convert(capsys, *arguments, "--resize", "36", "--interpolation", "bicubic")[0] == 0
    config = read_model_config(tmp_path / "m")
    assert (config.resize, config.interpolation, config.license) == (36, "bicubic", "bsd-2-clause")
    assert 'license: "bsd-2-clause"' in (tmp_path / "m" / "README.md").read_text()


def test_convert_json_has_the_promised_keys(capsys, tmp_path):
    theirs = ThirdPartyCifarResNet(1, "A", 2).state_dict() | {"n_averaged": torch.tensor(1)}
    torch.save(theirs, tmp_path / "x.pth")
    arguments = [
        "--model",
        "cifar-resnet8",
        "--classes",
        "cat,dog",
        "--mean=-0.5,.4,0",
        "--std",
        "1",
        "1",
        "1",
        "--out",
        tmp_path / "m",
    ]
    code, out, err = run_convert(capsys, tmp_path / "x.pth", *arguments, "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert list(facts) == ["folder", "renamed", "missing", "unexpected", "parameters"]
    assert facts["folder"] == str(tmp_path / "m")
    assert facts["renamed"]["layer3.0.conv2.weight"] == "stages.stage3.0.branch.3.weight"
    assert (facts["missing"], facts["unexpected"]) == ([], ["n_averaged"])
    assert facts["parameters"] == sum(
        p.numel() for p in residua.from_pretrained(tmp_path / "m").parameters()
    )
    config = read_model_config(tmp_path / "m")
    assert (config.classes, config.mean) == (("cat", "dog"), (-0.5, 0.4, 0.0))


def test_the_network_is_recognised_without_model(capsys, akamaster_file, tmp_path):
    code, out, err = run_convert(
        capsys, akamaster_file[0], *CIFAR10_OPTIONS, "--out", tmp_path / "model"
    )
    assert (code, err) == (
        0,
        "residua: recognised as cifar-resnet8 for 10 classes; weights show neither strides nor "
        "pooling, so those of this network are assumed",
    )
    assert out.startswith(f"{tmp_path / 'model'}: cifar-resnet8, 10 classes")


def save_with_appended_zeros(path):
    """Save a CIFAR net under names that do not tell on which side option A adds zeros."""
    asked = residua.network("cifar-resnet8,shortcut=pad-last")
    net = randomize_weights(residua.build(asked))
    torch.save(convert_to_project(net.state_dict(), asked, "torchvision"), path)
    return net


def test_the_side_of_the_zeros_of_option_a_is_asked_for(capsys, tmp_path):
    net = save_with_appended_zeros(tmp_path / "x.pth")
    code, out, err = run_convert(
        capsys, tmp_path / "x.pth", *CIFAR10_OPTIONS, "--out", tmp_path / "m"
    )
    assert (code, out) == (2, "")
    assert err == (
        "residua: the file cannot tell where option A adds its zero channels: give --model "
        "cifar-resnet8,shortcut=pad-last (after the others, as in most code) or "
        "cifar-resnet8,shortcut=pad (half before and half after, as in akamaster's code), or "
        "--check DATA, which evaluates both"
    )
    assert not (tmp_path / "m").exists()
    chosen = ["--model", "cifar-resnet8,shortcut=pad-last"]
    options = [*CIFAR10_OPTIONS, "--out", tmp_path / "m"]
    assert run_convert(capsys, tmp_path / "x.pth", *chosen, *options)[::2] == (0, "")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(residua.from_pretrained(tmp_path / "m")(images), net(images))


def test_check_keeps_the_side_of_the_zeros_with_fewer_errors(capsys, tmp_path):
    net = save_with_appended_zeros(tmp_path / "x.pth")
    for i, pixels in enumerate(torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8)):
        with torch.inference_mode():
            label = net((pixels / 255).permute(2, 0, 1)[None]).argmax().item()
        folder = tmp_path / "photos" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    classes = [f"class{i}" for i in range(10)]
    code, _, err = run_convert(
        capsys,
        *(tmp_path / "x.pth", "--model", "cifar-resnet8", "--check", tmp_path / "photos"),
        *("--classes", *classes, "--mean", "0", "0", "0", "--std", "1", "1", "1"),
        *("--out", tmp_path / "m"),
    )
    assert code == 0
    assert err.startswith(f"residua: data {tmp_path / 'photos'}: 40 images in ")
    assert re.fullmatch(
        rf"residua: on {tmp_path / 'photos'}, cifar-resnet8 has [1-9]\d* of 40 images wrong, "
        r"cifar-resnet8,shortcut=pad-last has 0 of 40 images wrong; "
        r"cifar-resnet8,shortcut=pad-last is kept",
        err.splitlines()[-1],
    )
    assert read_model_config(tmp_path / "m").network.unit.shortcut == "pad-last"


def test_check_of_images_that_both_networks_know_goes_by_the_loss(capsys, tmp_path):
    nets = [save_with_appended_zeros(tmp_path / "x.pth")]
    nets.append(residua.build(residua.network("cifar-resnet8,shortcut=pad")).eval())
    nets[1].load_state_dict(nets[0].state_dict())
    pixels = torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        scores = torch.stack([net((pixels / 255).permute(0, 3, 1, 2)) for net in nets])
    margin = (scores.amax(-1) - scores[..., 3]).max() + 0.1  # so that both always say class 3
    scores[..., 3] += margin
    weights = torch.load(tmp_path / "x.pth")
    weights["fc.bias"][3] += margin
    torch.save(weights, tmp_path / "x.pth")
    (tmp_path / "photos" / "class0").mkdir(parents=True)
    (tmp_path / "photos" / "class3").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image.numpy()).save(tmp_path / "photos" / "class3" / f"{i}.png")
    losses = [F.cross_entropy(each, torch.full((20,), 3)).item() for each in scores]
    best = ["cifar-resnet8,shortcut=pad-last", "cifar-resnet8"][losses[0] > losses[1]]
    code, _, err = check_padding(capsys, tmp_path)
    assert code == 0
    assert f"; {best} is kept, for its lower loss ({min(losses):.4f}; " in err
    assert err.endswith(f" {max(losses):.4f})")


def test_check_refuses_images_that_cannot_tell_two_networks_apart(capsys, tmp_path):
    save_with_appended_zeros(tmp_path / "x.pth")
    weights = torch.load(tmp_path / "x.pth")
    weights |= {name: 0 * weights[name] for name in ("fc.weight", "fc.bias")}
    torch.save(weights, tmp_path / "x.pth")
    for label in range(2):
        folder = tmp_path / "photos" / f"class{label}"
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32), (80 * label, 0, 0)).save(folder / "a.png")
    code, _, err = check_padding(capsys, tmp_path)
    assert code == 2
    assert err.splitlines()[-1].endswith(
        "cannot tell cifar-resnet8 and cifar-resnet8,shortcut=pad-last apart, with equal losses: "
        "name one of them with --model, or give other images to --check"
    )
    assert not (tmp_path / "m").exists()


def check_padding(capsys, tmp_path):
    return run_convert(
        capsys,
        *(tmp_path / "x.pth", "--model", "cifar-resnet8", "--check", tmp_path / "photos"),
        *("--classes", *(f"class{i}" for i in range(10))),
        *("--mean", "0", "0", "0", "--std", "1", "1", "1", "--out", tmp_path / "m"),
    )


def test_skipped_tensors_are_printed(capsys, tmp_path):
    torch.save(
        ThirdPartyCifarResNet(1, "A").state_dict() | {"n_averaged": torch.tensor(1)},
        tmp_path / "x.pth",
    )
    _, out, _ = run_convert(
        capsys,
        tmp_path / "x.pth",
        "--model",
        "cifar-resnet8",
        *CIFAR10_OPTIONS,
        "--out",
        tmp_path / "m",
    )
    assert out.splitlines()[-1] == (
        "1 tensor skipped, because cifar-resnet8 has no such tensor: n_averaged"
    )


def test_classes_can_be_listed_in_a_file(capsys, tmp_path):
    torch.save(ThirdPartyCifarResNet(1, "A", 2).state_dict(), tmp_path / "x.pth")
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\ngoldfish, Carassius auratus\n")
    arguments = [
        "--classes",
        tmp_path / "names.txt",
        "--mean",
        *IMAGENET_MEAN,
        "--std",
        *IMAGENET_STD,
        "--out",
        tmp_path / "m",
    ]
    assert run_convert(capsys, tmp_path / "x.pth", "--model", "cifar-resnet8", *arguments)[0] == 0
    assert read_model_config(tmp_path / "m").classes == (
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
    )


def test_classes_of_a_grayscale_data_set_give_a_one_channel_network(capsys, tmp_path):
    net = residua.create_model("cifar-resnet8", input=(1, 28, 28))
    torch.save(
        convert_to_project(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth"
    )
    arguments = ["--classes", "mnist", "--mean", "0.13", "--std", "0.31", "--out", tmp_path / "m"]
    assert (
        run_convert(
            capsys, tmp_path / "x.pth", "--model", "cifar-resnet8,shortcut=pad", *arguments
        )[0]
        == 0
    )
    assert read_model_config(tmp_path / "m").network.input == (1, 28, 28)


def test_a_configuration_file_can_replace_the_options(capsys, akamaster_file, tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"source: {akamaster_file[0]}\nmodel: cifar-resnet8\nclasses: [0, 1, 2, 3, 4, 5, "
        "6, 7, 8, 9]\n"
        f"mean: [0.485, 0.456, 0.406]\nstd: [0.229, 0.224, 0.225]\nout: {tmp_path / 'm'}\n"
    )
    assert run_convert(capsys, "--config", tmp_path / "c.yaml")[0] == 0
    config = read_model_config(tmp_path / "m")
    assert (config.classes, config.mean) == (tuple("0123456789"), (0.485, 0.456, 0.406))


def test_a_configuration_file_accepts_single_values_without_a_list(capsys, tmp_path):
    net = residua.create_model("cifar-resnet8,shortcut=B", input=(1, 28, 28))
    torch.save(
        convert_to_project(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth"
    )
    yaml_text = (
        f"source: {tmp_path / 'x.pth'}\nmodel: cifar-resnet8,shortcut=B\nclasses: "
        "mnist\nmean: 0\nstd: 0.3\n"
    )
    (tmp_path / "c.yaml").write_text(f"{yaml_text}out: {tmp_path / 'm'}\n")
    assert run_convert(capsys, "--config", tmp_path / "c.yaml")[::2] == (0, "")
    assert (read_model_config(tmp_path / "m").mean, read_model_config(tmp_path / "m").std) == (
        (0.0,),
        (0.3,),
    )


def test_a_list_of_classes_can_be_longer_than_a_file_name_may_be(capsys, tmp_path):
    names = [f"class-{i}" for i in range(1000)]
    torch.save(ThirdPartyCifarResNet(1, "A", 1000).state_dict(), tmp_path / "x.pth")
    arguments = [
        "--classes",
        ",".join(names),
        "--mean",
        *IMAGENET_MEAN,
        "--std",
        *IMAGENET_STD,
        "--out",
        tmp_path / "m",
    ]
    assert run_convert(capsys, tmp_path / "x.pth", "--model", "cifar-resnet8", *arguments)[0] == 0
    assert read_model_config(tmp_path / "m").classes == tuple(names)


@pytest.mark.parametrize(
    ("classes", "numbers", "sentence"),
    [
        ("mnist", ".13", ""),
        ("a,b,c,d,e,f,g,h,i,j", ".1,.2,.3,.4", ""),
        (
            "a,b,c,d,e,f,g,h,i,j",
            ".1,.2,.3,.4,.5",
            (
                "--mean has 5 numbers, but fc-resnet10 takes 784 numbers, which the channels "
                "must divide"
            ),
        ),
        ("mnist", ".1,.2", "--mean has 2 numbers, but the images have 1 channel"),
    ],
)
def test_a_fully_connected_net_accepts_any_number_of_channels_that_divides_its_features(
    capsys, tmp_path, classes, numbers, sentence
):
    net = randomize_weights(residua.create_model("fc-resnet10"))
    torch.save(
        convert_to_project(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth"
    )
    arguments = ["--classes", classes, "--mean", numbers, "--std", numbers, "--out", tmp_path / "m"]
    code, _, err = run_convert(capsys, tmp_path / "x.pth", "--model", "fc-resnet10", *arguments)
    assert (code, err) == ((2, f"residua: {sentence}") if sentence else (0, ""))
    if not sentence:
        images = torch.randn(3, 1, 28, 28)
        assert torch.equal(residua.from_pretrained(tmp_path / "m")(images), net(images))


def test_an_assumed_bottleneck_stride_is_reported(capsys, tmp_path):
    name = "cifar-resnet11,block=bottleneck,shortcut=B"
    net = residua.create_model(name)
    torch.save(
        convert_to_project(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth"
    )
    code, _, err = run_convert(
        capsys,
        tmp_path / "x.pth",
        "--model",
        name,
        *CIFAR10_OPTIONS,
        "--out",
        tmp_path / "m",
        "--json",
    )
    name = name.replace("=B", "=project")
    assert (code, err) == (
        0,
        f"residua: read as {name},stride=3x3, because bottlenecks of other projects stride on the "
        f"3x3; if these do not, give --model {name},stride=1x1",
    )
    assert read_model_config(tmp_path / "m").network.unit.stride_at == 1
    code, _, err = run_convert(
        capsys,
        tmp_path / "x.pth",
        "--model",
        f"{name},stride=1x1",
        *CIFAR10_OPTIONS,
        "--out",
        tmp_path / "p",
        "--json",
    )
    assert (code, err) == (0, "")
    assert read_model_config(tmp_path / "p").network.unit.stride_at == 0
    code, _, err = run_convert(
        capsys, tmp_path / "p", "--to", "torchvision", "--out", tmp_path / "y.pth"
    )
    assert (code, err) == (
        0,
        "residua: no network of torchvision computes the same with these weights: "
        "networks of torchvision have 4 stages, "
        f"{name} has 3; bottlenecks of torchvision stride on the 3x3, those of {name} on the 1x1",
    )


@pytest.mark.parametrize("file", ["x.safetensors", "x.pth"])
def test_a_model_folder_is_exported_to_a_file_and_read_back(capsys, akamaster_file, tmp_path, file):
    path, third_party_net = akamaster_file
    run_convert(
        capsys, path, "--model", "cifar-resnet8", *CIFAR10_OPTIONS, "--out", tmp_path / "model"
    )
    code, out, err = run_convert(
        capsys, tmp_path / "model", "--to", "torchvision", "--out", tmp_path / file, "--json"
    )
    facts = json.loads(out)
    assert code == 0
    assert err.endswith(
        "computes the same with these weights: networks of torchvision have 4 stages, "
        "cifar-resnet8 has 3"
    )
    assert list(facts) == ["file", "renamed"]
    assert facts["renamed"]["head.1.bias"] == "fc.bias"
    written = read_state_dict(tmp_path / file)
    assert len(written) == 44
    for key, tensor in third_party_net.state_dict().items():
        assert torch.equal(written[key.replace("linear", "fc")], tensor)
    assert (
        run_convert(
            capsys,
            tmp_path / file,
            "--model",
            "cifar-resnet8,shortcut=pad",
            *CIFAR10_OPTIONS,
            "--out",
            tmp_path / "again",
        )[0]
        == 0
    )
    ours, again = (
        residua.from_pretrained(tmp_path / folder).state_dict() for folder in ("model", "again")
    )
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_the_last_network_of_a_run_is_exported(capsys, tmp_path):
    assert (
        main(
            [
                "train",
                "digits",
                "--model",
                "cifar-resnet8",
                "--steps",
                "2",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    capsys.readouterr()
    code, out, _ = run_convert(
        capsys, tmp_path / "run", "--to", "huggingface", "--out", tmp_path / "x.safetensors"
    )
    assert code == 0
    assert out.startswith(
        f"{tmp_path / 'x.safetensors'}: 44 tensors renamed: stem.0.weight -> resnet.embedder"
    )


@pytest.mark.slow
def test_akamasters_resnet20_makes_827_errors_on_the_cifar10_test_images(
    capsys, real_data_folder, tmp_path
):
    weights = real_data_folder / "peer-weights" / "resnet20-12fca82f.th"
    if not weights.exists():
        pytest.skip(f"there is no {weights}")
    code, out, err = run_convert(
        capsys,
        weights,
        "--model",
        "cifar-resnet20",
        *CIFAR10_OPTIONS,
        "--out",
        tmp_path / "m",
        "--json",
    )
    assert (code, err) == (0, "")
    assert len(json.loads(out)["renamed"]) == 97
    assert (
        main(
            [
                "evaluate",
                str(tmp_path / "m"),
                "cifar10",
                "--data-dir",
                str(real_data_folder),
                "--json",
            ]
        )
        == 0
    )
    score = json.loads(capsys.readouterr().out)
    assert (score["count"], score["wrong"]) == (10_000, 827)


def test_class_names_are_read_without_a_byte_order_mark(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\ndog\r\n")
    words = [str(tmp_path / "classes.txt")]
    _, classes = resolve_network_and_classes(residua.network("cifar-resnet8"), words)
    assert classes == ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "dog")
