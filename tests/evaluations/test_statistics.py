"""Statistics equal hand-computed values, and intervals mean what they say."""

from __future__ import annotations

import numpy as np
import pytest

from forethought.evaluations.statistics import (
    Estimate,
    crossed_mean,
    estimate,
    estimate_curve,
    estimate_direction,
    interquartile_mean,
    mean,
    number,
    on_common_grid,
    paired_gain,
    probability_of_improvement,
)


def test_interquartile_mean_drops_a_quarter_of_the_values_at_each_end():
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, 3.0, -50.0, 4.0, 5.0, 6.0]), 0) == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([7.0], 7.0), ([1.0, 9.0, 2.0], 4.0), ([0.0, 1.0, 2.0, 99.0], 1.5), ([0.0, 1.0, 2.0, 3.0, 99.0], 2.0)],
)
def test_interquartile_mean_rounds_the_quarter_down(scores, expected):
    assert interquartile_mean(np.array(scores), 0) == pytest.approx(expected)


def test_estimate_pools_all_tasks():
    assert estimate([[1.0, 2.0], [3.0, 10.0]], mean).value == pytest.approx(4.0)
    assert estimate([[1.0, 2.0], [3.0, 10.0]]).value == pytest.approx(2.5)


def test_an_interval_of_two_runs_matches_the_exhaustive_bootstrap():
    # Two runs, 0 and 1: resampled means are 0, 1/2, 1 with probability 1/4, 1/2, 1/4, so the 95 % interval is [0, 1].
    result = estimate([[0.0, 1.0]], mean, resamples=4000)
    assert (result.low, result.high) == (0.0, 1.0)


def test_resampling_is_stratified():
    # Each task is constant: whatever is drawn inside a task, the mean of all does not move.
    result = estimate([[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]], mean)
    assert (result.value, result.low, result.high) == (5.0, 5.0, 5.0)


def test_the_interval_width_agrees_with_the_standard_error():
    scores = np.random.default_rng(3).normal(size=400)
    result = estimate([scores], mean)
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    assert result.low == pytest.approx(result.value - half, abs=0.1 * half)
    assert result.high == pytest.approx(result.value + half, abs=0.1 * half)


def test_the_same_seed_gives_the_same_interval_and_the_order_of_runs_moves_only_the_draws():
    scores = np.random.default_rng(0).normal(size=12)
    assert estimate([scores], seed=5) == estimate([scores], seed=5)
    assert estimate([scores]).value == pytest.approx(estimate([scores[::-1]]).value)


def test_the_global_generator_is_untouched():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    estimate([[1.0, 2.0, 3.0]])
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_a_single_run_gets_no_interval_and_says_so():
    result = estimate([[5.0]])
    assert not result.has_interval
    assert str(result) == "5.00 (n = 1, no interval)"
    assert result.to_dict() == {"value": 5.0, "low": None, "high": None, "n": 1}


def test_one_task_with_a_single_run_withholds_the_interval_of_all():
    assert not estimate([[5.0], [1.0, 2.0, 3.0]]).has_interval
    assert not probability_of_improvement([[5.0]], [[1.0, 2.0]]).has_interval


def test_a_curve_point_equals_the_estimate_of_its_column():
    scores = np.random.default_rng(1).normal(size=(7, 3))
    curve = estimate_curve([scores], seed=2)
    assert [point.value for point in curve] == pytest.approx(list(interquartile_mean(scores, 0)))
    assert curve[1] == estimate([scores[:, 1]], seed=2)


def test_probability_of_improvement_counts_pairs_and_halves_ties():
    # Pairs: 1>1? tie, 1>2 no, 3>1 yes, 3>2 yes -> (0.5 + 0 + 1 + 1) / 4.
    assert probability_of_improvement([[1.0, 3.0]], [[1.0, 2.0]]).value == pytest.approx(0.625)


def test_probability_of_improvement_averages_over_tasks_and_is_antisymmetric():
    ours, theirs = [[5.0, 6.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]
    assert probability_of_improvement(ours, theirs).value == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(size=4)
    there, back = probability_of_improvement([a], [b]).value, probability_of_improvement([b], [a]).value
    assert there + back == pytest.approx(1.0)


def test_pairing_removes_what_both_share():
    hard_and_easy = np.linspace(0, 1000, 10)
    gain = paired_gain(hard_and_easy + 5, hard_and_easy)
    assert gain.value == pytest.approx(5.0)
    assert gain.high - gain.low == pytest.approx(0.0, abs=1e-9)


def test_a_common_grid_returns_what_was_measured_where_it_was_measured():
    grid, scores = on_common_grid([([10, 20, 30], [1.0, 2.0, 3.0]), ([10, 20, 30], [4.0, 5.0, 6.0])])
    assert grid.tolist() == [10, 20, 30]
    assert scores.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_common_grid_covers_only_what_all_runs_cover_and_interpolates():
    grid, scores = on_common_grid([([0, 100], [0.0, 100.0]), ([50, 60, 200], [1.0, 1.0, 1.0])])
    assert grid.tolist() == [50, 100]
    assert scores.tolist() == [[50, 100], [1, 1]]


def test_a_single_evaluation_makes_a_grid_of_one_point():
    grid, scores = on_common_grid([([100], [3.0]), ([50, 150], [0.0, 1.0])])
    assert grid.tolist() == [100]
    assert scores.tolist() == [[3.0], [0.5]]


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_scores_that_allow_no_claim_are_refused(scores):
    with pytest.raises(ValueError, match=r"Scores need|not finite"):
        estimate([scores])


def test_curves_without_a_shared_step_are_refused():
    with pytest.raises(ValueError, match="share no step"):
        on_common_grid([([1, 2], [0, 0]), ([3, 4], [0, 0])])


def test_unpaired_values_are_refused():
    with pytest.raises(ValueError, match="Pairs"):
        paired_gain([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (-987.654, "-987.7"),
        (4.5678, "4.57"),
        (0.12345, "0.123"),
        (-0.0001, "0.000"),
        (0.0, "0.000"),
    ],
)
def test_numbers_read_well(value, text):
    assert number(value) == text


def test_an_estimate_reads_well():
    assert str(Estimate(950.25, 900.0, 1000.0, 3)) == "950.2 [900.0, 1,000]"


def test_runs_on_the_same_episodes_are_resampled_both_ways():
    rng = np.random.default_rng(0)
    scores = (rng.random((3, 200)) < np.array([[0.9], [0.7], [0.5]])).astype(float)
    told, alone = crossed_mean(scores), crossed_mean(scores[:1])
    assert told.value == pytest.approx(scores.mean())
    assert told.low < 0.6 < 0.8 < told.high  # three runs so different say little of others
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * (0.9 * 0.1 / 200) ** 0.5, rel=0.3)
    assert not crossed_mean([[1.0]]).has_interval
    with pytest.raises(ValueError, match="2 non-empty axes"):
        crossed_mean([1.0, 0.0])


def test_directions_are_averaged_around_the_circle():
    found = estimate_direction([3.1, -3.1, 3.0, -3.0])
    assert abs(found.value) == pytest.approx(np.pi)
    assert found.high - found.low < 0.3
    assert found.low < found.value < found.high
    assert estimate_direction([0.1, 0.3]).value == pytest.approx(0.2)
    assert estimate_direction([3.0]).low is None
