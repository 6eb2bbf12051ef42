"""What users of timm write works on residua's networks, with the same shapes and numbers."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from residua.config.model import ModelConfig
from residua.errors import RecordError, UsageError
from residua.net.create import create_model
from residua.net.model_folder import from_pretrained, save_pretrained
from residua.net.stage_features import StageFeatures
from residua.net.surgery import append_identity_units, remove_shortcuts, remove_units
from tests.third_party import randomize_weights, timm

SMALL = {"input": (3, 16, 16)}
KINDS = {
    "classifier": {},
    "features": {"num_classes": 0},
    "stage features": {"features_only": True},
}


@pytest.fixture(scope="module")
def timm_resnet18():
    return randomize_weights(timm.create_model("resnet18"))


@pytest.fixture(scope="module")
def timm_file(timm_resnet18, tmp_path_factory):
    """A file with the weights of `timm_resnet18`."""
    path = tmp_path_factory.mktemp("timm") / "resnet18.pth"
    torch.save(timm_resnet18.state_dict(), path)
    return path


@pytest.fixture(params=KINDS)
def small_net(request):
    return randomize_weights(create_model("cifar-preresnet8", **SMALL, **KINDS[request.param]))


def make_images(count=2, channels=3, side=64):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def assert_nearly_equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def make_config(net):
    names = tuple(map(str, range(net.plan.network.classes)))
    mean = (0.5,) * net.plan.network.input[0]
    return ModelConfig(network=net.plan.network, classes=names, mean=mean, std=mean)


def count_parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


@torch.no_grad()
def test_the_parts_of_forward_compute_the_same_as_timms(timm_resnet18, timm_file):
    ours, theirs = create_model("resnet18", pretrained=timm_file).eval(), timm_resnet18
    images = make_images()
    feature_maps = theirs.forward_features(images)
    assert_nearly_equal(ours.forward_features(images), feature_maps)
    for options in ({}, {"pre_logits": True}):
        ours_head, theirs_head = (
            net.forward_head(feature_maps, **options) for net in (ours, theirs)
        )
        assert_nearly_equal(ours_head, theirs_head)
    assert (ours.num_classes, ours.num_features) == (theirs.num_classes, theirs.num_features)
    assert torch.equal(ours.get_classifier().weight, theirs.get_classifier().weight)


@torch.no_grad()
def test_a_network_with_num_classes_0_returns_timms_pooled_features(timm_file):
    ours = create_model("resnet18", num_classes=0, pretrained=timm_file).eval()
    theirs = timm.create_model("resnet18", num_classes=0).eval()
    theirs.load_state_dict(torch.load(timm_file), strict=False)
    assert_nearly_equal(ours(make_images()), theirs(make_images()))
    assert (ours.num_classes, ours.num_features) == (theirs.num_classes, theirs.num_features)
    assert type(ours.get_classifier()) is type(theirs.get_classifier()) is nn.Identity
    assert count_parameters(ours) == count_parameters(theirs) == ours.plan.parameters


@torch.no_grad()
@pytest.mark.parametrize("out_indices", [None, (1, 2, 3, 4), (0, 3), (-1,)])
def test_features_only_returns_timms_stage_outputs(timm_file, out_indices):
    options = {"features_only": True} | ({"out_indices": out_indices} if out_indices else {})
    ours = create_model("resnet18", pretrained=timm_file, **options).eval()
    theirs = timm.create_model("resnet18", **options).eval()
    theirs.load_state_dict(torch.load(timm_file), strict=False)
    images = make_images(side=65)
    ours_maps, theirs_maps = ours(images), theirs(images)
    assert_nearly_equal(ours_maps, theirs_maps)
    info = ours.feature_info
    assert info.channels() == theirs.feature_info.channels() == [x.shape[1] for x in ours_maps]
    assert info.reduction() == theirs.feature_info.reduction()
    assert [ours.get_submodule(name) for name in info.module_name()]
    assert count_parameters(ours) == count_parameters(theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("resnet50", "resnet50"), ("preresnet50", "resnetv2_50")]
)
def test_feature_info_says_timms_channels_and_reductions(ours, theirs):
    with torch.device("meta"):
        their_info = timm.create_model(theirs, features_only=True).feature_info
    info = create_model(ours, features_only=True).feature_info
    assert info.channels() == their_info.channels()
    assert info.reduction() == their_info.reduction()


def test_the_stages_of_a_cifar_net_are_reduced_1_2_and_4_times():
    net = create_model("cifar-resnet8", features_only=True, out_indices=(3, 1, 0))
    assert net.feature_info.reduction() == [4, 1, 1]
    assert net.feature_info.channels() == [64, 16, 16]
    sides = [feature_map.shape[-1] for feature_map in net(make_images(side=32))]
    assert sides == [8, 32, 32]


def test_stages_after_the_last_selected_one_are_left_out():
    net = create_model("cifar-resnet8", features_only=True, out_indices=(1,))
    assert list(net.stages) == ["stage1"]
    sum(feature_map.sum() for feature_map in net(make_images(side=32))).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_stage_features_have_the_tensor_names_of_the_network():
    net = create_model("resnet18")
    state = StageFeatures(net).state_dict()
    assert state.keys() == net.state_dict().keys() - {"head.1.weight", "head.1.bias"}
    assert state["stages.stage1.0.branch.0.weight"].data_ptr() == (
        net.stages["stage1"][0].branch[0].weight.data_ptr()
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["cifar-resnet8", "cifar-preresnet8", "cifar-resnet8,head=vlad"])
def test_reset_classifier_keeps_the_features_and_updates_the_plan(name):
    net = randomize_weights(create_model(name, **SMALL))
    images = make_images(side=16)
    features = net.compute_features(images)
    net.reset_classifier(0)
    assert torch.equal(net(images), features)
    assert features.shape == (2, net.num_features)
    assert net.plan.parameters == count_parameters(net)
    net.reset_classifier(0)
    net.reset_classifier(7)
    assert net(images).shape == (2, 7)
    assert torch.equal(net.compute_features(images), features)
    assert net.num_classes == net.plan.network.classes == 7
    assert net.plan.parameters == count_parameters(net)


def test_reset_classifier_gives_timms_shapes_device_dtype_and_mode():
    ours, theirs = create_model("resnet18").double().eval(), timm.create_model("resnet18").double()
    for net in (ours, theirs):
        net.reset_classifier(5)
    layer, other = ours.get_classifier(), theirs.get_classifier()
    assert (layer.weight.shape, layer.weight.dtype) == (other.weight.shape, other.weight.dtype)
    assert not layer.training
    first_weight = layer.weight.clone()
    ours.reset_classifier(5, seed=1)
    assert not torch.equal(ours.get_classifier().weight, first_weight)
    ours.reset_classifier(5)
    assert torch.equal(ours.get_classifier().weight, first_weight)


def test_a_fully_connected_net_resets_its_classifier():
    net = create_model("fc-resnet10", num_classes=0, input=(64,))
    assert net(torch.zeros(3, 64)).shape == (3, net.num_features)
    net.reset_classifier(4)
    assert net(torch.zeros(3, 64)).shape == (3, 4)


def test_a_network_with_another_classifier_is_saved_and_loaded(tmp_path):
    net = randomize_weights(create_model("cifar-preresnet8", **SMALL))
    old_config = make_config(net)
    net.reset_classifier(3)
    with pytest.raises(UsageError, match="^the network has 3 classes, but its config has 10: give"):
        save_pretrained(net, old_config, tmp_path / "old")
    save_pretrained(net, make_config(net), tmp_path / "new")
    images = make_images(side=16)
    assert torch.equal(from_pretrained(tmp_path / "new")(images), net(images))
    features = create_model(
        "cifar-preresnet8", num_classes=0, pretrained=tmp_path / "new", **SMALL
    ).eval()
    assert torch.equal(features(images), net.compute_features(images))


def test_a_network_without_a_classifier_is_not_saved(tmp_path):
    net = create_model("cifar-resnet8", num_classes=0)
    message = "num_classes=0 cannot be a model folder, because it has no last layer: call reset_"
    with pytest.raises(UsageError, match=message):
        save_pretrained(net, make_config(net), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@torch.no_grad()
def test_surgery_on_a_network_without_a_classifier_gives_one_without():
    net = randomize_weights(create_model("cifar-resnet8", num_classes=0, **SMALL))
    deeper = append_identity_units(net, 1, 1)
    images = make_images(side=16)
    assert torch.equal(deeper(images), net(images))
    assert torch.equal(remove_units(deeper, ["stage1.unit2"])(images), net(images))
    assert remove_shortcuts(net)(images).shape == net(images).shape


@pytest.mark.parametrize(("in_chans", "name"), [(1, "resnet18"), (5, "cifar-resnet8")])
def test_in_chans_sets_the_channels_of_the_images(in_chans, name):
    net = create_model(name, in_chans=in_chans)
    default = create_model(name).plan.network
    assert net.plan.network == replace(default, input=(in_chans, *default.input[1:]))
    assert net.eval()(make_images(channels=in_chans)).shape == (2, default.classes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_chans": 1, "input": (1, 8, 8)}, "in_chans=1 and input=(1, 8, 8) both set the cha"),
        ({"in_chans": 0}, "input (0, 32, 32) is invalid: give (channels, height, width)"),
        ({"name": "fc-resnet10", "in_chans": 1}, "give input=(channels, height, width) instead of"),
        ({"num_classes": -1}, "-1 classes are invalid"),
        ({"num_classes": 5, "features_only": True}, "features_only=True has no head for num_cl"),
        ({"out_indices": (1,)}, "out_indices applies only with features_only=True: add that"),
        ({"features_only": True, "out_indices": (4,)}, "out_indices=(4,) is invalid: give on"),
        ({"features_only": True, "out_indices": ()}, "out_indices=() is invalid: give one or mo"),
        ({"pretrained": True}, "no published weights of cifar-resnet8 are known: give a weight"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(UsageError) as error:
        create_model(**{"name": "cifar-resnet8", **options})
    assert message in str(error.value)


def test_pretrained_false_creates_a_new_network_and_an_empty_name_does_not():
    new = create_model("cifar-resnet8", pretrained=False)
    assert torch.equal(new.head[1].weight, create_model("cifar-resnet8").head[1].weight)
    with pytest.raises(RecordError):
        create_model("cifar-resnet8", pretrained="")


@torch.no_grad()
def test_torch_compile_captures_the_whole_network(small_net):
    images = make_images(side=16)
    compiled = torch.compile(small_net, backend="aot_eager", fullgraph=True)
    assert_nearly_equal(compiled(images), small_net(images))


@torch.no_grad()
def test_torch_export_gives_the_same_outputs_for_any_batch_size(small_net):
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(small_net, (make_images(side=16),), dynamic_shapes=(batch,))
    images = make_images(5, side=16)
    assert_nearly_equal(list(program.module()(images)), list(small_net(images)))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torch_jit_trace_gives_the_same_outputs(small_net):
    # torch warns of a list of outputs, also of timm's, unless strict=False
    is_strict = not isinstance(small_net, StageFeatures)
    traced = torch.jit.trace(small_net, make_images(side=16), strict=is_strict)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    images = make_images(5, side=16)
    assert_nearly_equal(torch.jit.load(file)(images), small_net(images))


@torch.no_grad()
@pytest.mark.parametrize("copy_net", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent_and_give_the_same_outputs(small_net, copy_net):
    images = make_images(side=16)
    outputs = list(small_net(images))
    other = copy_net(small_net)
    assert all(map(torch.equal, other(images), outputs))
    for parameter in other.parameters():
        parameter.zero_()
    assert all(map(torch.equal, small_net(images), outputs))


@torch.no_grad()
def test_channels_last_is_kept_and_gives_the_same_outputs(small_net):
    images = make_images(side=16)
    outputs = list(small_net(images))
    small_net.to(memory_format=torch.channels_last)
    for ours, output in zip(
        small_net(images.to(memory_format=torch.channels_last)), outputs, strict=True
    ):
        assert_nearly_equal(ours, output)
        if ours.dim() == 4:
            assert ours.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"num_classes": 0}])
def test_autocast_gives_outputs_of_timms_dtype(options):
    ours, theirs = create_model("resnet18", **options), timm.create_model("resnet18", **options)
    with torch.autocast("cpu", torch.bfloat16):
        ours_output, theirs_output = (net.eval()(make_images(side=32)) for net in (ours, theirs))
    assert ours_output.dtype == theirs_output.dtype
    assert torch.isfinite(ours_output).all()


@pytest.fixture
def gloo_of_one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("gloo_of_one_process")
def test_distributed_data_parallel_computes_the_same_gradients(small_net):
    images, other = make_images(side=16), copy.deepcopy(small_net)
    for net in (small_net, DistributedDataParallel(other)):
        sum(output.square().mean() for output in net.train()(images)).backward()
    for ours, theirs in zip(small_net.parameters(), other.parameters(), strict=True):
        assert_nearly_equal(ours.grad, theirs.grad)
