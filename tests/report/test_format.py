import pytest

from residua.report.format import (
    LABELS,
    QUANTITY_FORMATS,
    capitalize_first,
    format_confidence_interval,
    format_counted_noun,
    format_duration,
    format_percent,
    format_percent_number,
    format_percent_number_with_sd,
    format_percent_with_sd,
    format_points,
    format_quantities,
    format_quantity,
    format_shortest_percent,
    format_three_digits,
    join_with_and,
    make_percent_nonbreaking,
)


def test_a_positive_percentage_is_never_printed_as_zero():
    assert [format_percent(share) for share in (0, 0.0004, 0.0006, 0.711)] == [
        "0.0 %",
        "below 0.1 %",
        "0.1 %",
        "71.1 %",
    ]
    assert [format_percent(share, 2) for share in (0, 0.00004, 0.00006)] == [
        "0.00 %",
        "below 0.01 %",
        "0.01 %",
    ]


def test_a_number_in_a_table_has_no_percent_sign():
    assert format_percent_number(0.1234, 2) == "12.34"
    assert format_percent_number(None) == "–"


def test_a_setting_is_printed_without_rounding_and_without_trailing_zeros():
    assert [format_shortest_percent(share) for share in (0.2, 0.07, 0.0025)] == [
        "20 %",
        "7 %",
        "0.25 %",
    ]


def test_a_spread_is_printed_only_for_several_seeds():
    assert format_percent_with_sd(0.173, 0.021) == "17.3 ± 2.1 %"
    assert format_percent_with_sd(0.173, None) == "17.3 %"
    assert format_percent_number_with_sd(0.173, 0.021) == "17.3 ± 2.1"
    assert format_percent_number_with_sd(0.173, None) == "17.3"


def test_a_confidence_interval_states_its_level_and_one_unit():
    assert format_confidence_interval((0.37164, 0.45772)) == "95 % CI 37.2-45.8 %"
    assert format_confidence_interval((0.0, 0.00366), 2) == "95 % CI 0.00-0.37 %"


def test_a_difference_of_errors_is_in_points():
    assert format_points(0.041) == "4.1 points"


def test_numbers_have_three_significant_digits_and_thousands_have_commas():
    values = (0.03981, 12.34, 1250.4, 3.2e-12, None)
    assert [format_three_digits(value) for value in values] == [
        "0.0398",
        "12.3",
        "1,250",
        "3.2e-12",
        "–",
    ]


@pytest.mark.parametrize(
    ("count", "noun", "plural", "text"),
    [
        (0, "image", "", "0 images"),
        (1, "more kind", "", "1 more kind"),
        (2, "more kind", "", "2 more kinds"),
        (1200, "class", "classes", "1,200 classes"),
        (1, "class", "classes", "1 class"),
    ],
)
def test_a_noun_agrees_with_its_count(count, noun, plural, text):
    assert format_counted_noun(count, noun, plural) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.4, "5 s"), (119, "119 s"), (150, "2 min"), (9000, "2.5 h")]
)
def test_a_duration_is_shown_in_a_suitable_unit(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("words", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_a_list_of_words_ends_with_and(words, text):
    assert join_with_and(words) == text


def test_only_the_first_letter_is_made_a_capital():
    assert capitalize_first("pre-activation ResNet") == "Pre-activation ResNet"
    assert capitalize_first("") == ""


def test_no_line_breaks_inside_a_percentage():
    space = "\N{NO-BREAK SPACE}"
    assert make_percent_nonbreaking("17.3 ± 2.1 % of it") == f"17.3{space}±{space}2.1{space}% of it"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("train_error_reestimated", 0.1, "10.00 %"),
        ("train_error", 0.0867, "8.67 %"),
        ("best_dev_error", 1 / 3, "33.33 %"),
        ("top5_error", 0.0, "0.00 %"),
        ("train_loss", 0.527, "0.527"),
        ("lr", 0.1, "0.1"),
        ("epochs", 2.981, "2.98"),
        ("parameters", 75_002, "75,002"),
        ("memory_weights_bytes", 3 * 2**20, "3.0 MiB"),
        ("estimated_seconds", 9000.0, "2.5 h"),
        ("images_per_second", 1250.4, "1,250/s"),
        (
            "learning_rates",
            [{"step": 0, "lr": 0.1}, {"step": 900, "lr": 0.01}],
            "0.1 from step 0, 0.01 from step 900",
        ),
        (
            "lr_factors",
            [{"part": "last layer", "factor": 1.0}, {"part": "stem", "factor": 0.1 * 0.38**2}],
            "last layer 1, stem 0.0144",
        ),
        ("image_sizes", [{"step": 1200, "height": 8, "width": 9}], "8 x 9 from step 1,200"),
        ("trained", False, "no"),
        ("test_error", None, "–"),
    ],
)
def test_each_quantity_is_printed_in_its_own_unit(name, value, text):
    assert format_quantity(name, value) == text


def test_an_error_is_printed_with_its_interval_and_its_number_of_images():
    """The intervals are those of R's prop.test(7, 160, correct=FALSE) and of (875, 10000)."""
    lines = format_quantities(
        {
            "train_error": 0.01,
            "dev_error": 7 / 160,
            "test_error": 0.0875,
            "best_dev_error": 6 / 160,
            "dev_images": 160,
            "dev_error_interval": [0.02136, 0.08755],
            "test_images": 10_000,
            "test_error_interval": [0.08212, 0.09320],
        }
    )
    assert list(lines) == [
        "train error              1.00 %",
        "dev error                4.4 % (95 % CI 2.1-8.8 %, 160 images)",
        "test error               8.75 % (95 % CI 8.21-9.32 %, 10,000 images)",
        "best dev error           3.8 % (160 images)",
    ]


def test_labels_say_how_a_quantity_was_measured_and_name_no_units():
    lines = format_quantities(
        {
            "train_error": 0.2414,
            "train_error_reestimated": 0.2586,
            "memory_activations_bytes": 2**20,
            "estimated_seconds": 180,
        }
    )
    assert list(lines) == [
        "train error                               24.14 %",
        "train error (BN statistics re-estimated)  25.86 %",
        "memory: activations                       1.0 MiB",
        "estimated time                            3 min",
    ]
    labels = [LABELS.get(name, name) for name in QUANTITY_FORMATS]
    assert [label for label in labels if label.endswith(("bytes", "seconds"))] == []


def test_results_of_earlier_versions_are_printed_without_intervals():
    assert list(format_quantities({"dev_error": 0.0438, "test_error": None})) == [
        "dev error                4.38 %",
        "test error               –",
    ]
