"""The results that the papers report for their networks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperResults:
    """Results that a paper reports for a network, in the paper's notation; "" if not reported."""

    parameters: str = ""
    multiply_adds: str = ""
    error: str = ""


PAPER_RESULTS = {
    "cifar-resnet20": PaperResults("0.27 M", error="8.75 % CIFAR-10"),  # He et al. 2015, Table 6
    "cifar-resnet32": PaperResults("0.46 M", error="7.51 % CIFAR-10"),
    "cifar-resnet44": PaperResults("0.66 M", error="7.17 % CIFAR-10"),
    "cifar-resnet56": PaperResults("0.85 M", error="6.97 % CIFAR-10"),
    "cifar-resnet110": PaperResults(
        "1.7 M", error="6.61 ± 0.16 % CIFAR-10, five runs; best 6.43 %"
    ),
    "cifar-resnet1202": PaperResults("19.4 M", error="7.93 % CIFAR-10"),
    "cifar-preresnet110": PaperResults(
        error="6.37 % CIFAR-10, median of five"
    ),  # He et al. 2016, Tables 2-4
    "cifar-preresnet164": PaperResults("1.7 M", error="5.46 % CIFAR-10, median of five"),
    "cifar-preresnet1001": PaperResults("10.2 M", error="4.92 % CIFAR-10, median of five"),
    "resnet18": PaperResults(multiply_adds="1.8 G"),  # He et al. 2015, Table 1
    "resnet34": PaperResults(multiply_adds="3.6 G"),
    "resnet50": PaperResults(multiply_adds="3.8 G", error="22.85 % ImageNet, 10-crop"),
    "resnet101": PaperResults(multiply_adds="7.6 G", error="21.75 % ImageNet, 10-crop"),
    "resnet152": PaperResults(multiply_adds="11.3 G", error="21.43 % ImageNet, 10-crop"),
    "preresnet200": PaperResults(
        error="20.7 % ImageNet, one crop of 320"
    ),  # He et al. 2016, Table 5
    "cifar-wrn28-10": PaperResults("36.5 M", error="4.00 % CIFAR-10"),  # Zagoruyko & Komodakis 2016
}
