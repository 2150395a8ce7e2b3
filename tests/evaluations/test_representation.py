"""What a comparison says about the latents of its world models."""

from __future__ import annotations

import json

import pytest

from forethought.core.runs import Run
from forethought.evaluations.representation import LAST_CHECKS

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
    """Return a function that writes a run whose latents were checked, once for each mapping of what differs."""

    def write(seed, *checks, agent="jepa", status="finished"):
        with Run.open(make_run(agent, seed)) as run:
            for step, check in enumerate(checks, 1):
                run.log({f"health/{name}": value for name, value in {**CHECK, **check}.items()}, 400 + step)
            run.set_status(status)

    return write


def table_of(root):
    tables = [table for table in summary_of(root).tables() if "latents at the end" in table.title]
    return tables[0] if tables else None


def test_the_last_checks_are_averaged_and_errors_are_shares_of_expecting_no_change(checked, tmp_path):
    early = [{"effective_rank": 99.0, "spread_mean": 99.0}] * 3
    checked(0, *early, *[{"spread_mean": 0.4}, {"spread_mean": 0.6}] * (LAST_CHECKS // 2))
    table = table_of(tmp_path)
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
    assert row[-1] == f"0 of {3 + LAST_CHECKS}"


def test_seeds_give_an_interval_and_alarms_are_counted_from_the_beginning(checked, tmp_path):
    checked(0, {"collapsed": 1.0}, *[{}] * LAST_CHECKS)
    checked(1, *[{"effective_rank": 7.0}] * LAST_CHECKS)
    (row,) = table_of(tmp_path).rows
    assert row[1] == "6.00 [5.00, 7.00]"
    assert row[-1] == f"1 of {1 + 2 * LAST_CHECKS}"


def test_a_figure_that_is_not_known_of_every_seed_is_left_empty(checked, tmp_path):
    checked(0, {}, {"effective_rank": None})
    checked(1, {"open_loop_error_2": None})
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
    checked(0, {})
    checked(1, {"spread_mean": 77.0}, status="failed")
    (row,) = table_of(tmp_path).rows
    assert row[:3] == ["jepa", "5.00 (n = 1, no interval)", "0.500 (n = 1, no interval)"]


def test_agents_that_predict_as_far_as_each_other_or_less_are_compared_where_all_do(checked, tmp_path):
    checked(0, {})
    checked(0, {"open_loop_error_3": 0.1, "no_change_error_3": 0.2}, agent="tdmpc2_form")
    table = table_of(tmp_path)
    assert [len(row) for row in table.rows] == [7, 7]
    assert "error 3 steps ahead" not in table.columns
