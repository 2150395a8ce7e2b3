"""Benchmarks: what is written down can be read, made, and told from what is not a benchmark."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import torch

from forethought import make_agent
from forethought.agents.registry import agents
from forethought.core.clip import Clip
from forethought.core.errors import SettingsError
from forethought.envs import make_env
from forethought.evaluations import benchmark
from forethought.evaluations.benchmark import available_benchmarks, read_benchmark
from forethought.evaluations.true_simulator import TrueSimulator

SMALL = {"model": {"latent_dims": 8, "hidden": 16, "directions": 8}, "behaviour": {"hidden": 16}}


PUBLISHED = "tasks = ['Pendulum-v1']\n[agents.sac]\n[[published]]\nagent = 'MR.Q'\nsteps = [1, 2]"
WHOLE = f"{PUBLISHED}\nsource = ''\nreturns = {{}}"


@pytest.fixture(autouse=True)
def _forget_placebos_and_controls():
    """Leave the registry to other tests as it was: naming a module registers what it holds."""
    yield
    for module in ("placebos", "controls"):
        sys.modules.pop(f"forethought.evaluations.{module}", None)
    for name in ("frozen_encoder", "permuted_actions", "sac_short_episodes"):
        agents._entries.pop(name, None)


@pytest.mark.filterwarnings("ignore:.*out of date")  # Gymnasium, of version 4
@pytest.mark.parametrize("name", available_benchmarks())
def test_every_agent_of_every_benchmark_can_be_built_on_all_of_its_tasks(name):
    asked = read_benchmark(name)
    for run in asked.runs():
        if run.seed == 0:
            make_agent(run.agent, run.task, **run.agent_settings)


@pytest.mark.filterwarnings("ignore:.*out of date")  # Gymnasium, of version 4
@pytest.mark.parametrize("name", ["mujoco-v4", "mujoco-v5"])
def test_plans_can_be_tried_out_in_the_true_simulator_where_that_is_asked_for(name):
    asked = read_benchmark(name)
    assert asked.simulator_at == (50_000, 100_000)
    for task in asked.tasks:
        TrueSimulator(partial(make_env, task)).close()


def test_the_collapse_benchmark_is_the_experiment_that_it_claims_to_be():
    asked = read_benchmark("collapse")
    assert (asked.steps, asked.seeds, len(asked.tasks)) == (30_000, 3, 3)
    models = {run.name: make_agent(run.agent, "Pendulum-v1", **run.agent_settings).model for run in asked.runs()}
    described = {
        name: (model.settings.latent_form, model.settings.target, model.settings.regularize)
        for name, model in models.items()
    }
    assert {name: model.settings.latent_dims for name, model in models.items() if model.settings.latent_dims != 64} == {
        "sigreg_wide": 128,
        "layer_copy_wide": 128,
    }
    assert described == {
        "sigreg": ("free", "both", "latent"),
        "sigreg_wide": ("free", "both", "latent"),
        "sigreg_projector": ("free", "both", "projector"),
        "layer_stop": ("layer", "stop", "nothing"),
        "layer_copy": ("layer", "copy", "nothing"),
        "layer_copy_wide": ("layer", "copy", "nothing"),
        "simplicial_copy": ("simplicial", "copy", "nothing"),
        "nothing": ("free", "both", "nothing"),
        "permuted_actions": ("free", "both", "latent"),
        "frozen_encoder": ("free", "both", "latent"),
    }


def changes(name, plain="plain"):
    """Return the settings of a benchmark's plain agent, and by which each of the others differs from it."""
    settings = {
        run.name: make_agent(run.agent, "Pendulum-v1", **run.agent_settings).settings.to_dict()
        for run in read_benchmark(name).runs()
    }
    plain = settings.pop(plain)
    assert plain["planning"]["planner"] == "policy"  # all are judged by their bare actors

    def changed(ours):
        groups = [group for group in ours if isinstance(ours[group], dict) and group != "acting"]
        inner = {
            f"{group}.{part}": value
            for group in groups
            for part, value in ours[group].items()
            if value != plain[group][part]
        }
        return inner | {part: ours[part] for part in ours if part not in groups and ours[part] != plain[part]}

    return plain, {variant: changed(ours) for variant, ours in settings.items()}


def test_levers_change_one_thing_each():
    plain, changed = changes("levers")
    acting = plain["acting"] | {"planner": "auto", "horizon": 3, "budget": 32, "proposals": 8}
    assert plain["cut_if_terminating"]
    uncut = {name for name, ours in changed.items() if ours.pop("cut_if_terminating", True) is False}
    assert uncut == set(changed) - {"recorded_targets", "whole_episodes", "slow_critic", "fast_actor", "half_batch"}
    assert changed == {
        "recorded_targets": {"behaviour.value_expansion": None},
        "whole_episodes": {"episode_share": None},
        "whole_if_terminating": {},
        "slow_critic": {"behaviour.learning_rate": 3e-4},
        "fast_actor": {"behaviour.actor_learning_rate": 1e-3},
        "half_batch": {"batch_size": 128},
        "climb_3": {"behaviour.actor_expansion": 3},
        "climb_5": {"behaviour.actor_expansion": 5},
        "imagined_starts": {"behaviour.imagined_starts": True, "behaviour.value_expansion": 4},
        "updates_2": {"updates_per_step": 2.0},
        "faded": {"fading": 1e-4},
        "value_bins": {"behaviour.critic_bins": 65},
        "means": {"behaviour.critic_bound": 100.0},
        "mean_bins": {"behaviour.critic_bins": 65, "behaviour.critic_mean": "values"},
        "spells": {"exploration_spell": 50},
        "trials": {"trial_share": 0.2},
        "planned_acting": {"acting": acting},
        "quiet": {"exploration": 0.1},
    }


def test_own_actions_change_who_tells_the_actor_and_nothing_else():
    plain, changed = changes("own-actions")
    assert (plain["behaviour"]["expansion_limit"], plain["exploration_spread"]) == (None, 0.0)
    sigreg = {"model.regularize": "latent", "model.latent_form": "free", "model.target": "both"}
    assert changed == {
        "climb_1": {"behaviour.actor_expansion": 1},
        "climb_1_sigreg": {"behaviour.actor_expansion": 1} | sigreg,
        "imagined_starts": {"behaviour.imagined_starts": True},
        "limited_targets": {"behaviour.expansion_limit": 3.0},
        "varied_noise": {"exploration_spread": 1.0},
        "smoothed_actor": {"behaviour.actor_smoothing": 0.2},
        "as_explored": {"behaviour.actor_smoothing": 0.2, "behaviour.imagined_noise": 0.2},
        "recorded_targets": {"behaviour.value_expansion": None},
    }


def test_what_is_tried_against_falling_is_what_it_is_called():
    plain, changed = changes("falling")
    assert not plain["cut_if_terminating"]
    explored = {"behaviour.actor_smoothing": 0.2, "behaviour.imagined_noise": 0.2}
    means = {"behaviour.critic_bound": 100.0}
    assert changed == {
        "means": means,
        "mean_bins": {"behaviour.critic_bins": 65, "behaviour.critic_mean": "values"},
        "as_explored": explored,
        "as_explored_means": explored | means,
        "quiet": {"exploration": 0.1},
        "spells": {"exploration_spell": 50},
        "trials": {"trial_share": 0.2},
        "spells_limited": {"exploration_spell": 50, "behaviour.expansion_limit": 3.0},
        "quiet_limited": {"exploration": 0.1, "behaviour.expansion_limit": 3.0},
    }


def test_the_screening_of_sigreg_turns_one_knob_each():
    plain, changed = changes("sigreg-knobs", plain="sigreg")
    assert plain["model"]["regularize"] == "latent"
    assert changed == {
        "wide": {"model.latent_dims": 128},
        "light": {"model.regularizer_weight": 1e-3},
        "directions": {"model.directions": 256},
        "projector": {"model.regularize": "projector"},
        "free_mean": {"model.regularize_mean": False},
    }


def test_the_control_learns_from_episodes_as_short_as_the_agents(tmp_path):
    from forethought.evaluations.controls import SACShortEpisodes

    lengths = {}

    def note(local, _):
        infos = local["infos"]
        lengths[name] += [info["episode"]["l"] for info in infos if "episode" in info]
        return True

    few = {"jepa": {**SMALL, "learning_starts": 10**6, "episode_share": 0.02}, "sac": {"learning_starts": 10**6}}
    for name, kind in (("jepa", "jepa"), ("sac", "forethought.evaluations.controls:sac_short_episodes")):
        lengths[name] = []
        agent = make_agent(kind, "MountainCarContinuous-v0", **few[name])
        agent.learn(6_000, note)
    assert lengths["jepa"] == lengths["sac"]
    assert lengths["sac"][0] == 100 < lengths["sac"][-1]
    agent.save(tmp_path / "control")
    assert SACShortEpisodes.load(tmp_path / "control").seed == 0


def test_a_part_keeps_what_belongs_to_its_tasks_and_agents():
    asked = read_benchmark("mujoco-short")
    part = asked.part(["Hopper-v5"], ["jepa", "sac_zoo"])
    assert (part.tasks, part.agents) == (("Hopper-v5",), ("jepa", "sac_zoo"))
    assert part.task_steps == {"Hopper-v5": 50_000}
    assert part.variants == {"sac_zoo": "sac"}
    assert {(run.name, run.agent, run.steps) for run in part.runs()} == {
        ("jepa", "jepa", 50_000),
        ("sac_zoo", "sac", 50_000),
    }
    assert asked.part() == asked
    assert {run.steps for run in asked.part(["Reacher-v5"]).runs()} == {20_000}
    with pytest.raises(SettingsError, match=r"no task 'Hoper-v5'\. Did you mean 'Hopper-v5'"):
        asked.part(["Hoper-v5"])


def test_levels_of_the_field_are_read_off_the_published_figures():
    asked = read_benchmark("mujoco-v4")
    at_random = {"HalfCheetah-v4": -289.4, "Hopper-v4": 18.8, "Walker2d-v4": 2.8, "Ant-v4": -70.3, "Humanoid-v4": 120.4}
    means = {
        one.agent: np.mean(
            [(one.returns[task][-1] - low) / (asked.anchors[task] - low) for task, low in at_random.items()]
        )
        for one in asked.published
    }
    known = {"MR.Q": 0.61, "CrossQ": 0.74, "DR.Q": 0.76, "XQC": 0.80, "SimBa": 0.89, "DHMBPO": 1.37, "TD-MPC2": 0.30}
    assert {name: round(means[name], 2) for name in known} == known
    assert all(one.steps[-1] == asked.steps for one in asked.published)


def test_a_file_is_as_good_as_a_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('tasks = ["Pendulum-v1"]\n[agents.sac]\n[agents.wide]\nagent = "jepa"\nsettings.batch_size = 8\n')
    asked = read_benchmark(path)
    assert asked.agents == ("sac", "wide")
    assert [(run.name, run.agent, run.agent_settings) for run in asked.runs() if run.seed == 0] == [
        ("sac", "sac", {}),
        ("wide", "jepa", {"batch_size": 8}),
    ]


def test_what_agents_share_is_said_once_and_can_be_had_otherwise(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'tasks = ["Pendulum-v1"]\nseeds = 1\n[settings]\nbatch_size = 8\nmodel = { hidden = 16, vision = "none" }\n'
        "[agents.jepa]\n[agents.wide]\nagent = 'jepa'\nsettings.model = { hidden = 64 }\n"
    )
    assert {run.name: run.agent_settings for run in read_benchmark(path).runs()} == {
        "jepa": {"batch_size": 8, "model": {"hidden": 16, "vision": None}},
        "wide": {"batch_size": 8, "model": {"hidden": 64, "vision": None}},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = [", "is not a benchmark that can be read"),
        ('tasks = ["Pendulum-v1"]', r"needs a table \[agents.NAME\]"),
        ('tasks = ["Pendulum-v1"]\n[agents.a]\nagnet = "jepa"', "agents.a has no 'agnet'. Did you mean 'agent'"),
        ('task = ["Pendulum-v1"]\n[agents.sac]', "has no setting 'task'. Did you mean 'tasks'"),
        (
            "tasks = ['Pendulum-v1']\ntask_steps.CartPole-v1 = 9\n[agents.sac]",
            "'CartPole-v1', which is not among the t",
        ),
        ("settings = 3\ntasks = ['Pendulum-v1']\n[agents.sac]", ": settings = 3 must be a table"),
        ("tasks = ['Pendulum-v1']\n[agents.sac]\nsettings = 3", r"agents\.sac\.settings = 3 must be a table"),
        ("steps = 0\ntasks = ['Pendulum-v1']\n[agents.sac]", "steps = 0 is out of range"),
        (PUBLISHED, "needs a value for source"),
        (f"{PUBLISHED}\nsource = ''\nreturns.A-v0 = [1, 2]", "'A-v0' is not among the tasks compared"),
        (f"{PUBLISHED}\nsource = ''\nreturns.Pendulum-v1 = [1]", "needs a return for each of the 2 steps"),
        (f"{PUBLISHED}\nsource = ''\nreturns.Pendulum-v1 = [1, nan]", "must be finite numbers"),
        (f"{PUBLISHED.replace('2', '1')}\nsource = ''\nreturns = {{}}", r"steps = \[1, 1\] must rise"),
        (f"{WHOLE}\n[[published]]\n{WHOLE.partition(']]')[2]}", "must name no agent twice"),
    ],
)
def test_what_is_no_benchmark_is_refused_in_words(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_benchmark(path)


def test_unknown_names_and_files_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="Did you mean 'collapse'"):
        read_benchmark("colapse")
    with pytest.raises(SettingsError, match=r"There is no file .*none\.toml, and no benchmark of that name"):
        read_benchmark(tmp_path / "none.toml")
    assert all(benchmark.FOLDER.joinpath(f"{name}.toml").exists() for name in available_benchmarks())


def test_the_placebos_are_spoilt_where_they_say_and_nowhere_else():
    from forethought.evaluations.placebos import FrozenEncoder, PermutedActions

    permuted = PermutedActions("Pendulum-v1", **SMALL).model
    frozen = FrozenEncoder("Pendulum-v1", **SMALL).model
    torch.nn.init.normal_(permuted.predictor.change.weight)
    generator = torch.Generator().manual_seed(0)
    clip = Clip(
        torch.randn(4, 4, 3, generator=generator),
        torch.rand(4, 3, 1, generator=generator),
        torch.randn(4, 3, generator=generator),
        torch.zeros(4, 3),
        torch.ones(4, 3),
    )
    directions = permuted.draw_directions(generator)
    shifted = Clip(clip.observations, clip.actions.roll(1, 0), clip.rewards, clip.terminated, clip.valid)
    sound = super(type(permuted), permuted).forward
    assert torch.equal(permuted(clip, directions).total, sound(shifted, directions).total)
    assert not torch.equal(permuted(clip, directions).total, sound(clip, directions).total)
    assert not any(parameter.requires_grad for parameter in frozen.encoder.parameters())
    assert all(parameter.requires_grad for parameter in frozen.predictor.parameters())
