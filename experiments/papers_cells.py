"""The cells of the papers' tables: network, recipe, and what the paper prints (for papers.py).

Errors are test errors on CIFAR-10 unless the cell names another data set.  Sources: He et al. 2015
(arXiv 1512.03385), He et al. 2016 (1603.05027, medians of five runs), Srivastava et al. 2015
(1507.06228), Huang et al. 2016 (1603.09382), Zagoruyko and Komodakis 2016 (1605.07146).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from residua.config.dataset import get_dataset
from residua.config.joins import Gate, Join, Scale
from residua.config.network import Network
from residua.config.papers import network
from residua.config.plan import plan

FAIL = "over 20 %"  # He et al. 2016, Table 1: the error of what it calls a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a paper's table, or a curve of a figure: one net, and the error that is printed.

    table       the paper and its table or figure
    row         the name of the row, in few words
    net         the name of the network; "vlad" for the classical baseline
    recipe      the recipe of the paper; "" for VLAD
    printed     the figure as printed, in percent; "" if the paper prints none
    paper       the figure to compare with, as a fraction: a mean or median if there is one
    paper_sd    the printed standard deviation over runs, as a fraction
    paper_parameters  number of parameters as printed, e.g. "0.27 M"
    note        how our net or recipe differs from the paper's
    join        the join of the units, if the name cannot say it
    batch_size  images per step, if not those of the recipe
    dataset     the data set
    """

    table: str
    row: str
    net: str
    recipe: str
    printed: str = ""
    paper: float | None = None
    paper_sd: float | None = None
    paper_parameters: str = ""
    note: str = ""
    join: Join | None = None
    batch_size: int = 0
    dataset: str = "cifar10"

    @property
    def net_name(self) -> str:
        """The net's name, with its join if the name cannot say it otherwise."""
        return name_net(self.net, self.join)

    def make_network(self) -> Network:
        """Make the network, for the images of the cell's data set."""
        dataset = get_dataset(self.dataset)
        return make_cell_network(self.net, self.join, dataset.input, len(dataset.classes))

    @property
    def layers(self) -> int:
        return plan_network(self.make_network()).depth if self.recipe else 0

    @property
    def parameters(self) -> int | None:
        """The exact number of parameters; None for VLAD."""
        return plan_network(self.make_network()).parameters if self.recipe else None


@cache
def make_cell_network(
    name: str, join: Join | None, shape: tuple[int, ...], classes: int
) -> Network:
    """Make a network by name, with another join if one is given."""
    net = network(name, input=shape, classes=classes)
    if join is None:
        return net
    return replace(net, name=name_net(net.name, join), unit=replace(net.unit, join=join))


plan_network = cache(plan)


def name_net(name: str, join: Join | None) -> str:
    """Name a net whose join may be one without a name of its own."""
    return f"{name},join={describe_join(join)}" if join else name


def describe_join(join: Join) -> str:
    """Name a join that has no name of its own: `scale 0.5 1`, `gate -7`."""
    if isinstance(join, Scale):
        return f"scale {join.shortcut:g} {join.branch:g}"
    assert isinstance(join, Gate)
    kind = "shortcut-gate" if join.scales == "shortcut" else "exclusive-gate"
    return f"{kind} {join.bias:g}"


def list_cells_2015() -> Iterator[Cell]:
    """He et al. 2015: Table 6, and the plain nets of Figure 6."""
    printed = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61, 1202: 7.93}
    sizes = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7", 1202: "19.4"}
    for depth, error in printed.items():
        yield Cell(
            table="2015, Table 6",
            row=f"ResNet, {depth:,} layers",
            net=f"cifar-resnet{depth}",
            recipe="he2015",
            printed="6.43 (6.61 ± 0.16)" if depth == 110 else f"{error:.2f}",
            paper=error / 100,
            paper_sd=0.0016 if depth == 110 else None,
            paper_parameters=f"{sizes[depth]} M",
        )
    for depth in (20, 32, 44, 56):
        yield Cell(
            table="2015, Figure 6",
            row=f"plain, {depth} layers",
            net=f"cifar-plain{depth}",
            recipe="he2015",
            note="the paper prints no figure",
        )


ORDERS_2016 = {
    # errors of 110 and 164 layers, and the order's name
    "original": (6.61, 5.93, "original"),
    "BN after addition": (8.17, 6.50, "bn-after-add"),
    "ReLU before addition": (7.84, 6.14, "relu-before-add"),
    "ReLU-only pre-activation": (6.71, 5.91, "relu-preact"),
    "full pre-activation": (6.37, 5.46, "full-preact"),
}
SHORTCUTS_2016: dict[str, tuple[str, str, Join | None]] = {
    # printed error, name of the network, and its join if the name cannot say it
    "original": ("6.61", "cifar-resnet110", None),
    "constant 0, 1 (plain)": (FAIL, "cifar-plain110", None),
    "constant 0.5, 1": (FAIL, "cifar-resnet110", Scale(0.5, 1.0)),
    "constant 0.5, 0.5": ("12.35", "cifar-resnet110,join=constant", None),
    "exclusive gate, b = -6": ("8.70", "cifar-resnet110,join=exclusive-gate", None),
    "exclusive gate, b = -7": ("9.81", "cifar-resnet110", Gate(bias=-7.0)),
    "shortcut-only gate, b = 0": ("12.86", "cifar-resnet110", Gate(bias=0.0, scales="shortcut")),
    "shortcut-only gate, b = -6": ("6.91", "cifar-resnet110,join=shortcut-gate", None),
    "1x1 convolution": ("12.22", "cifar-resnet110,shortcut=project-all", None),
    "dropout 0.5": (FAIL, "cifar-resnet110,join=dropout", None),
}


def name_order_net(depth: int, order: str) -> str:
    """Name a net of Table 2: of basic blocks at 110 layers, and of bottlenecks at 164 and 1,001."""
    if order == "full-preact":
        return f"cifar-preresnet{depth}"
    if depth == 110:
        return "cifar-resnet110" if order == "original" else f"cifar-resnet110,order={order}"
    return f"cifar-preresnet{depth},order={order}"


def list_cells_2016() -> Iterator[Cell]:
    """He et al. 2016, Tables 1 and 2."""
    for row, (printed, net, join) in SHORTCUTS_2016.items():
        yield Cell(
            table="2016, Table 1",
            row=row,
            net=net,
            join=join,
            recipe="he2016",
            printed=printed,
            paper=None if printed == FAIL else float(printed) / 100,
        )
    for row, (at_110, at_164, order) in ORDERS_2016.items():
        for depth, error in ((110, at_110), (164, at_164)):
            yield Cell(
                table="2016, Table 2",
                row=f"{row}, {depth} layers",
                net=name_order_net(depth, order),
                recipe="he2016",
                printed=f"{error:.2f}",
                paper=error / 100,
                paper_parameters="1.7 M",
            )


def list_cells_of_designs() -> Iterator[Cell]:
    """He et al. 2016, Table 3: the original design beside the pre-activation one."""
    cifar10 = {110: (6.61, 6.37), 164: (5.93, 5.46), 1001: (7.61, 4.92)}
    pairs = [
        ("cifar10", f"{depth:,} layers", name_order_net(depth, order), error)
        for depth, errors in cifar10.items()
        for order, error in zip(("original", "full-preact"), errors, strict=True)
    ]
    pairs += [
        ("cifar10", "110 layers, one-layer skips", f"cifar-{design}110,block=single", error)
        for design, error in (("resnet", 9.90), ("preresnet", 8.91))
    ]
    pairs += [
        ("cifar100", f"{depth:,} layers", name_order_net(depth, order), error)
        for depth, errors in {164: (25.16, 24.33), 1001: (27.82, 22.71)}.items()
        for order, error in zip(("original", "full-preact"), errors, strict=True)
    ]
    for dataset, depth, net, error in pairs:
        is_preact = net.startswith("cifar-preresnet") and "order=original" not in net
        yield Cell(
            table="2016, Table 3",
            row=f"{'pre-activation' if is_preact else 'original'}, {depth}",
            net=net,
            recipe="he2016",
            printed=f"{error:.2f}",
            paper=error / 100,
            dataset=dataset,
        )


def list_cells_of_table_4() -> Iterator[Cell]:
    """He et al. 2016, Table 4: medians, and means and deviations of five runs."""
    small_batch = "the paper's schedule for batches of 64 is not printed; ours has 64,000 steps"
    rows = (
        (164, "cifar10", 0, "5.46", 5.46, None, "1.7 M", ""),
        (1001, "cifar10", 0, "4.92 (4.89 ± 0.14)", 4.92, 0.0014, "10.2 M", ""),
        (1001, "cifar10", 64, "4.62 (4.69 ± 0.20)", 4.62, 0.0020, "10.2 M", small_batch),
        (164, "cifar100", 0, "24.33", 24.33, None, "1.7 M", ""),
        (1001, "cifar100", 0, "22.71 (22.68 ± 0.22)", 22.71, 0.0022, "10.2 M", ""),
    )
    for depth, dataset, batch_size, printed, error, deviation, size, note in rows:
        yield Cell(
            table="2016, Table 4",
            row=f"pre-activation, {depth:,} layers" + f", batches of {batch_size}" * bool(note),
            net=f"cifar-preresnet{depth}",
            recipe="he2016",
            printed=printed,
            paper=error / 100,
            paper_sd=deviation,
            paper_parameters=size,
            dataset=dataset,
            batch_size=batch_size,
            note=note,
        )


OTHER_SCHEDULE = "trained by the recipe of He et al. 2015, not by the paper's own"


WIDE_2016 = (  # Zagoruyko and Komodakis 2016, Table 5: without dropout, medians of five runs
    ("28-10", 4.00, "36.5 M"),
    ("40-4", 4.53, "8.9 M"),
    ("16-8", 4.27, "11.0 M"),
)


def list_other_cells() -> Iterator[Cell]:
    """Highway nets, stochastic depth, wide nets and VLAD."""
    yield Cell(
        table="Highway 2015",
        row="20 layers",
        net="cifar-highway20",
        recipe="he2015",
        printed="7.72 ± 0.16",
        note="the paper's net has 19 layers of other widths and 2.3 M parameters",
    )
    yield Cell(table="Highway 2015", row="110 layers", net="cifar-highway110", recipe="he2015")
    for depth, error, size in ((110, 5.25, "1.7 M"), (1202, 4.91, "19.4 M")):
        yield Cell(
            table="Stochastic depth 2016",
            row=f"{depth:,} layers",
            net=f"cifar-resnet{depth},join=drop-path",
            recipe="he2015",
            printed=f"{error:.2f}",
            paper=error / 100,
            paper_parameters=size,
            note=OTHER_SCHEDULE,
        )
    for name, error, size in WIDE_2016:
        yield Cell(
            table="Wide 2016",
            row=name,
            net=f"cifar-wrn{name}",
            recipe="he2015",
            printed=f"{error:.2f}",
            paper=error / 100,
            paper_parameters=size,
            note=OTHER_SCHEDULE,
        )
    yield Cell(
        table="VLAD",
        row="linear SVM",
        net="vlad",
        recipe="",
        note="a baseline; no paper reports it for CIFAR-10",
    )


CELLS = (
    *list_cells_2015(),
    *list_cells_2016(),
    *list_cells_of_designs(),
    *list_cells_of_table_4(),
    *list_other_cells(),
)
"""The cells, in the order of the page."""
