"""Counter-based random bits against splitmix64 in Python's unbounded integers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from residua.data.counter import bits, mix, permutation, shift, signed

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
words = st.integers(0, WORD)


def finalised(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & WORD
    return x ^ x >> 31


def bits_of(*keys):
    x = 0
    for key in keys:
        x = finalised(x + key + GOLDEN & WORD)
    return x >> 1


@given(words)
def test_mix_is_the_finaliser_of_splitmix64(word):
    assert int(mix(torch.tensor(signed(word)))) == signed(finalised(word))


def test_bits_of_counted_keys_are_the_published_sequence_of_splitmix64():
    # The first outputs for seed 1234567 of the generator's reference implementation.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    seeds = torch.tensor([signed(1234567 + i * GOLDEN) for i in range(5)])
    assert bits(seeds).tolist() == [value >> 1 for value in published]


@given(words, st.integers(1, 63))
def test_shift_is_logical(word, places):
    assert int(shift(torch.tensor(signed(word)), places)) == word >> places


@given(st.lists(words, min_size=1, max_size=4))
def test_bits_follow_from_all_keys_in_their_order(keys):
    assert int(bits(*keys)) == bits_of(*keys)


def test_a_tensor_key_gives_what_its_numbers_give_one_by_one():
    which = torch.tensor([0, 1, 7, 44_999, 2**40])
    assert bits(3, 1, 200, which).tolist() == [bits_of(3, 1, 200, i) for i in which.tolist()]


def test_one_changed_bit_of_a_key_changes_about_half_of_the_bits():
    base = bits_of(5, 0, 7)
    changed = [(bits_of(5 ^ 1 << i, 0, 7) ^ base).bit_count() for i in range(64)]
    assert 28 < sum(changed) / 64 < 35  # of 63
    assert min(changed) > 15


def test_bits_are_even_over_their_range():
    counts = (bits(1, torch.arange(64_000)) % 64).bincount(minlength=64).double()
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    assert 30 < chi_squared < 110  # 63 degrees of freedom: 1 in 10,000 lies outside


@given(st.integers(1, 300), words, st.integers(0, 1000))
def test_a_permutation_holds_every_index_once(count, seed, epoch):
    assert permutation(count, seed, epoch).sort().values.tolist() == list(range(count))


def test_a_permutation_is_the_order_of_the_bits():
    expected = sorted(range(500), key=lambda i: bits_of(9, 4, i))
    assert permutation(500, 9, 4).tolist() == expected


def test_permutations_differ_by_seed_and_by_epoch():
    orders = {tuple(permutation(100, seed, epoch).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_a_permutation_is_the_same_whatever_was_asked_before():
    first = permutation(1000, 3, 8)
    torch.manual_seed(1)
    permutation(1000, 3, 7), torch.rand(10)
    assert torch.equal(permutation(1000, 3, 8), first)


def test_no_place_of_a_permutation_is_preferred():
    mean = torch.stack([permutation(50, seed) for seed in range(2000)]).double().mean(0)
    assert float((mean - 24.5).abs().max()) < 1.4  # 4.3 standard errors of 0.32
