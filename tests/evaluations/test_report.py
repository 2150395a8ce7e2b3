"""A report is one page that needs nothing beside itself, shows what there is, and says what cannot be claimed."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from PIL import Image

from forethought.core.errors import RunFolderError
from forethought.core.files import write_json
from forethought.core.runs import Run
from forethought.evaluations import plots
from forethought.evaluations.published import Published
from forethought.evaluations.report import report
from forethought.evaluations.results import read_results
from forethought.evaluations.summary import summarise
from forethought.evaluations.tables import Table


class Page(HTMLParser):
    """Collects what a page links to and checks that every tag that is opened is closed."""

    VOID = {"meta", "img", "source"}

    def __init__(self, text):
        super().__init__()
        self.open, self.sources = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def comparison(make_run, tmp_path):
    for seed in (0, 1):
        make_run("jepa", seed, (1.0, 4.0, 5.0, 6.0), policy=3.0)
        make_run("sac", seed, (1.0, 2.0, 3.0, 4.0))
    return tmp_path


def test_the_page_is_well_formed_and_needs_nothing_else(comparison):
    text = report(comparison).html.read_text()
    sources = Page(text).sources
    assert len(sources) == 4, "two plots, each for light and for dark ground"
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", text)


def test_page_markdown_json_and_plots_hold_the_same_figures(comparison):
    written = report(comparison)
    assert written.html.parent == comparison / "report"
    markdown = written.markdown.read_text()
    data = json.loads(written.results.read_text())["tasks"]["Task-v0"]["agents"]["sac"]
    assert data["scores"] == [3.0, 3.0]
    assert "3.00 [3.00, 3.00]" in markdown
    assert "3.00 [3.00, 3.00]" in written.html.read_text()
    for path in written.plots:
        assert f"({path.name})" in markdown
        with Image.open(path) as picture:
            assert min(picture.size) > 400


def test_names_are_escaped(make_run, tmp_path):
    make_run(agent_settings={"note": "<script>alert(1)</script>"}, status="failed", reason="<b>bold</b>")
    text = report(tmp_path).html.read_text()
    Page(text)
    assert "<script>" not in text
    assert "<b>bold" not in text


def test_films_and_planner_tables_of_the_runs_are_shown(make_run, tmp_path):
    folder = make_run()
    (folder / "videos").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "videos" / "final.gif")
    table = Table(("planner", "return"), (("icem", "9"),), "title", ("a note",))
    write_json(folder / "planners.json", {"table": table.to_dict()})
    written = report(tmp_path)
    text = written.html.read_text()
    assert "data:image/gif;base64," in text
    assert "<td>icem</td>" in text
    for kind in (written.html, written.markdown):
        assert "Swapping the planner of jepa on Task-v0, seed 0" in kind.read_text()


def test_a_foreign_planner_table_does_not_spoil_the_report(make_run, tmp_path):
    (make_run() / "planners.json").write_text("[]")
    assert "Swapping" not in report(tmp_path).html.read_text()


def test_doubts_come_first(make_run, tmp_path):
    make_run()
    text = report(tmp_path).html.read_text()
    assert text.index("Before believing it") < text.index("a single seed") < text.index('class="card"')


def test_a_run_that_has_not_been_evaluated_yet_is_reported_without_plots(make_run, tmp_path):
    make_run(returns=(), status="running")
    written = report(tmp_path)
    assert not written.plots
    assert "no claim" in written.html.read_text()


def test_versions_settings_and_commands_are_on_the_page(comparison):
    text = report(comparison).html.read_text()
    assert "forethought train Task-v0 --agent jepa --steps 400 --seed 0" in text
    assert "gymnasium 1." in text
    assert "&quot;episodes&quot;: 2" in text
    with Run.open(comparison / "Task-v0/jepa/seed_0") as run:
        run.note(command="forethought train Task-v0 --planning.horizon 3")
    assert "forethought train Task-v0 --planning.horizon 3" in report(comparison).html.read_text()
    write_json(comparison / "comparison.json", {"command": "forethought compare Task-v0", "agents": ["sac", "jepa"]})
    text = report(comparison).html.read_text()
    assert "<code>forethought compare Task-v0</code>" in text
    assert "P(sac is better)" in text


def test_a_folder_without_runs_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RunFolderError):
        report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_output_and_title_can_be_chosen(comparison, tmp_path):
    written = report([comparison], tmp_path / "elsewhere", "A <fine> title")
    assert written.html == tmp_path / "elsewhere" / "report.html"
    assert "<h1>A &lt;fine&gt; title</h1>" in written.html.read_text()


def test_several_tasks_are_summed_up_in_one_figure(make_run, tmp_path):
    for task in ("A-v0", "B-v0"):
        make_run("jepa", 0, task=task)
        make_run("sac", 0, (1.0, 1.0, 1.0, 1.0), task=task)
    assert "all_tasks.png" in {path.name for path in report(tmp_path).plots}


def test_labels_stand_beside_their_lines_without_overlap(make_run, tmp_path):
    for index, agent in enumerate(("jepa", "sac", "ppo", "td3")):
        make_run(agent, 0, (1.0, 2.0, 3.0, 4.0 + index / 100))
    summary = summarise(*read_results([tmp_path]))
    figure = plots.learning_curves(summary, summary.tasks[0])
    heights = sorted(text.xyann[1] for text in figure.axes[0].texts)
    assert len(heights) == 5, "four agents, and acting at random"
    assert min(after - before for before, after in itertools.pairwise(heights)) > 0.05


def test_an_interval_is_drawn_only_where_there_is_one(make_run, tmp_path):
    make_run("jepa", 0)
    make_run("jepa", 1, (2.0, 3.0, 4.0, 5.0))
    make_run("sac", 0)
    summary = summarise(*read_results([tmp_path]))
    assert len(plots.learning_curves(summary, summary.tasks[0]).axes[0].collections) == 1


def test_what_others_have_published_is_drawn_as_such_as_far_as_the_runs_go(make_run, tmp_path):
    make_run("jepa", 0, (4.0, 5.0))
    others = Published("MR.Q", "its files", (100, 200, 400), {"Task-v0": (5.0, 7.0, 30.0)})
    (task,) = (summary := summarise(*read_results([tmp_path]), published=[others])).tasks
    axes = plots.learning_curves(summary, task).axes[0]
    assert [text.get_text() for text in axes.texts if "MR.Q" in text.get_text()] == ["MR.Q, published"]
    crosses = next(line for line in axes.lines if line.get_marker() == "x")
    assert (list(crosses.get_xdata()), list(crosses.get_ydata())) == ([100, 200], [5.0, 7.0])
    drawn = plots.return_against_cpu(summary, task).axes[0]
    assert not any("published" in text.get_text() for text in drawn.texts), "nobody has published their computing time"


def test_memory_beyond_the_experience_is_drawn_where_it_was_logged(make_run, tmp_path):
    make_run("jepa", 0, memory_mb=(300.0, 100.0))
    make_run("sac", 0)
    (run, other), _ = read_results([tmp_path])
    assert (run.memory_mb == 200).all()
    assert not np.isfinite(other.memory_mb).any()
    assert "memory_Task-v0.png" in {path.name for path in report(tmp_path).plots}
    summary = summarise(*read_results([tmp_path]))
    axes = plots.memory(summary, summary.tasks[0]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["jepa  200.0  (1 seed, no interval)"]
    assert axes.get_ylim()[0] == 0


def test_plotting_touches_no_global_state(comparison):
    settings = dict(matplotlib.rcParams)
    report(comparison)
    assert dict(matplotlib.rcParams) == settings
    assert not Gcf.get_all_fig_managers(), "no figure is left for pyplot to show"
