"""Build the PyTorch modules of a plan; all design decisions are made in `config.plan`."""

from dataclasses import replace
from itertools import groupby

from torch import Tensor, nn

from residua.config.layers import Layer
from residua.config.network import Network
from residua.config.plan import Plan, PlannedUnit, plan
from residua.net.joins import GatedSum, make_join
from residua.net.layers import make_layer_module, make_sequential
from residua.net.weight_init import initialise_weights, redraw_weights


def build(network: Network, seed: int = 0) -> "ResidualNetwork":
    """Build the PyTorch module of a network; `seed` determines its initial weights."""
    net = ResidualNetwork(plan(network))
    initialise_weights(net, seed)
    redraw_weights(list_layer_modules(net), seed)
    for unit, planned in zip(net.units, net.plan.units, strict=True):
        for module, layer in zip(unit.branch, planned.branch, strict=True):
            if layer.zero_init:
                nn.init.zeros_(module.get_parameter("weight"))
        if isinstance(unit.join, GatedSum) and unit.join.gate.bias is not None:
            nn.init.constant_(unit.join.gate.bias, unit.join.initial_bias)
    return net


def list_layer_modules(net: "ResidualNetwork") -> list[tuple[nn.Module, Layer]]:
    """List modules and their layers: of the stem, the head, and the units' leads and branches."""
    paths = [(net.stem, net.plan.stem), (net.head, net.plan.head)]
    for unit, planned in zip(net.units, net.plan.units, strict=True):
        paths += [(unit.lead, planned.lead), (unit.branch, planned.branch)]
    return [pair for modules, layers in paths for pair in zip(modules, layers, strict=True)]


class ResidualNetwork(nn.Module):
    """A residual or plain network: images (n, *plan.network.input) -> class scores (n, classes).

    If `num_classes` is 0, the plan's head has no last layer, and the network returns the features
    (n, num_features).  An `nn.Identity` takes the place of the layer, so that the other modules
    keep their names.  `plan.network` is then the classifier without its last layer.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.stem = make_sequential(plan.stem)
        self.stages = nn.ModuleDict(
            {
                f"stage{s}": nn.Sequential(*map(ResidualUnit, units))
                for s, units in groupby(plan.units, lambda unit: unit.stage)
            }
        )
        self.head = make_sequential(plan.head)
        if not self.num_classes:
            self.head.append(nn.Identity())

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 if the network returns features."""
        return sum(layer.output_shape.channels for layer in self.plan.head if layer.op == "weight")

    @property
    def num_features(self) -> int:
        """The number of features per image, which are the inputs of the last layer."""
        shapes = [layer.output_shape for layer in self.plan.head if layer.op != "weight"]
        return [self.plan.units[-1].output_shape, *shapes][-1].channels

    @property
    def units(self) -> list["ResidualUnit"]:
        """All units, from input to output."""
        return [unit for unit in self.stages.modules() if isinstance(unit, ResidualUnit)]

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.compute_feature_maps(images))
        return scores

    def compute_feature_maps(self, images: Tensor) -> Tensor:
        """Compute the last stage's output (n, c, *size) for images (n, *plan.network.input)."""
        x: Tensor = self.stem(images)
        for stage in self.stages.values():
            x = stage(x)
        return x

    def compute_features(self, images: Tensor) -> Tensor:
        """Return the inputs (n, features) of the last layer for images (n, *plan.network.input)."""
        return self.forward_head(self.compute_feature_maps(images), pre_logits=True)

    def forward_features(self, images: Tensor) -> Tensor:
        """Do the same as `compute_feature_maps`; this is its name in timm."""
        return self.compute_feature_maps(images)

    def forward_head(self, feature_maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Turn the last stage's output (n, channels, *size) into class scores (n, classes).

        With `pre_logits`, return the features (n, num_features) instead.
        """
        output: Tensor = (self.head[:-1] if pre_logits else self.head)(feature_maps)
        return output

    def get_classifier(self) -> nn.Module:
        """Return the last layer; an `nn.Identity` if the network returns features."""
        return self.head[-1]

    def reset_classifier(self, num_classes: int, *, seed: int = 0) -> None:
        """Replace the last layer by one for `num_classes` classes, and update `plan`.

        `seed` determines the initial weights of the new layer.  With 0 classes, the network then
        returns features.  Raises UsageError if `num_classes` is negative.
        """
        if num_classes:
            self.plan = plan(replace(self.plan.network, classes=num_classes))
            layer = make_layer_module(self.plan.head[-1])
            initialise_weights(layer, seed)
            redraw_weights([(layer, self.plan.head[-1])], seed)
            weight = next(self.parameters())
            self.head[-1] = layer.to(weight.device, weight.dtype).train(self.training)
        elif self.num_classes:
            self.plan = replace(self.plan, head=self.plan.head[:-1])
            self.head[-1] = nn.Identity()


class ResidualUnit(nn.Module):
    """A unit: y = after(join(shortcut(x), branch(x))), x = lead(input) (He et al. 2016, Eq. 1-2).

    `lead` contains the layers whose output is the input of both shortcut and branch, such as a
    shared activation.  It is usually empty.  A unit of a plain net has no shortcut and uses no
    join: y = after(branch(x)).
    """

    def __init__(self, planned: PlannedUnit) -> None:
        super().__init__()
        self.lead = make_sequential(planned.lead)
        self.branch = make_sequential(planned.branch)
        self.shortcut = None if planned.shortcut is None else make_sequential(planned.shortcut)
        self.join: nn.Module = make_join(planned.join, planned.gate)
        self.after = make_sequential(planned.after)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lead(x)
        y: Tensor = self.branch(x)
        if self.shortcut is not None:
            y = self.join(x, self.shortcut(x), y)
        y = self.after(y)
        return y  # noqa: RET504 -- named, so that it reads as the equation does
