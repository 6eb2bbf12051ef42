"""Which images the page of an evaluation shows."""

from collections import Counter

import numpy as np
import torch

from residua.data.images import Images
from residua.data.preprocessed_images import NamedImages
from residua.training import shown_images
from residua.training.shown_images import (
    MAX_RIGHT_PER_CELL,
    MAX_WRONG_PER_CELL,
    choose_examples,
    order_by_cell,
)


def draw_cells(count=500, class_count=3):
    generator = np.random.default_rng(0)
    labels, guesses = generator.integers(class_count, size=(2, count))
    guesses = np.where(generator.random(count) < 0.5, labels, guesses)
    return labels, guesses, generator.random(count).astype(np.float32)


def test_each_cell_gets_one_image_before_any_gets_a_second():
    labels, guesses, confidence = draw_cells()
    order = order_by_cell(labels, guesses, confidence)
    cells = [(int(labels[i]), int(guesses[i])) for i in order]
    assert len(set(order.tolist())) == len(order)
    assert set(cells[:9]) == {(i, j) for i in range(3) for j in range(3)}
    sizes = Counter(zip(labels.tolist(), guesses.tolist(), strict=True))
    assert [sizes[cell] for cell in cells[:6]] == sorted(
        (sizes[c] for c in cells[:6]), reverse=True
    )
    assert all(i != j for i, j in cells[:6])
    for cell, shown in Counter(cells).items():
        limit = MAX_RIGHT_PER_CELL if cell[0] == cell[1] else MAX_WRONG_PER_CELL
        assert shown == min(limit, sizes[cell])


def test_mistakes_begin_with_the_most_confident_and_right_images_with_the_least():
    labels, guesses, confidence = draw_cells()
    order = order_by_cell(labels, guesses, confidence)
    for cell in ((0, 1), (2, 2)):
        shown = [confidence[i] for i in order if (labels[i], guesses[i]) == cell]
        every = confidence[(labels == cell[0]) & (guesses == cell[1])]
        wanted = np.sort(every) if cell[0] == cell[1] else np.sort(every)[::-1]
        assert shown == wanted[: len(shown)].tolist()


def test_examples_stop_at_the_size_of_a_page_and_leave_out_what_is_shown(monkeypatch):
    labels, guesses, confidence = draw_cells(60)
    pixels = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    names = [f"{i}.png" for i in range(60)]
    named = NamedImages(Images(pixels, torch.from_numpy(labels)), names)
    log_probs = np.log(np.full((60, 3), 1 / 3, np.float32))
    every = choose_examples(named, log_probs, guesses, set(), [7, 8])
    assert [example.where for example in every[:2]] == ["7.png", "8.png"]
    assert len({example.where for example in every}) == len(every) > 9
    rest = choose_examples(named, log_probs, guesses, {"7.png"}, [7, 8])
    assert "7.png" not in {example.where for example in rest}
    limit = 5 * len(every[0].thumbnail)
    monkeypatch.setattr(shown_images, "MAX_EXAMPLE_CHARACTERS", limit)
    assert len(choose_examples(named, log_probs, guesses, set(), [])) == 5
    assert order_by_cell(labels[:0], guesses[:0], confidence[:0]).tolist() == []
