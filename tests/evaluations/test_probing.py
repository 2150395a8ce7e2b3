"""Probing: right targets, honest splits, measures that are what they say, and files that know their model."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from forethought.agents import make_agent
from forethought.core.errors import DivergedError, EnvironmentFault, RunFolderError, SettingsError, UnknownNameError
from forethought.core.quantity import Quantity
from forethought.core.runs import Run
from forethought.envs.recording import RecordedEpisode
from forethought.evaluations.latent_grid import (
    LatentGrid,
    goal_rank_correlation,
    imagined,
    model_state,
    straightness,
)
from forethought.evaluations.nominal import nominal_episodes, world_model_of
from forethought.evaluations.probe_fitting import Part, Probing, untrained, validation_episodes
from forethought.evaluations.probe_scores import score
from forethought.evaluations.probing import ProbeSettings, load_run_probes, probe_run
from forethought.evaluations.settings import TrainSettings
from forethought.evaluations.statistics import estimate_of_sums
from forethought.world_model import JEPA, Imagination, JEPASettings, MLPProbeSettings, TransformerSettings

TINY = MLPProbeSettings(hidden=16, updates=100, looks=2)
PLACE = (Quantity("place", "m"), Quantity("heading", "rad", True))


class PerfectWorld(torch.nn.Module):
    """Latents are the place and the heading's sine and cosine; actions move and turn, and it knows exactly how far.

    If it is late, it forgets the newest action.
    """

    device, latent_dims, action_dims, observation_shape = torch.device("cpu"), 3, 2, (3,)

    def __init__(self, block=1, late=False):
        super().__init__()
        self.settings, self.late = SimpleNamespace(context=1, block=block), late
        self.action_dims = 2 * block

    def encode(self, observations):
        return observations

    def imagine(self, state, actions):
        moves = actions.unflatten(-1, (-1, 2)).sum(-2)[:, 0].cumsum(1)  # (B, H, 2)
        if self.late:
            moves = torch.cat([torch.zeros_like(moves[:, :1]), moves[:, :-1]], 1)
        place = state.latents[:, None, 0] + moves[..., 0]
        heading = torch.atan2(state.latents[:, 1], state.latents[:, 2])[:, None] + moves[..., 1]
        return Imagination(torch.stack([place, heading.sin(), heading.cos()], -1)[:, None], None, None, None)


def walks(count, steps=60, seed=0):
    """Return episodes in which every step goes somewhere else."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        actions = rng.normal(size=(steps, 2)).astype(np.float32)
        states = np.concatenate([np.zeros((1, 2)), actions.cumsum(0)]) + rng.normal(size=(1, 2))
        seen = np.stack([states[:, 0], np.sin(states[:, 1]), np.cos(states[:, 1])], 1).astype(np.float32)
        episodes.append(RecordedEpisode(seen, actions, np.zeros(steps, np.float32), False, True, states))
    return episodes


def probing(model, fitting=6, held_out=4, **how):
    parts = []
    for seed, count in ((0, fitting), (1, held_out)):
        grid = LatentGrid.of(walks(count, seed=seed), model)
        parts.append(Part(grid, np.stack([grid.states[:, 0], np.arctan2(*grid.observations[:, 1:].T)], 1)))
    return Probing(model, PLACE, *parts, counts=(400, 200), mlp=TINY, **how)


def test_a_perfect_model_is_read_perfectly_at_every_depth():
    report = probing(PerfectWorld())
    [now] = report.read_now(("linear",), ("latent",))
    assert [scored.r.value for scored in now.scores] == pytest.approx([1, 1], abs=1e-5)
    assert [scored.rmse.value for scored in now.scores] == pytest.approx([0, 0], abs=1e-2)
    for depth in (1, 2, 7):
        [own, present], growth = report.read_ahead(depth, ("linear",))
        assert (own.depth, own.by_present, present.by_present) == (depth, False, True)
        assert present.fitted == now.fitted > own.fitted > 0
        for reading in (own, present):
            assert [scored.r.value for scored in reading.scores] == pytest.approx([1, 1], abs=1e-4)
        assert growth.relative.value < 1e-3
        assert growth.error < 1e-3 < growth.no_change


def test_a_model_that_lags_a_step_behind_is_found_out():
    report = probing(PerfectWorld(late=True))
    report.read_now(("linear",), ("latent",))
    (_, present), growth = report.read_ahead(1, ("linear",))
    assert growth.relative.value == pytest.approx(1, abs=1e-4)  # it expects no change at all
    assert present.scores[1].r.value < 0.9
    assert report.read_ahead(9, ("linear",))[1].relative.value > 0.1


def test_rows_of_blocks_are_whole_blocks_apart():
    model = PerfectWorld(block=4)
    grid = LatentGrid.of(walks(3, steps=23), model)
    assert len(grid) == 3 * 6
    assert grid.left[:6].tolist() == [5, 4, 3, 2, 1, 0]
    assert grid.step[6:12].tolist() == [0, 1, 2, 3, 4, 5]
    rows = np.flatnonzero(grid.left >= 2)
    torch.testing.assert_close(imagined(model, grid, rows, 2)[:, 1], grid.latents[rows + 2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grid.history(np.array([8]), 3)[0], grid.latents[6:9].flatten())


def test_a_history_never_reaches_into_another_episode():
    grid = LatentGrid.of(walks(4, steps=9), PerfectWorld())
    for _ in range(3):
        rows = grid.sample(1000, np.random.default_rng(0), before=4, after=3)
        assert len(rows) == 4 * 3
        assert (grid.episode[rows - 4] == grid.episode[rows + 3]).all()


def test_the_past_of_a_row_is_what_the_model_would_have_observed():
    torch.manual_seed(0)
    small = TransformerSettings(history=3, depth=1, heads=2, head_dims=8, hidden=16, projector_hidden=16)
    settings = JEPASettings(latent_dims=16, hidden=16, transformer=small, context=3, unroll=3, prediction="one_step")
    model = JEPA(3, 2, settings).eval()
    [episode] = walks(1, steps=6)
    grid = LatentGrid.of([episode], model)
    actions = torch.from_numpy(episode.actions)
    state, plan = model.initial(1), torch.randn(1, 1, 4, 2)
    with torch.no_grad():
        for step, seen in enumerate(torch.from_numpy(episode.observations)):
            previous = actions[step - 1][None] if step else torch.zeros(1, 2)
            state = model.observe(state, seen[None], previous, torch.tensor([step == 0]))
            here = model_state(model, grid, np.array([step]))
            torch.testing.assert_close(model.imagine(here, plan).latents, model.imagine(state, plan).latents)


def test_episodes_are_never_in_two_parts():
    report = probing(PerfectWorld(), fitting=7)
    chosen = validation_episodes(report.fitting.grid, 0)
    assert 1 <= len(chosen) < 7
    rows = np.arange(len(report.fitting.grid))
    kept = report._chosen_by(rows)
    assert not set(report.fitting.grid.episode[kept]) & set(report.fitting.grid.episode[~kept])
    # What is the same all through an episode and unknown from others cannot be read, unless parts share episodes.
    rng = np.random.default_rng(0)
    parts = []
    for part in (report.fitting, report.held_out):
        per_episode = rng.normal(size=(10, 2))[part.grid.episode]
        tell_tale = torch.nn.functional.one_hot(torch.from_numpy(part.grid.episode), 10).float()
        grid = LatentGrid(**{**vars(part.grid), "latents": tell_tale})
        parts.append(Part(grid, per_episode))
    [reading] = Probing(PerfectWorld(), PLACE, *parts, counts=(400, 200)).read_now(("linear",), ("latent",))
    assert reading.scores[0].r2.value < 0.3


def test_an_untrained_encoder_stands_beside_and_knows_less():
    model = JEPA(3, 2, JEPASettings(latent_dims=8, hidden=16))
    model.normalizer.update(torch.from_numpy(np.concatenate([walk.observations for walk in walks(4)])))
    fresh = untrained(model, 0)
    assert not torch.equal(fresh.encoder.layers[0].weight, model.encoder.layers[0].weight)
    torch.testing.assert_close(fresh.normalizer.mean, model.normalizer.mean)
    report = probing(model.eval())
    readings = {reading.source: reading for reading in report.read_now(("linear",))}
    assert set(readings) == {"latent", "history", "observation", "untrained"}
    assert readings["observation"].scores[0].r.value == pytest.approx(1, abs=1e-5)
    assert readings["untrained"].scores[0].r.value < 0.9999
    mean = report.read_mean()
    assert mean.scores[0].r is None
    assert mean.scores[0].r2.value == pytest.approx(0, abs=0.2)


def test_a_score_is_what_numpy_says_it_is():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(300, 2)) * (3, 0.1) + (1000, 0.2)
    read = true + rng.normal(size=(300, 2)) * (1.0, 0.05)
    scores = score(read, true, np.repeat(np.arange(10), 30), PLACE)
    missed = read[:, 0] - true[:, 0]
    assert scores[0].r.value == pytest.approx(np.corrcoef(read[:, 0], true[:, 0])[0, 1])
    assert scores[0].r2.value == pytest.approx(1 - (missed**2).mean() / true[:, 0].var())
    assert scores[0].rmse.value == pytest.approx(np.sqrt((missed**2).mean()))
    assert scores[0].mae.value == pytest.approx(np.abs(missed).mean())
    assert scores[0].r.low < scores[0].r.value < scores[0].r.high
    assert scores[0].r.n == 10
    # Of an angle that swings a little, r is nearly that of the angle.
    assert scores[1].r.value == pytest.approx(np.corrcoef(read[:, 1], true[:, 1])[0, 1], abs=0.01)


def test_angles_are_the_same_a_turn_on():
    true = np.random.default_rng(0).uniform(-math.pi, math.pi, (200, 1))
    [scored] = score(true + 2 * math.pi * np.arange(200)[:, None], true, np.arange(200) // 20, PLACE[1:])
    assert scored.r.value == pytest.approx(1)
    assert scored.r2.value == pytest.approx(1)
    assert scored.rmse.value == pytest.approx(0, abs=1e-9)
    [across] = score(np.full((2, 1), 3.1), np.full((2, 1), -3.1), [0, 1], PLACE[1:])
    assert across.mae.value == pytest.approx(2 * math.pi - 6.2)


def test_what_is_constant_has_no_r():
    true = np.stack([np.full(20, 4.0), np.linspace(0, 1, 20)], 1)
    one, other = score(np.full((20, 2), 4.0), true, np.arange(20) // 5, [PLACE[0], PLACE[0]])
    assert one.constant
    assert (one.r, one.r2) == (None, None)
    assert one.to_dict()["r"] is None
    assert not other.constant  # nothing varies in what was read of it
    assert other.r is None
    assert other.r2.value < 0


def test_intervals_are_between_episodes():
    """Samples of an episode that all say the same are no more than one."""
    per_episode = np.random.default_rng(0).normal(size=8)
    few = estimate_of_sums(np.stack([per_episode, np.ones(8)], 1), lambda s: s[..., :1] / s[..., 1:])
    many = estimate_of_sums(100 * np.stack([per_episode, np.ones(8)], 1), lambda s: s[..., :1] / s[..., 1:])
    assert (few[0].low, few[0].high) == pytest.approx((many[0].low, many[0].high))
    assert few[0].high - few[0].low > 0.5
    assert not estimate_of_sums(np.ones((1, 2)), lambda s: s[..., :1])[0].has_interval


def test_straight_and_winding_paths_are_told_apart():
    episodes = walks(2, steps=40)
    grid = LatentGrid.of(episodes, PerfectWorld())
    line = torch.arange(82.0)[:, None] * torch.tensor([[1.0, -2.0]])
    assert straightness(grid, line) == pytest.approx([1, 1])
    zigzag = torch.stack([torch.arange(82.0) % 2, torch.zeros(82)], 1)
    assert straightness(grid, zigzag) == pytest.approx([-1, -1])
    assert len(straightness(grid, torch.zeros(82, 2))) == 0  # nothing moves
    assert goal_rank_correlation(grid, line, 25, 5, 0) == pytest.approx([1, 1])
    circle = torch.arange(82.0) * math.pi
    assert np.abs(goal_rank_correlation(grid, torch.stack([circle.cos(), circle.sin()], 1), 25, 5, 0)).max() < 0.3
    assert len(goal_rank_correlation(grid, torch.zeros(82, 2), 25, 5, 0)) == 0


def test_latents_and_episodes_that_are_of_no_use_are_refused():
    [episode] = walks(1)
    with pytest.raises(SettingsError, match="without true states"):
        LatentGrid.of([RecordedEpisode(**{**vars(episode), "states": None})], PerfectWorld())
    broken = episode.observations.copy()
    broken[5, 1] = np.inf
    with pytest.raises(DivergedError, match="not finite"):
        LatentGrid.of([RecordedEpisode(**{**vars(episode), "observations": broken})], PerfectWorld())


# A whole run.

SMALL = {"model": {"latent_dims": 8, "hidden": 16}, "planning": {"planner": "policy"}, "acting": {"planner": "policy"}}
QUICK = ProbeSettings(depths=(1, 500), episodes=6, history=2, fitted=200, held_out=100, mlp=TINY)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run of an agent that has learned nothing."""
    return save_agent(tmp_path_factory.mktemp("runs") / "agent", "InvertedPendulum-v5")


def save_agent(folder, task, seed=0):
    agent = make_agent("jepa", task, seed=seed, **SMALL)
    settings = TrainSettings(task, "jepa", steps=1, agent_settings=SMALL)
    with Run.create(folder, settings.to_dict()):
        agent.save(folder / "agent.zip")
    return folder


@pytest.fixture(scope="module")
def report(run):
    report = probe_run(run, QUICK)
    report.save()
    return report


def test_a_run_is_probed_and_the_figures_are_kept(run, report):
    names = [quantity.name for quantity in report.quantities]
    assert {"slider_position", "hinge_angle", "hinge_velocity", "kinetic_energy"} <= set(names)
    assert report.depths == [1]
    assert report.too_deep == [500]
    kept = json.loads((run / "probes.json").read_text())
    assert kept["settings"]["seed"] == 0
    assert "versions" in kept["process"]
    assert kept["episodes"] == {"fitting": 3, "held_out": 3}
    assert len(kept["readings"]) == 2 * 4 + 1 + 2 + 2
    hinge = report.find("latent", "linear").scores[names.index("hinge_angle")]
    assert kept["readings"][0]["scores"][names.index("hinge_angle")]["r"]["value"] == hinge.r.value
    assert (run / "probes.png").read_bytes()[:4] == b"\x89PNG"
    first, ahead, motion = (table.to_markdown() for table in report.tables())
    assert "hinge_angle (rad)" in first
    assert "constant" in first  # nothing touches the pole
    assert "No episodes are long enough to look 500 ahead" in ahead
    assert "untrained" in motion


def test_probes_are_loaded_with_what_they_are_worth(run, report):
    probes = load_run_probes(run)
    assert list(probes) == ["linear", "mlp"]
    scores = report.find("latent", "linear").scores
    for r, scored in zip(probes["linear"].r.tolist(), scores, strict=True):
        assert math.isnan(r) if scored.r is None else r == pytest.approx(scored.r.value, abs=1e-6)
    latents = torch.randn(4, 8)
    torch.testing.assert_close(probes["mlp"](latents), report.probes["mlp"](latents))


def test_probing_again_says_the_same(run, report):
    assert probe_run(run, QUICK).to_dict() == report.to_dict()


def test_probes_of_a_model_that_has_learned_on_are_refused(tmp_path):
    folder = save_agent(tmp_path / "run", "InvertedPendulum-v5")
    with pytest.raises(RunFolderError, match="has no probes yet; fit them: forethought probe"):
        load_run_probes(folder)
    probe_run(folder, QUICK).save()
    load_run_probes(folder)
    make_agent("jepa", "InvertedPendulum-v5", seed=1, **SMALL).save(folder / "agent.zip")
    with pytest.raises(RunFolderError, match="has changed since it was probed"):
        load_run_probes(folder)


def test_only_what_is_asked_for_is_read(run):
    some = probe_run(run, QUICK.replace(quantities=("hinge_velocity",), depths=()))
    assert [quantity.name for quantity in some.quantities] == ["hinge_velocity"]
    assert [table.title for table in some.tables()][1].endswith("how latents move")


def test_mistakes_are_told_before_anything_is_played(run, tmp_path, monkeypatch):
    monkeypatch.setattr("forethought.evaluations.probing.nominal_episodes", None)
    with pytest.raises(UnknownNameError, match=r"no quantity 'hinge_angel'.*'hinge_angle'.*slider_velocity"):
        probe_run(run, QUICK.replace(quantities=("hinge_angel",)))
    with pytest.raises(EnvironmentFault, match="Pendulum-v1 has no physical quantities"):
        probe_run(save_agent(tmp_path / "other", "Pendulum-v1"), QUICK)
    with pytest.raises(SettingsError, match="different numbers of steps"):
        ProbeSettings(depths=(1, 1))


def test_too_few_episodes_and_other_data_are_refused(run):
    with pytest.raises(SettingsError, match="3 episodes are too few to split: at least 4 are needed"):
        probe_run(run, QUICK.replace(episodes=3))
    with pytest.raises(SettingsError, match="too short to look back over 60 latents"):
        probe_run(run, QUICK.replace(history=60))
    world = world_model_of(run)
    object.__setattr__(world, "task", "Hopper-v5")
    with pytest.raises(SettingsError, match=r"shape \(4,\), and those here are \(11,\)"):
        nominal_episodes(world)
    object.__setattr__(world, "task", "InvertedPendulum-v5")
    object.__setattr__(world, "model", JEPA(4, 6, JEPASettings(latent_dims=8, hidden=16)))
    with pytest.raises(SettingsError, match="6 action dimensions per step, and 1 steps here have 1"):
        nominal_episodes(world)


def test_agents_without_a_world_model_say_so(tmp_path):
    agent = make_agent("random", "InvertedPendulum-v5", seed=0)
    with Run.create(tmp_path / "run", TrainSettings("InvertedPendulum-v5", "random", steps=1).to_dict()):
        agent.save(tmp_path / "run" / "agent.zip")
    with pytest.raises(SettingsError, match="'random', which has no world model"):
        world_model_of(tmp_path / "run")
