"""Residual networks written by hand from He et al. 2015, section 4.2, without the package."""

import torch
import torch.nn.functional as F
from torch import nn


class OracleBlock(nn.Module):
    def __init__(self, c_in, c_out, stride, residual):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.residual = residual
        self.downsamples = stride == 2
        self.extra_channels = (c_out - c_in) // 2

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.residual:
            if self.downsamples:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra_channels, self.extra_channels))
            y = x + y
        return F.relu(y)


class OracleResNet(nn.Module):
    """6n+2 layers; with `residual=False`, the plain twin."""

    def __init__(self, n, residual=True, channels=3, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        widths = [16] * n + [32] * n + [64] * n
        self.blocks = nn.ModuleList(
            OracleBlock(before, width, 2 if before != width else 1, residual)
            for before, width in zip([16, *widths], widths, strict=False)
        )
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc(x.flatten(2).mean(2))


class OraclePreactBlock(nn.Module):
    """He et al. 2016, Fig. 4e; the first unit of a stage activates before the fork."""

    def __init__(self, c_in, c_out, stride, activates_before_fork):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.activates_before_fork = activates_before_fork
        self.extra_channels = (c_out - c_in) // 2

    def forward(self, x):
        y = F.relu(self.bn1(x))
        if self.activates_before_fork:
            x = y
        if self.extra_channels:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra_channels, self.extra_channels))
        return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


class OraclePreactResNet(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        widths = [16] * n + [32] * n + [64] * n
        self.blocks = nn.ModuleList(
            OraclePreactBlock(
                before,
                width,
                2 if before != width else 1,
                activates_before_fork=i == 0 or before != width,
            )
            for i, (before, width) in enumerate(zip([16, *widths], widths, strict=False))
        )
        self.bn = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(F.relu(self.bn(x)).flatten(2).mean(2))


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy all tensors of `source` to `target` in order of definition; shapes must agree."""
    source_tensors, target_tensors = [[*m.parameters(), *m.buffers()] for m in (source, target)]
    assert [t.shape for t in source_tensors] == [t.shape for t in target_tensors]
    with torch.no_grad():
        for a, b in zip(source_tensors, target_tensors, strict=True):
            b.copy_(a)
