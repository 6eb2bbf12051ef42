"""Reports as self-contained HTML pages, SVG figures and text, made from records without torch.

An arm is one candidate that a study compares: a network family and its changes to the recipe.  A
cell is one arm at one depth, averaged over seeds.  A unit is a residual unit, or its counterpart in
a plain net.

study                 the page of a study, and its results.json
run_page, run_summary, run_curves
                      the page of a single run, its text and its figure
verdict, trend        the findings of a study, as text
significance          tests whether two cells of a study differ; the values of cells as text
runs, recorded_run    read the run records in a folder
tables                averages over the seeds of a study's runs
method, augmentation_text
                      text on how a study was measured
study_figures         choose and render the figures of a study
depth_figures, learning_start_figure
                      figures against depth: errors, and steps until learning starts
depth_slider          the page of a study's training curves with a slider over depth
block_drawing         drawings of the blocks of a study's nets
study_findings        the findings of a study as a number and a table
arms_figure           the figure of the errors of arms that share one depth
learning_curves       the figure of errors over training steps

signals, signals_record, signals_verdict, signals_summary, signals_figures
                      the page of a network's signals, its record, text and figures
lesion, lesion_summary, lesion_figures, lesion_unit_figure, lesion_curve_figures, lesion_panels
                      the page of a lesion study, its text and figures
evaluation_page, evaluation_summary, evaluation_tables, calibration_summary, calibration_figure
                      the page of an evaluation, its text, tables and reliability diagrams
data_report, data_bars
                      the page of a data set check, its bars and text
runs_page, runs_figure, listed_runs, run_settings
                      the page that compares the runs below a folder, its figure, and the runs
network_diagram, diagram_svg, plan_notation
                      a network as a diagram and as short text

figures, line_labels  style, colors, axes and labels of all figures; figures as SVG
format, accuracy      numbers, counts, lists and shares of right images as text
html                  pages from templates
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.report.data_report import UnderstoodData as UnderstoodData
    from residua.report.data_report import render_data_report as render_data_report
    from residua.report.evaluation_page import (
        collect_evaluation_metrics as collect_evaluation_metrics,
    )
    from residua.report.evaluation_page import read_evaluation as read_evaluation
    from residua.report.evaluation_page import write_evaluation_report as write_evaluation_report
    from residua.report.evaluation_summary import describe_evaluation as describe_evaluation
    from residua.report.evaluation_summary import describe_label_check as describe_label_check
    from residua.report.evaluation_summary import describe_wrong_images as describe_wrong_images
    from residua.report.evaluation_summary import (
        has_informative_top5_error as has_informative_top5_error,
    )
    from residua.report.evaluation_summary import list_skipped_files as list_skipped_files
    from residua.report.format import format_counted_noun as format_counted_noun
    from residua.report.format import format_duration as format_duration
    from residua.report.format import format_percent as format_percent
    from residua.report.format import format_percent_number as format_percent_number
    from residua.report.html import render_template as render_template
    from residua.report.lesion import LESION_RECORD as LESION_RECORD
    from residua.report.lesion import check_lesion_output_folder as check_lesion_output_folder
    from residua.report.lesion import holds_lesion_study as holds_lesion_study
    from residua.report.lesion import make_lesion_json as make_lesion_json
    from residua.report.lesion import read_lesion_study as read_lesion_study
    from residua.report.lesion import write_lesion_report as write_lesion_report
    from residua.report.lesion_summary import (
        format_lesion_for_terminal as format_lesion_for_terminal,
    )
    from residua.report.listed_runs import list_runs as list_runs
    from residua.report.network_diagram import render_network_diagram as render_network_diagram
    from residua.report.plan_notation import format_layer_sequence as format_layer_sequence
    from residua.report.plan_notation import format_plan_shape as format_plan_shape
    from residua.report.run_page import make_run_results as make_run_results
    from residua.report.run_page import write_run_report as write_run_report
    from residua.report.runs import StudyRuns as StudyRuns
    from residua.report.runs import holds_run_records as holds_run_records
    from residua.report.runs import read_study_runs as read_study_runs
    from residua.report.runs_page import write_runs_page as write_runs_page
    from residua.report.signals import choose_signals_folder as choose_signals_folder
    from residua.report.signals import (
        write_signals_report_with_data as write_signals_report_with_data,
    )
    from residua.report.signals_record import SIGNALS_RECORD as SIGNALS_RECORD
    from residua.report.signals_record import write_signals_record as write_signals_record
    from residua.report.study import StudySummary as StudySummary
    from residua.report.study import make_study_results as make_study_results
    from residua.report.study import read_study_summary as read_study_summary
    from residua.report.study import write_study_report as write_study_report
    from residua.report.tables import StudyCell as StudyCell
    from residua.report.tables import average_runs_over_seeds as average_runs_over_seeds
    from residua.report.verdict import describe_study_verdict as describe_study_verdict

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "data_report": "UnderstoodData render_data_report",
        "evaluation_page": ("collect_evaluation_metrics read_evaluation write_evaluation_report"),
        "evaluation_summary": (
            "describe_evaluation describe_label_check describe_wrong_images "
            "has_informative_top5_error list_skipped_files"
        ),
        "format": ("format_counted_noun format_duration format_percent format_percent_number"),
        "html": "render_template",
        "lesion": (
            "LESION_RECORD check_lesion_output_folder holds_lesion_study make_lesion_json "
            "read_lesion_study write_lesion_report"
        ),
        "lesion_summary": "format_lesion_for_terminal",
        "listed_runs": "list_runs",
        "network_diagram": "render_network_diagram",
        "plan_notation": "format_layer_sequence format_plan_shape",
        "run_page": "make_run_results write_run_report",
        "runs": "StudyRuns holds_run_records read_study_runs",
        "runs_page": "write_runs_page",
        "signals": "choose_signals_folder write_signals_report_with_data",
        "signals_record": "SIGNALS_RECORD write_signals_record",
        "study": "StudySummary make_study_results read_study_summary write_study_report",
        "tables": "StudyCell average_runs_over_seeds",
        "verdict": "describe_study_verdict",
    },
)
