"""compare: agents x tasks x seeds, side by side, on the same steps and the same held-out episodes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from ..core.errors import RunFolderError, SettingsError, UnknownNameError, did_you_mean
from ..core.files import damage_reported, read_json, write_json
from ..core.runs import holds_run
from ..core.settings import Range, Settings
from .jobs import Job, folder_of, run_jobs
from .published import Published
from .results import RunResult, read_results
from .settings import (
    Episodes,
    Evaluations,
    Steps,
    TrainSettings,
    command_line,
    judged_until,
    require_steps_for_planners,
    resolved_settings,
)
from .stage import isolated_generators
from .summary import Summary, summarise

COMPARISON_FILE = "comparison.json"
OnChange = Callable[[Sequence[Job], Job | None], None]


@dataclass(frozen=True)
class CompareSettings(Settings):
    """What is compared."""

    tasks: tuple[str, ...]
    """Tasks by name."""
    agents: tuple[str, ...] = ("jepa", "sac")
    """Agents by name; the others are compared with the first that is not random."""
    variants: dict[str, str] = field(default_factory=dict)
    """The agent behind each of ``agents`` that is not called by its own name."""
    seeds: Annotated[int, Range(ge=1, le=1000)] = 3
    """Runs per agent and task, with the seeds 0, 1, ... One tells nothing of the spread; five are a claim."""
    steps: Steps = 10_000
    """Environment steps of each run."""
    task_steps: dict[str, Steps] = field(default_factory=dict)
    """Environment steps on tasks that take more or fewer."""
    evaluations: Evaluations = 10
    """Evaluations, evenly spread over each run."""
    planners_at: tuple[Steps, ...] = ()
    """Steps of evaluations at which agents that plan are judged by each planner in turn, too."""
    planners: tuple[str, ...] = ()
    """Which planners these are, each alone or with settings of its own, as in icem+horizon=5; by default all of
    Forethought's own. The bare actor is always among them."""
    simulator_at: tuple[Steps, ...] = ()
    """Those of them at which the usual planner also tries its plans out in the true simulator of a MuJoCo task: the
    ceiling of what planning could bring."""
    episodes: Episodes = 10
    """Held-out episodes per evaluation, the same for all."""
    evaluation_seed: Annotated[int, Range(ge=0)] = 0
    """Names the set of held-out episodes."""
    jobs: Annotated[int, Range(ge=1, le=1024)] | None = None
    """Runs at the same time, each on one core; by default as many as there are cores."""
    device: str = "auto"
    """Where to compute: auto, cpu or cuda."""
    video: bool = True
    """Film the last evaluation of each agent's first seed."""
    agent_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The agents' own settings, by what ``agents`` calls them."""
    anchors: dict[str, float] = field(default_factory=dict)
    """Returns that count as 1 where scores are normalised; on other tasks the best agent's mean does."""
    published: tuple[Published, ...] = ()
    """What others have published about these tasks, shown beside what is measured here."""
    rivals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Agents that the first one is to be ahead of, by what they are called together: of several, on each task the best
    counts. Of those that are not compared here, nothing is claimed."""

    _named: ClassVar = {"variants": "agents", "agent_settings": "agents", "task_steps": "tasks", "anchors": "tasks"}
    """Fields that hold something for some of the tasks or agents."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_steps_for_planners(self)
        for name in ("tasks", "agents"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise SettingsError(f"CompareSettings.{name} = {values!r} must name at least one, and none twice.")
        others = [one.agent for one in self.published]
        if len(set(others)) < len(others):
            raise SettingsError(f"CompareSettings.published = {others!r} must name no agent twice.")
        for rival, members in self.rivals.items():
            if not isinstance(members, list | tuple) or not members:
                raise SettingsError(f"CompareSettings.rivals.{rival} = {members!r} must be a list of agents.")
        for name in self.variants:
            if not name[:1].isalnum():  # folders are named after it
                raise SettingsError(f"CompareSettings.variants: the name {name!r} must begin with a letter or a digit.")
        for field_name, kind in self._named.items():
            unknown = [name for name in getattr(self, field_name) if name not in getattr(self, kind)]
            if unknown:
                raise SettingsError(f"{field_name} names {unknown[0]!r}, which is not among the {kind} compared.")

    def part(self, tasks: Sequence[str] | None = None, agents: Sequence[str] | None = None) -> CompareSettings:
        """Return the comparison of only these tasks and agents; ``None`` keeps all.

        Raises:
            SettingsError: for a task or agent that is not compared.
        """
        kept = {
            "tasks": self.tasks if tasks is None else tuple(tasks),
            "agents": self.agents if agents is None else tuple(agents),
        }
        for field_name, names in kept.items():
            known = getattr(self, field_name)
            for name in names:
                if name not in known:
                    raise SettingsError(f"It has no {field_name[:-1]} {name!r}.{did_you_mean(name, known)}")
        own: dict[str, Any] = {
            field_name: {name: value for name, value in getattr(self, field_name).items() if name in kept[kind]}
            for field_name, kind in self._named.items()
        }
        return self.replace(**kept, **own)

    def up_to(self, steps: int) -> CompareSettings:
        """Return the comparison of ``steps`` steps only, judged at the same ones as the whole.

        Raises:
            SettingsError: it is not judged after so many steps, or tasks have steps of their own.
        """
        evaluations, rest = divmod(steps * self.evaluations, self.steps)
        if self.task_steps or steps > self.steps or rest:
            every = f"it is judged every {self.steps / self.evaluations:,g} steps"
            own = "its tasks have steps of their own" if self.task_steps else every
            raise SettingsError(f"steps = {steps:,} is no part of it: {own}, up to {self.steps:,}.")
        return self.replace(
            steps=steps,
            evaluations=evaluations,
            **judged_until(steps, self),
        )

    def runs(self) -> list[TrainSettings]:
        """Return what each run is asked for; first seeds come first, so that all agents can soon be seen."""

        def steps(task: str) -> int:
            return self.task_steps.get(task, self.steps)

        return [
            TrainSettings(
                task=task,
                agent=self.variants.get(agent, agent),
                label=agent if agent in self.variants else "",
                steps=steps(task),
                seed=seed,
                evaluations=self.evaluations,
                **judged_until(steps(task), self),
                episodes=self.episodes,
                evaluation_seed=self.evaluation_seed,
                device=self.device,
                video=self.video and seed == 0,
                agent_settings=self.agent_settings.get(agent, {}),
            )
            for seed in range(self.seeds)
            for task in self.tasks
            for agent in self.agents
        ]


def compare(settings: CompareSettings, folder: str | os.PathLike[str], on_change: OnChange | None = None) -> Summary:
    """Make all runs and say what they show.

    Called again with the same settings and folder, it skips the runs that are finished and goes on with the others;
    with more seeds, tasks or agents, it adds theirs, and all are compared with the agent that was the first one then.

    Args:
        settings: what is compared.
        folder: root of the runs, ``folder/task/agent/seed_k``; a run's process writes to ``log.txt`` in it.
        on_change: called with all jobs, and the one that began or ended (``None`` otherwise), about twice a second.

    Raises:
        ForethoughtError: a task, agent or setting that does not exist or does not fit, before any run is begun; a
            folder that holds runs with other settings, given or by default.
        KeyboardInterrupt: Ctrl-C; the runs in progress have saved what they have.
    """
    root = Path(folder)
    jobs = [Job(run, folder_of(root, run)) for run in settings.runs()]
    built = BuiltAgents()
    for job in jobs:
        job.prepare(built.settings)
    waiting = [job.settings for job in jobs if job.state == "waiting"]
    for run in waiting:  # so that what cannot work is refused before hours of work
        try:
            built.check(run)
        except SettingsError as error:
            raise SettingsError(f"{run.name} on {run.task}: {error}") from error
    before = read_comparison(root)
    order = list(dict.fromkeys([*before["agents"], *settings.agents]))
    command = command_line() if waiting else before.get("command", command_line())
    anchors = {**before["anchors"], **settings.anchors}
    published = {one.agent: one for one in [*before["published"], *settings.published]}.values()
    comparison = {"settings": settings.to_dict(), "agents": order, "anchors": anchors}
    comparison |= {"published": [one.to_dict() for one in published], "command": command}
    comparison |= {"rivals": {**before["rivals"], **settings.rivals}}
    write_json(root / COMPARISON_FILE, comparison)
    report = on_change or (lambda jobs, job: None)
    report(jobs, None)
    run_jobs(jobs, settings.jobs or _cores(), lambda job: report(jobs, job))
    unmade = [
        f"{job.settings.name} on {job.settings.task}, seed {job.settings.seed}, could not begin: {job.reason}"
        for job in jobs
        if job.state == "failed" and not (job.began and holds_run(job.folder))
    ]
    if len(unmade) == len(jobs):
        raise RunFolderError(f"None of the runs could begin. {unmade[0]}")
    return summarise_folders([root], unmade)


def summarise_folders(
    folders: Sequence[str | os.PathLike[str]],
    notes: Sequence[str] = (),
    anchors: Mapping[str, float] | None = None,
    first: str | None = None,
    tasks: Sequence[str] | None = None,
    steps: int | None = None,
) -> Summary:
    """Read all runs in ``folders`` and say what they show, agents in the order in which they were compared.

    Args:
        folders: run folders, or folders that hold some at any depth.
        notes: what is known already.
        anchors: returns that count as 1 in normalised scores, by task, instead of what the comparisons have noted.
        first: the agent that comes first, whose leads over the others are told.
        tasks: only these, in this order; all by default.
        steps: only what was seen until then, as if no run had gone on; see :meth:`~.results.RunResult.until`.

    Raises:
        RunFolderError: a folder that does not exist or holds no run, or no run evaluated after ``steps``.
        UnknownNameError: there is no run of the agent that is to come first, or of one of the tasks.
        SettingsError: an anchor that is no finite number, or of a task that there is no run of.
        CheckpointError: what a comparison has noted there is damaged.
    """
    runs, unread = read_results(folders)
    runs = _chosen(runs, tasks, steps)
    if steps is not None:
        notes = [*notes, f"This is what was seen after {steps:,} steps at most."]
    roots = {path.parent: None for folder in map(Path, folders) for path in sorted(folder.rglob(COMPARISON_FILE))}
    known = [read_comparison(root) for root in roots]
    order = [name for one in known for name in one["agents"]]
    if first is not None:
        names = {run.settings.name for run in runs}
        if first not in names:
            raise UnknownNameError(f"There is no run of an agent {first!r}.{did_you_mean(first, names)}")
        order.insert(0, first)
    given = dict(anchors or {})
    _check_anchors(given, list(dict.fromkeys(run.settings.task for run in runs)))
    counted = dict(given)
    differing = []
    for task, value in (pair for one in known for pair in one["anchors"].items() if pair[0] not in given):
        if counted.setdefault(task, value) != value:
            differing.append(f"{task}: comparisons differ in the anchor; {counted[task]:,g} counts, not {value:,g}.")
    published = [one for noted in known for one in noted["published"]]
    rivals: dict[str, tuple[str, ...]] = {}
    for name, agents in (pair for one in known for pair in one["rivals"].items()):
        if rivals.setdefault(name, agents) != agents:
            differing.append(f"Comparisons differ in whom they call {name}; {', '.join(rivals[name])} count.")
    return summarise(runs, [*notes, *unread, *differing], list(dict.fromkeys(order)), counted, published, rivals)


def _chosen(runs: Sequence[RunResult], tasks: Sequence[str] | None, steps: int | None) -> list[RunResult]:
    """Return the runs of these tasks, in their order, as they were known after so many steps; ``None`` keeps all."""
    chosen = list(runs)
    if tasks is not None:
        present = {run.settings.task for run in runs}
        for task in tasks:
            if task not in present:
                raise UnknownNameError(f"There is no run of a task {task!r}.{did_you_mean(task, present)}")
        chosen = [run for task in dict.fromkeys(tasks) for run in runs if run.settings.task == task]
    if steps is None:
        return chosen
    if not any(steps in run.steps for run in chosen):
        evaluated = sorted({int(step) for run in chosen for step in run.steps})
        at = f"they were after {', '.join(f'{step:,}' for step in evaluated)}" if evaluated else "none was at all"
        raise RunFolderError(f"No run was evaluated after {steps:,} steps; {at}.")
    return [run.until(steps) for run in chosen]


def _check_anchors(anchors: Mapping[str, float], tasks: Sequence[str]) -> None:
    for task, value in anchors.items():
        if task not in tasks:
            raise SettingsError(f"There is an anchor of {task!r}, but no run.{did_you_mean(task, tasks)}")
        if not math.isfinite(value):
            raise SettingsError(f"The anchor of {task} must be a finite return, not {value}.")


class BuiltAgents:
    """Builds each agent once on each task, to see whether it can be built, and with what settings."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, Any] | Exception] = {}

    def check(self, run: TrainSettings) -> None:
        """Raise what building the agent raises; see :func:`~forethought.make_agent`."""
        if isinstance(found := self._build(run), Exception):
            raise found

    def settings(self, run: TrainSettings) -> dict[str, Any] | None:
        """Return all settings that the agent works with, or ``None`` if it cannot be built any more."""
        found = self._build(run)
        return None if isinstance(found, Exception) else found

    def _build(self, run: TrainSettings) -> dict[str, Any] | Exception:
        key = run.task, run.name
        if key not in self._found:
            try:
                self._found[key] = _built_settings(run)
            except Exception as error:  # of anyone's environment or agent
                self._found[key] = error
        return self._found[key]


def _built_settings(run: TrainSettings) -> dict[str, Any]:
    from ..agents import make_agent
    from .planner_table import check_planners

    with isolated_generators(0):  # SB3's models seed the global ones
        agent = make_agent(run.agent, run.task, seed=run.seed, device=run.device, **run.agent_settings)
        if run.planners and hasattr(agent, "planning_with"):
            check_planners(agent, run.planners)
        return resolved_settings(agent)


def read_comparison(root: Path) -> dict[str, Any]:
    """Return what the comparison in ``root`` has noted.

    That is its agents in order, anchors by task, what others have published, rivals and, if any, its command.

    Raises:
        CheckpointError: its file is damaged.
    """
    path = root / COMPARISON_FILE
    if not path.exists():
        return {"agents": [], "anchors": {}, "published": [], "rivals": {}}
    known = read_json(path)
    with damage_reported(path):
        noted: dict[str, Any] = {
            "agents": [str(name) for name in known.get("agents", [])],
            "anchors": {str(task): float(value) for task, value in known.get("anchors", {}).items()},
            "published": [Published.from_dict(one) for one in known.get("published", [])],
            "rivals": {str(name): tuple(map(str, agents)) for name, agents in known.get("rivals", {}).items()},
        }
        return noted | ({"command": str(known["command"])} if "command" in known else {})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
