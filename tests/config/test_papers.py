"""Parameter counts, to the last one, as derived from the papers' tables (and as other
implementations have them).
"""

import itertools
import re

import pytest

from residua.config.families import IMAGENET_STAGE_UNITS
from residua.config.orders import ORDERS
from residua.config.paper_results import PAPER_RESULTS
from residua.config.papers import (
    LISTED_DEPTHS,
    SHORTCUT_ABLATIONS,
    compose_network_name,
    list_models,
    network,
    split_network_name,
)
from residua.config.plan import plan
from residua.errors import UsageError

PARAMETERS = {
    "cifar-resnet20": 269_722,
    "cifar-resnet32": 464_154,
    "cifar-resnet44": 658_586,
    "cifar-resnet56": 853_018,
    "cifar-resnet110": 1_727_962,
    "cifar-resnet1202": 19_421_274,
    "cifar-plain56": 853_018,
    "cifar-resnet56,shortcut=B": 855_770,
    "cifar-resnet110,shortcut=B": 1_730_714,
    "cifar-resnet1202,shortcut=B": 19_424_026,
    "cifar-preresnet164": 1_703_258,
    "cifar-preresnet1001": 10_327_706,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "cifar-wrn28-10": 36_479_194,
    "cifar-wrn40-4": 8_949_210,
    "cifar-wrn16-8": 10_961_370,
    "wide-resnet50-2": 68_883_240,
    "wide-resnet101-2": 126_886_696,
    "preresnet50": 25_549_352,
}
PAPER_MULTIPLY_ADDS = {
    "resnet18": 1.8e9,
    "resnet34": 3.6e9,
    "resnet50": 3.8e9,
    "resnet101": 7.6e9,
    "resnet152": 11.3e9,
}
ALL_LAYER_MULTIPLY_ADDS = {  # counts that include BN, ReLU and pooling
    "resnet18": 1820.4e6,
    "resnet34": 3672.7e6,
    "resnet50": 3877.95e6,
    "resnet101": 7598e6,
    "resnet152": 11321.9e6,
    "cifar-resnet56": 127e6,
    "cifar-resnet110": 256e6,
    "cifar-preresnet1001": 1536e6,
    "cifar-resnet1202": 2857e6,
}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameter_counts_match_the_published_ones_exactly(name, parameters):
    assert plan(network(name)).parameters == parameters


@pytest.mark.parametrize(("name", "paper"), PAPER_MULTIPLY_ADDS.items())
def test_multiply_adds_match_table_1_to_two_digits(name, paper):
    assert plan(network(name)).multiply_adds == pytest.approx(paper, rel=0.02)


@pytest.mark.parametrize(("name", "others"), ALL_LAYER_MULTIPLY_ADDS.items())
def test_multiply_adds_of_weight_layers_are_just_below_counts_of_all_layers(name, others):
    assert 0.965 * others < plan(network(name)).multiply_adds < others


def test_multiply_adds_of_resnet20_match_a_count_by_hand():
    stem, first, second, third = 27 * 16 * 1024, 144 * 16 * 1024, 288 * 32 * 256, 576 * 64 * 64
    strided = 144 * 32 * 256 + 288 * 64 * 64
    assert (
        plan(network("cifar-resnet20")).multiply_adds
        == stem + 6 * first + 5 * second + 5 * third + strided + 640
    )


PYTORCHCV_ORDERS = ("full-preact-bn-stem", "full-preact-no-tail")  # not of the papers


@pytest.mark.parametrize(
    "order",
    [n for n in ORDERS if "bn" in ORDERS[n].each and n not in PYTORCHCV_ORDERS],
)
def test_all_five_orders_of_table_2_have_the_same_number_of_parameters(order):
    assert plan(network("cifar-resnet110", order=order)).parameters == 1_727_962


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_plain_twins_have_as_many_parameters_as_option_a(depth):
    assert (
        plan(network(f"cifar-plain{depth}")).parameters
        == plan(network(f"cifar-resnet{depth}")).parameters
    )


def test_each_increment_of_n_adds_the_same_number_of_parameters():
    counts = [plan(network(f"cifar-resnet{6 * n + 2}")).parameters for n in range(1, 12)]
    assert {b - a for a, b in itertools.pairwise(counts)} == {97_216}


@pytest.mark.parametrize("name", ["wide_resnet50_02", "resnet050d", "resnext50_32x04d"])
def test_a_network_has_no_second_name_with_a_leading_zero(name):
    with pytest.raises(UsageError):
        network(name)


def test_the_block_of_a_network_of_timm_can_be_changed():
    net = network("resnet26d,block=basic")
    assert net.unit.kernels == (3, 3)
    assert net.stem == network("resnet26d").stem
    assert net.unit.shortcut == "pool-project"


@pytest.mark.parametrize("name", list_models())
def test_a_network_name_gives_its_depth(name):
    counted = plan(network(name)).depth + 2 * name.startswith(
        "cifar-wrn"
    )  # whose authors count two projections
    counted -= len(network(name).stem.inner_widths)  # counted as one in the name
    assert re.search(r"\d+", name.replace("resnetv2_", ""))[0] == str(counted)


def test_every_published_figure_belongs_to_a_listed_network():
    assert set(PAPER_RESULTS) <= set(list_models())
    assert list_models("cifar-plain*") == [
        f"cifar-plain{depth}" for depth in LISTED_DEPTHS["cifar-plain"]
    ]
    assert {f"resnet{depth}" for depth in IMAGENET_STAGE_UNITS} <= set(list_models("resnet*"))


@pytest.mark.parametrize(
    ("depth", "block"),
    [
        (20, (3, 3)),
        (56, (3, 3)),
        (110, (3, 3)),
        (164, (1, 3, 1)),
        (1001, (1, 3, 1)),
        (1202, (3, 3)),
    ],
)
def test_preactivation_nets_have_the_blocks_of_the_paper(depth, block):
    assert network(f"cifar-preresnet{depth}").unit.kernels == block


def test_parts_are_changed_by_keyword_or_in_the_name():
    by_keyword = network("cifar-resnet56", block="basic", shortcut="B", order="full-preact")
    assert by_keyword == network("cifar-resnet56,block=basic,shortcut=B,order=full-preact")
    assert by_keyword == network(by_keyword.name)
    assert by_keyword.unit.shortcut == "project"


def test_any_valid_depth_works_and_the_shape_follows_the_data():
    digits = network("cifar-resnet26", input=(1, 8, 8), classes=7)
    assert plan(digits).units[-1].output_shape.size == (2, 2)
    assert plan(digits).depth == 26
    assert digits.classes == 7


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "cifar-resnet57",
            "cifar-resnet networks cannot have 57 layers: depth must be 6n+2, e.g. 56 or 62",
        ),
        (
            "cifar-resnet3",
            "cifar-resnet networks cannot have 3 layers: depth must be 6n+2, e.g. 8 or 14",
        ),
        (
            "cifar-preresnet165",
            "cifar-preresnet networks cannot have 165 layers: depth must be 6n+2, or 9n+2 "
            "for bottlenecks, "
            "e.g. 164 or 170",
        ),
        (
            "cifar-resnet110,block=bottleneck,shortcut=B,order=orignal",
            "there is no order 'orignal': did you mean 'original'?",
        ),
        (
            "cifar-resnet24,block=bottleneck",
            "cifar-resnet networks cannot have 24 layers: depth must be 9n+2, e.g. 20 or 29",
        ),
        (
            "resnet51",
            "ImageNet networks cannot have 51 layers: depth must be one of 10, 12, 14, 16, "
            "18, 26, 34, 38, 50, 101, 152, 200, 269",
        ),
        (
            "resnet50,block=basic",
            "resnet50 has bottleneck blocks, not basic: leave block out, or give units= as well, "
            "as in resnet50,block=basic,units=6-6-6-6",
        ),
        ("cifar-resnt20", "there is no network 'cifar-resnt20': did you mean 'cifar-resnet20'?"),
        ("cifar-resnet20,shortcut=padd", "there is no shortcut 'padd': did you mean 'pad'?"),
        ("cifar-resnet20,block=basics", "there is no block 'basics': did you mean 'basic'?"),
        (
            "cifar-resnet20,widht=3",
            "'widht=3' is not a valid part of a network's name: write KEY=VALUE, as in "
            "cifar-resnet20,shortcut=project, where KEY is one of block, shortcut, order, join, "
            "start, stride, attention, fork, width, groups, units, head, stem, widths",
        ),
    ],
)
def test_an_invalid_name_is_refused_with_the_nearest_valid_one(name, sentence):
    with pytest.raises(UsageError) as refused:
        network(name)
    assert str(refused.value) == sentence


def test_shortcut_variants_of_table_1_add_the_parameters_of_their_extra_layers():
    from dataclasses import replace

    base = network("cifar-resnet110")
    counts = {
        row: plan(replace(base, unit=unit)).parameters - 1_727_962
        for row, unit in SHORTCUT_ABLATIONS.items()
    }
    widths = [(16, 16)] * 18 + [(16, 32)] + [(32, 32)] * 17 + [(32, 64)] + [(64, 64)] * 17
    gates = sum(a * b + b for a, b in widths)
    projections = sum(a * b + 2 * b for a, b in widths)
    assert counts == {
        "original": 0,
        "plain": 0,
        "constant 0.5, 1": 0,
        "constant 0.5, 0.5": 0,
        "exclusive gating": gates,
        "shortcut-only gating": gates,
        "1x1 conv shortcut": projections,
        "dropout shortcut": 0,
    }


def test_the_lecture_net_matches_a_count_by_hand():
    """conv conv conv pool, conv conv conv conv pool, conv conv conv conv, fully connected (S17); a
    twin without W_s.
    """
    planned = plan(network("lecture-resnet12"))
    widths = [(3, 32), *[(32, 32)] * 2, (32, 64), *[(64, 64)] * 3, (64, 128), *[(128, 128)] * 3]
    plain = sum(9 * a * b + b for a, b in widths) + 128 * 10 + 10
    assert plan(network("lecture-plain12")).parameters == plain
    assert planned.parameters == plain + 32 * 64 + 64 * 128
    assert len(planned.units) == 5
    assert [unit.output_shape.size for unit in planned.units] == [
        (32, 32),
        (16, 16),
        (16, 16),
        (8, 8),
        (8, 8),
    ]
    assert "".join(
        layer.op[0] for layer in planned.stem + sum((u.lead + u.branch for u in planned.units), ())
    ) == ("wrwrwmwrwwrwmwrwwrw")


def test_a_fully_connected_residual_net_matches_a_count_by_hand():
    layers = [(64, 128), *[(128, 128)] * 4, (128, 256), *[(256, 256)] * 3, (256, 10)]
    counted = sum(a * b + b for a, b in layers)
    assert plan(network("fc-resnet10,shortcut=pad", input=(1, 8, 8))).parameters == counted
    assert plan(network("fc-resnet10", input=(1, 8, 8))).parameters == counted + 256 * 128
    assert plan(network("fc-plain10", input=(64,))).parameters == counted


def test_each_highway_gate_is_as_large_as_its_layer():
    plain, highway = (
        plan(network(f"cifar-{family}20,block=single")) for family in ("plain", "highway")
    )
    widths = [(16, 16)] * 6 + [(16, 32)] + [(32, 32)] * 5 + [(32, 64)] + [(64, 64)] * 5
    layers = sum(9 * a * b + b for a, b in widths)
    stem, head = 9 * 3 * 16 + 16, 650
    assert highway.parameters == stem + 2 * layers + head
    assert plain.depth == highway.depth == 20


def test_network_names_can_contain_part_changes():
    assert network("resnet50,stride=1x1") == network("resnet50")
    assert network("resnet50,stride=3x3").unit.stride_at == 1
    assert network("cifar-resnet26,units=3-6-3").stages[1].units == 6
    assert network("cifar-resnet20,units=3-3-3") == network("cifar-resnet20")
    assert plan(network("cifar-resnet20,head=vlad")).head[-1].input_shape.channels == 64 * 16
    assert network("cifar-resnet20,start=identity").unit.start == "identity"
    assert (
        network("cifar-resnet110,join=shortcut-gate").unit
        == SHORTCUT_ABLATIONS["shortcut-only gating"]
    )
    assert network("cifar-resnet29,block=bottleneck,width=2").unit.squeeze == 2
    assert network("cifar-resnet20,width=4").stages[0].width == 64
    small = plan(network("resnet18,stem=3x3", input=(3, 32, 32), classes=10))
    assert small.parameters == 11_173_962  # as many as others' "ResNet-18 for CIFAR" have
    assert small.units[-1].output_shape.size == (4, 4)


CONTRADICTORY_NAMES = {
    "cifar-wrn28-10,width=2": "cifar-wrn28-10 already has a width factor: leave width=2 out",
    "cifar-resnet20,width=1000000": (
        "width=1000000 is invalid: give a whole number from 1 to 9,999"
    ),
    "cifar-plain20,order=skipinit": (
        "a plain net whose branches are scaled by 0 always outputs 0: add a shortcut, or use "
        "another order"
    ),
    "fc-resnet8,block=bottleneck,stride=3x3": (
        "a fully connected net has no stride: leave stride out"
    ),
    "cifar-resnet20,block=basic,block=bottleneck": (
        "block is given twice in a network's name, as basic and as bottleneck: remove one"
    ),
    "cifar-resnet9999998": "9,999,998 layers are too many: give at most 20,000",
    "cifar-resnet9999999998": "999,999,999... layers are too many: give at most 20,000",
    "cifar-resnet20,units=3-6-3": (
        "units=3-6-3 makes 26 layers, not 20: choose other units, or another depth"
    ),
    "cifar-resnet20,units=3-6": (
        "units=3-6 is invalid: cifar-resnet has 3 stages, so give 3 numbers"
    ),
    "cifar-resnet20,units=3-x-3": "units=x is invalid: give a whole number from 1 to 9,999",
    "cifar-resnet20,width=0": "width=0 is invalid: give a whole number from 1 to 9,999",
    "cifar-resnet20,join=gate": (
        "there is no join 'gate': choose from add, constant, exclusive-gate, shortcut-gate, "
        "dropout, "
        "drop-path"
    ),
    "cifar-resnet20,stride=3x3": (
        "stride=1x1 and stride=3x3 apply only to bottlenecks: leave stride out, or add "
        "block=bottleneck"
    ),
    "cifar-plain20,join=exclusive-gate": (
        "the join Gate needs a shortcut, and a plain net has none: add a shortcut, or use "
        "join=Add()"
    ),
    "cifar-plain20,start=identity": (
        "a plain net whose branches start at 0 always outputs 0: add a shortcut, or use start='he'"
    ),
    "cifar-resnet20,order=skipinit,start=identity": (
        "the branch ends in a scale of 0, so it already starts at 0: use start='he'"
    ),
    "cifar-resnet20,order=relu-before-add,start=identity": (
        "the branch ends in a ReLU ('weight bn relu'), which passes no gradient if the branch "
        "starts at 0: use start='he'"
    ),
    "cifar-resnet20,width=0.3": (
        "width=0.3 makes layers of 4.8 channels: choose a factor that keeps whole numbers, e.g. "
        "0.25, 0.5, 0.75 or 2"
    ),
    "cifar-resnet20,width=0.0": "width=0.0 is invalid: give a factor above 0, e.g. 0.5 or 2",
    "resnet50,width=1.3": (
        "width=1.3 makes layers of 83.2 channels: choose a factor that keeps whole numbers, e.g. "
        "0.25, 0.5, 0.75 or 2"
    ),
    "wide-resnet50-9000": (
        "inner layers of 2,250 times the width are too wide: choose a smaller width factor, or "
        "fewer or narrower groups"
    ),
    "resnet26d,block=single": (
        "resnet26 has bottleneck or basic blocks, not single: leave block out, or give units= as "
        "well, as in resnet50,block=basic,units=6-6-6-6"
    ),
    "resnet50,groups=32": (
        "groups=32 is invalid: give the number and the width of the groups, as in 32x4d"
    ),
    "resnet18,groups=32x4d": (
        "32 groups are invalid for units of 2 weight layers: only layers between two others are "
        "grouped, as the 3x3 of block=bottleneck"
    ),
    "resnet50,groups=32x4d,width=2": (
        "groups= and width= both set the inner widths: leave one of them out"
    ),
    "fc-resnet10,attention=se": (
        "a fully connected net has no image positions whose mean an attention could take: leave "
        "attention out"
    ),
    "cifar-resnet20,stem=7x7": (
        "stem applies only to ImageNet networks, as in resnet18,stem=3x3: leave it out"
    ),
    "cifar-resnet20,head=sum": "there is no head 'sum': choose from max, scaled-max, mean, vlad",
    "cifar-wrn29-10": "cifar-wrn networks cannot have 29 layers: depth must be 6n+4, e.g. 28 or 34",
    "cifar-wrn28": "there is no network 'cifar-wrn28': did you mean 'cifar-wrn28-10'?",
    "fc-resnet10,head=vlad": (
        "a fully connected net has no image positions, so its head cannot pool them: use "
        "head=Head()"
    ),
    "lecture-resnet14": (
        "units=1-2-2 makes 12 layers, not 14: choose other units, or another depth"
    ),
}


@pytest.mark.parametrize(("name", "sentence"), CONTRADICTORY_NAMES.items())
def test_contradictory_parts_in_a_name_are_refused(name, sentence):
    with pytest.raises(UsageError) as refused:
        network(name)
    assert str(refused.value) == sentence


FAMILY_AND_DEPTH = {
    "cifar-plain20": ("plain", 20),
    "cifar-resnet56,shortcut=project": ("resnet,shortcut=project", 56),
    "cifar-preresnet1001": ("preresnet", 1001),
    "cifar-resnet20,shortcut=project,order=original": (
        "resnet,shortcut=project,order=original",
        20,
    ),
    "cifar-wrn28-10": ("wrn-10", 28),
    "resnet18": ("imagenet resnet", 18),
    "wide-resnet50-2": ("wide-resnet-2", 50),
    "fc-resnet10": ("fc-resnet", 10),
}


@pytest.mark.parametrize(("name", "family"), FAMILY_AND_DEPTH.items())
def test_a_name_and_its_family_and_depth_determine_each_other(name, family):
    assert split_network_name(name) == family
    assert compose_network_name(*family) == name


def test_a_name_without_a_depth_is_refused():
    assert split_network_name("my-net-12") == ("my-net", 12)
    with pytest.raises(
        UsageError, match="'mine' lacks a family or a depth: write a name such as cifar-"
    ):
        split_network_name("mine")


def test_equal_networks_have_equal_names():
    assert network("cifar-preresnet164,block=bottleneck") == network("cifar-preresnet164")
    assert network("cifar-resnet20,block=basic") == network("cifar-resnet20")
    assert network("cifar-resnet56,order=full-preact,shortcut=B") == network(
        "cifar-resnet56,shortcut=project,order=full-preact"
    )
    assert network("cifar-resnet020,width=04") == network("cifar-resnet20,width=4")
    assert network("cifar-wrn28-010") == network("cifar-wrn28-10")
