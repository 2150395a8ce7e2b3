"""Figures of others stand beside ours, marked as what they are, and count for nothing."""

from __future__ import annotations

import json

import pytest

from forethought.evaluations.compare import COMPARISON_FILE, summarise_folders
from forethought.evaluations.published import Published

from .conftest import summary_of

OTHERS = Published("MR.Q", "its files, 10 seeds", (100, 200, 400), {"A-v0": (5, 7, 30), "B-v0": (1, 2, 5)})
"""Judged at the steps of the runs below, and later."""


def test_what_others_have_published_stands_below_ours_at_the_same_steps_and_counts_for_nothing(make_run, tmp_path):
    for task in ("A-v0", "B-v0"):
        for seed in (0, 1):
            make_run("jepa", seed, (4.0, 5.0 + seed), task=task, random=0.0)
    anchors = {"A-v0": 10.0, "B-v0": 20.0}
    alone, summary = summary_of(tmp_path, anchors=anchors), summary_of(tmp_path, anchors=anchors, published=[OTHERS])
    assert [task.horizon for task in summary.tasks] == [200, 200]
    table = next(table for table in summary.tasks[0].tables() if "published" in table.title)
    assert list(table.columns) == ["agent", "100 steps", "200 steps"], "and not what was published about later ones"
    ours, theirs = table.rows
    assert (ours[0], theirs) == ("jepa", ["MR.Q, published", "5.00", "7.00"])
    assert [cell.split()[0] for cell in ours[1:]] == ["4.00", "5.50"]
    assert "MR.Q: its files, 10 seeds." in table.notes[0]
    assert summary.published == {"MR.Q, published": pytest.approx((7 / 10 + 2 / 20) / 2)}
    assert summary.tables()[-1].rows[-1][0] == "MR.Q, published"
    assert summary.overall == alone.overall
    assert [task.table() for task in summary.tasks] == [task.table() for task in alone.tasks]
    assert json.loads(json.dumps(summary.to_dict()))["tasks"]["A-v0"]["published"][0]["agent"] == "MR.Q"


@pytest.mark.parametrize("anchors", [{}, {"A-v0": 10.0}])
def test_published_figures_are_normalised_by_anchors_alone(make_run, tmp_path, anchors):
    for task in ("A-v0", "B-v0"):
        make_run("jepa", 0, (4.0, 5.0), task=task, random=0.0)
        make_run("sac", 0, (1.0, 2.0), task=task, random=0.0)
    assert summary_of(tmp_path, anchors=anchors, published=[OTHERS]).published == {}


def test_published_figures_are_those_that_the_comparison_has_noted(make_run, tmp_path):
    make_run("jepa", 0, (4.0, 5.0), task="A-v0")
    (tmp_path / COMPARISON_FILE).write_text(json.dumps({"published": [OTHERS.to_dict()]}))
    (task,) = summarise_folders([tmp_path]).tasks
    assert [one.to_dict() for one in task.published] == [OTHERS.to_dict()]
