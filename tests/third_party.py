"""torchvision and timm as oracles, and hand-written networks with the names of other projects.

torchvision's wheel is built for CUDA.  With a CPU build of torch it can be imported only after two
operators, which are never called here, have been declared; and timm imports torchvision.
"""

import importlib
import sys

import torch
import torch.nn.functional as F
from torch import nn

NMS_SCHEMA = "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# kept in a variable, because its declarations end with it
torchvision_library = torch.library.Library("torchvision", "FRAGMENT")


def import_torchvision():
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    torchvision_library.define(NMS_SCHEMA)
    torchvision_library.define(f"q{NMS_SCHEMA}")
    return importlib.import_module("torchvision")


torchvision = import_torchvision()
timm = importlib.import_module("timm")


def randomize_weights(net: nn.Module, seed: int = 0) -> nn.Module:
    """`net` in evaluation mode, with all tensors random, so that no two are interchangeable."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(
                module.weight, std=(2 / module.weight[0].numel()) ** 0.5, generator=generator
            )
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6, generator=generator)
            nn.init.normal_(module.running_mean, std=0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            module.num_batches_tracked.fill_(7)
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    return net.eval()


class ThirdPartyBlock(nn.Module):
    def __init__(self, c_in, c_out, stride, option):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if option == "B" and stride == 2:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )
        self.extra_channels = (c_out - c_in) // 2 if option == "A" else 0

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra_channels:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra_channels, self.extra_channels))
        return F.relu(self.shortcut(x) + y)


class ThirdPartyCifarResNet(nn.Module):
    """6n+2 layers, with the names of akamaster and kuangliu."""

    def __init__(self, n, option, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for s in (1, 2, 3):
            first = ThirdPartyBlock(widths[s - 1], widths[s], 1 if s == 1 else 2, option)
            others = [ThirdPartyBlock(widths[s], widths[s], 1, option) for _ in range(n - 1)]
            self.add_module(f"layer{s}", nn.Sequential(first, *others))
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class ThirdPartyWideBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if c_in != c_out else None

    def forward(self, x):
        y = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))


class ThirdPartyWideStage(nn.Module):
    def __init__(self, n, c_in, c_out, stride):
        super().__init__()
        self.layer = nn.Sequential(
            ThirdPartyWideBlock(c_in, c_out, stride),
            *(ThirdPartyWideBlock(c_out, c_out, 1) for _ in range(n - 1)),
        )

    def forward(self, x):
        return self.layer(x)


class ThirdPartyWideResNet(nn.Module):
    """6n+4 layers, with the names that most code for wide residual nets has."""

    def __init__(self, n, factor, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = ThirdPartyWideStage(n, 16, 16 * factor, 1)
        self.block2 = ThirdPartyWideStage(n, 16 * factor, 32 * factor, 2)
        self.block3 = ThirdPartyWideStage(n, 32 * factor, 64 * factor, 2)
        self.bn1 = nn.BatchNorm2d(64 * factor)
        self.fc = nn.Linear(64 * factor, classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))
