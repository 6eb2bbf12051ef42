"""Makes the figures of docs/thousand-layers.md from the records.

python experiments/essay_figures.py
"""

from pathlib import Path

from residua.analysis.random_walk import predict_initial_signals
from residua.config.papers import network
from residua.config.plan import plan
from residua.files import write_text_files
from residua.report.block_drawing import draw_study_blocks, render_blocks_file
from residua.report.depth_figures import render_depth_figure
from residua.report.depth_slider import SliderText, render_depth_slider
from residua.report.figures import add_white_background
from residua.report.study import StudySummary, read_study_summary

STUDY = Path(__file__).parent / "thousand-layers"
FIGURES = Path(__file__).parent.parent / "docs" / "figures"
DESIGNS = {"original": "2015: original", "full pre-activation": "2016: pre-activation"}
ARMS = (
    "original",
    "no-ReLU-after-addition",
    "zero-initialised",
    "full pre-activation",
    "ReLU-only pre-activation",
)
TEXT = SliderText(
    "Training by depth",
    "Five designs of nets with two-layer blocks on handwritten digits, 242 steps",
    "Move the slider: with more layers the original net learns later, and then not at all.",
)


def make_figures(summary: StudySummary) -> dict[str, str]:
    """The files of the figures, by name."""
    runs = [run for run in summary.runs.finished if run.arm in DESIGNS]
    blocks = [
        block._replace(nets=name)
        for block, name in zip(draw_study_blocks(runs), DESIGNS.values(), strict=True)
    ]
    cells = [cell for cell in summary.cells if cell.arm in ARMS]
    return {
        "blocks.svg": render_blocks_file(blocks),
        "thousand-layers.svg": add_white_background(
            render_depth_figure(cells, summary.num_classes)
        ),
        "thousand-layers.html": render_depth_slider(
            summary, ARMS, TEXT, {depth: describe_paths(depth) for depth in list_depths(summary)}
        ),
    }


def list_depths(summary: StudySummary) -> list[int]:
    return sorted({cell.depth for cell in summary.cells if cell.arm in ARMS})


def describe_paths(depth: int) -> str:
    """A sentence on the identity paths of the 2015 design at initialisation."""
    planned = plan(network(f"cifar-resnet{depth}"))
    expected = predict_initial_signals(planned)
    last = max(i for i, unit in enumerate(planned.units) if unit.stage == 1)
    signals = expected[last]
    assert signals is not None
    return (
        f"In the original design, a random walk leaves {100 * signals.survival:.0f} % of the "
        f"identity paths through the {last + 1} units of the first stage intact; in the 2016 "
        "design all are."
    )


if __name__ == "__main__":
    write_text_files(FIGURES, make_figures(read_study_summary(STUDY)))
    print(f"The figures: {FIGURES}")
