"""What a comparison says about the latents of its world models."""

from __future__ import annotations

import json

import pytest

from forethought.core.runs import Run

from .conftest import summary_of

CHECK = {
    "effective_rank": 5.0,
    "spread_mean": 0.5,
    "spread_min": 0.2,
    "open_loop_error_1": 0.1,
    "no_change_error_1": 0.5,
    "open_loop_error_2": 0.3,
    "no_change_error_2": 0.6,
    "collapsed": 0.0,
}


@pytest.fixture
def checked(make_run):
    """Return a function that writes a run judged after every 100 steps, whose latents were checked after given ones."""

    def write(seed, checks, agent="jepa", status="finished", **run_settings):
        with Run.open(make_run(agent, seed, **run_settings)) as run:
            for step, check in checks.items():
                run.log({f"health/{name}": value for name, value in {**CHECK, **check}.items()}, step)
            run.set_status(status)

    return write


def table_of(root):
    tables = [table for table in summary_of(root).tables() if ": latents" in table.title]
    return tables[0] if tables else None


def test_checks_are_averaged_where_the_run_is_scored_and_errors_are_shares_of_expecting_no_change(checked, tmp_path):
    early = {50: {"effective_rank": 99.0, "collapsed": 1.0}, 100: {"spread_mean": 99.0}}
    checked(0, early | {150: {"spread_mean": 0.4}, 400: {"spread_mean": 0.6}})
    table = table_of(tmp_path)
    assert table.title == "Task-v0: latents at 400 steps"
    assert list(table.columns) == [
        "agent",
        "effective rank",
        "spread",
        "least spread",
        "error 1 step ahead",
        "error 2 steps ahead",
        "alarms",
    ]
    (row,) = table.rows
    assert [cell.split(" ")[0] for cell in row[:-1]] == ["jepa", "5.00", "0.500", "0.200", "0.200", "0.500"]
    assert row[-1] == "1 of 4"


def test_seeds_give_an_interval(checked, tmp_path):
    checked(0, {200: {}, 300: {}})
    checked(1, {200: {"effective_rank": 7.0}})
    (row,) = table_of(tmp_path).rows
    assert (row[1], row[-1]) == ("6.00 [5.00, 7.00]", "0 of 3")


def test_of_a_longer_run_nothing_counts_that_came_after_the_steps_that_all_took(checked, tmp_path):
    checked(0, {150: {}, 350: {"effective_rank": 99.0, "collapsed": 1.0}})
    checked(0, {150: {}}, agent="tdmpc2_form", returns=(1.0, 2.0))
    table = table_of(tmp_path)
    assert table.title == "Task-v0: latents at 200 steps"
    assert [(row[1].split(" ")[0], row[-1]) for row in table.rows] == [("5.00", "0 of 1"), ("5.00", "0 of 1")]


def test_a_figure_that_is_not_known_of_every_seed_is_left_empty(checked, tmp_path):
    checked(0, {200: {}, 300: {"effective_rank": None}})
    checked(1, {200: {"open_loop_error_2": None}})
    (row,) = table_of(tmp_path).rows
    assert row[1].startswith("5.00")
    assert row[4].startswith("0.200")
    assert row[5] == ""
    found = summary_of(tmp_path).to_dict()["tasks"]["Task-v0"]["agents"]["jepa"]["latents"]
    assert (found["effective rank"], found["error 2 steps ahead"]) == ([5.0, 5.0], [0.5, None])
    json.dumps(found, allow_nan=False)


def test_agents_without_checks_and_runs_that_do_not_count_have_no_say(checked, make_run, tmp_path):
    make_run("sac")
    assert table_of(tmp_path) is None
    checked(0, {200: {}})
    checked(1, {200: {"spread_mean": 77.0}}, status="failed")
    (row,) = table_of(tmp_path).rows
    assert row[:3] == ["jepa", "5.00 (n = 1, no interval)", "0.500 (n = 1, no interval)"]


def test_predictions_are_compared_as_far_ahead_as_all_go(checked, tmp_path):
    checked(0, {200: {}})
    checked(0, {200: {"open_loop_error_3": 0.1, "no_change_error_3": 0.2}}, agent="tdmpc2_form")
    assert [name for name in table_of(tmp_path).columns if "error" in name] == [
        "error 1 step ahead",
        "error 2 steps ahead",
    ]
