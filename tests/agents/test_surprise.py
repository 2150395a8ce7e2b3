"""SurpriseMonitor: calibrated, at the very step, pure, the same in a batch, alone, offline and after loading."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from forethought import SurpriseMonitor
from forethought.agents import SurpriseSettings
from forethought.agents.surprise import CHANNELS
from forethought.core.errors import CheckpointError, SettingsError
from forethought.world_model import JEPA, JEPASettings, TransformerSettings, VisionSettings

from .watched import ACTIONS, DIMS, LENGTH, QUICK, calibrated, exact_model, record


@pytest.fixture(scope="module")
def monitor() -> SurpriseMonitor:
    return calibrated()


def online(monitor, episode, rewards=True, batch=1):
    """Watch ``episode`` step by step, in all rows of a batch alike; return what was said and the last state."""
    said, state = [], monitor.begin(batch)
    rows = torch.ones(batch, 1)
    for step in range(len(episode.actions) + 1):
        action = torch.from_numpy(episode.actions[max(step - 1, 0)])
        surprise, state = monitor.observe(
            state,
            rows * torch.from_numpy(episode.observations[step]),
            rows * action,
            torch.full((batch,), step == 0),
            rows[:, 0] * float(episode.rewards[max(step - 1, 0)]) if rewards else None,
            torch.zeros(batch, dtype=torch.bool),
        )
        said.append(surprise)
    return said, state


def test_fresh_usual_episodes_raise_as_many_alarms_as_asked_for(monitor):
    scored = monitor.score(record(250, seed=1))
    alarms = sum(int(episode.begins.sum()) for episode in scored)
    expected = 2.0 * 250 * LENGTH / 1000
    assert expected / 2 < alarms < 2 * expected
    assert monitor.calibration.threshold.guaranteed_per_1000 > 2.0


def test_the_levels_of_single_steps_are_those_of_chance(monitor):
    levels = np.concatenate([episode.channels["step"] for episode in monitor.score(record(250, seed=1))])
    share = np.log10(10 / 18)  # of all false alarms: step 10, window 3, actions 3, reward 1, distribution 1
    for level in (0.5, 1.0, 2.0):
        assert (levels - share > level).mean() == pytest.approx(10**-level, rel=0.4)


def test_a_teleport_is_an_alarm_at_that_very_step_and_not_before(monitor):
    onset = 30
    scored = monitor.score(record(40, seed=2, onset=onset, fault="jump"))
    assert np.mean([episode.begins[onset] for episode in scored]) > 0.95
    assert np.mean([episode.alarm[:onset].any() for episode in scored]) < 0.2
    assert np.mean([np.nanargmax(episode.score) == onset for episode in scored]) > 0.95
    causes = [max(e.channels, key=lambda name, e=e: np.nan_to_num(e.channels[name][onset])) for e in scored]
    assert np.mean([cause == "step" for cause in causes]) > 0.9


def test_a_dead_actuator_is_told_by_what_the_action_no_longer_does(monitor):
    onset, told = 30, {}
    for fault in ("dead", "jump"):
        scored = monitor.score(record(40, seed=3, onset=onset, fault=fault))
        later = slice(onset, onset + 10)
        told[fault] = np.mean([(episode.channels["actions"][later] > monitor.threshold).any() for episode in scored])
        assert np.mean([episode.alarm[later].any() for episode in scored]) > 0.9
    assert told["dead"] > 0.8
    assert told["jump"] < 0.2


def test_offline_is_what_was_said_step_by_step(monitor):
    episodes = record(3, seed=4, onset=20, fault="jump")
    longer = record(1, seed=5, length=LENGTH + 7)
    for scored, episode in zip(monitor.score([*episodes, *longer]), [*episodes, *longer], strict=True):
        said, _ = online(monitor, episode)
        assert len(scored.score) == len(episode.actions) == len(said) - 1
        assert said[0].score.isnan().all()
        np.testing.assert_allclose(scored.score, [float(s.score[0]) for s in said[1:]], atol=1e-3)
        assert scored.alarm.tolist() == [bool(s.alarm[0]) for s in said[1:]]
        assert scored.begins.tolist() == [bool(s.begins[0]) for s in said[1:]]
        for name, levels in scored.channels.items():
            np.testing.assert_allclose(levels, [float(s.channels[name][0]) for s in said[1:]], atol=1e-3)


def test_an_environment_is_told_the_same_alone_and_in_a_batch(monitor):
    [episode] = record(1, seed=6, onset=20, fault="jump")
    alone, _ = online(monitor, episode)
    together, _ = online(monitor, episode, batch=5)
    for one, many in zip(alone[1:], together[1:], strict=True):
        assert torch.allclose(many.score, one.score.expand(5), atol=1e-3)
        assert torch.equal(many.alarm, one.alarm.expand(5))


def test_compiled_it_says_the_same_and_of_what_it_was_not_compiled_for_too(monitor, monkeypatch):
    """Traced as ever; only the generated code is left out, which takes a C++ compiler and half a minute."""
    compile, traced = torch.compile, []

    def without_code(function, **options):
        traced.append(function)
        return compile(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", without_code)
    [episode] = record(1, seed=5, onset=20, fault="jump")
    compiled = monitor.compiled(1)
    for batch, rewards in ((1, True), (3, True), (1, False)):
        said, _ = online(compiled, episode, rewards, batch)
        expected, _ = online(monitor, episode, rewards, batch)
        for ours, theirs in zip(said, expected, strict=True):
            assert torch.allclose(ours.score, theirs.score, equal_nan=True, atol=1e-4)
            assert torch.equal(ours.alarm, theirs.alarm)
    assert len(traced) == 1


def test_observing_changes_no_state_that_was_given(monitor):
    [episode] = record(1, seed=7)
    _, state = online(monitor, episode)
    given = torch.from_numpy(episode.observations[:1]), torch.zeros(1, ACTIONS), torch.tensor([False])
    (first, _), (second, _) = monitor.observe(state, *given), monitor.observe(state, *given)
    assert torch.equal(first.score, second.score)


def test_a_new_episode_forgets_the_one_before_and_other_environments_do_not(monitor):
    jumped, usual = record(1, seed=8, onset=LENGTH - 1, fault="jump")[0], record(1, seed=9)[0]
    _, state = online(monitor, jumped, batch=2)
    observations = torch.from_numpy(usual.observations)
    reset = torch.tensor([True, False])
    surprise, state = monitor.observe(state, observations[:1].repeat(2, 1), torch.zeros(2, ACTIONS), reset)
    assert surprise.score[0].isnan()
    assert not surprise.alarm[0]
    assert surprise.alarm[1]  # for it, the world has moved
    fresh = monitor.begin(1)
    _, fresh = monitor.observe(fresh, observations[:1], torch.zeros(1, ACTIONS), torch.tensor([True]))
    for step in range(LENGTH):
        action = torch.from_numpy(usual.actions[step : step + 1])
        after, no = observations[step + 1 : step + 2], torch.tensor([False])
        again, state = monitor.observe(state, after.repeat(2, 1), action.repeat(2, 1), no.repeat(2))
        expected, fresh = monitor.observe(fresh, after, action, no)
        assert torch.allclose(again.score[:1], expected.score, atol=1e-3), step


def test_what_is_not_finite_is_an_alarm_by_itself_and_not_at_the_next_step(monitor):
    [episode] = record(1, seed=10)
    broken = dataclasses.replace(episode, observations=episode.observations.copy())
    broken.observations[30, 2] = np.nan
    [usual], [scored] = monitor.score([episode]), monitor.score([broken])
    assert scored.score[29] == np.inf
    assert scored.alarm[29]
    assert np.isfinite(scored.score[30:]).all()
    assert not scored.alarm[30]
    np.testing.assert_array_equal(scored.score[:29], usual.score[:29])
    for name, value in (("rewards", np.inf), ("actions", np.nan)):
        broken = dataclasses.replace(episode, **{name: getattr(episode, name).copy()})
        getattr(broken, name)[12] = value
        [scored] = monitor.score([broken])
        assert scored.score[12] == np.inf
        assert np.isfinite(scored.score[13])


def test_a_first_observation_that_is_not_finite_is_an_alarm(monitor):
    surprise, _ = monitor.observe(
        monitor.begin(2), torch.tensor([[0.0] * DIMS, [torch.nan] * DIMS]), torch.zeros(2, ACTIONS), torch.ones(2) > 0
    )
    assert surprise.alarm.tolist() == [False, True]


def test_without_rewards_their_channel_is_silent_and_the_others_are_not(monitor):
    [episode] = record(1, seed=11)
    said, _ = online(monitor, episode, rewards=False)
    assert said[-1].channels["reward"].isnan()
    assert said[-1].score.isfinite()
    assert said[-1].cause() in CHANNELS
    assert said[0].cause() == "nothing"


def test_a_wrong_reward_is_a_surprise(monitor):
    [episode] = record(1, seed=12)
    wrong = dataclasses.replace(episode, rewards=episode.rewards.copy())
    wrong.rewards[30] += 1
    [scored] = monitor.score([wrong])
    assert scored.alarm[30]
    assert np.argmax(scored.channels["reward"]) == 30


def test_an_end_that_was_not_to_be_expected_is_a_surprise(monitor):
    class Going(torch.nn.Module):
        def forward(self, features):
            return torch.full(features.shape[:-1], 0.999) - 0.01 * features[..., 0].sigmoid()

    model = exact_model()
    model.continue_head = Going()  # type: ignore[assignment]
    watching = SurpriseMonitor(model, SurpriseSettings.from_dict(QUICK))
    watching.calibrate(record(80), 2.0)
    [episode] = record(1, seed=13)
    [goes_on], [ends] = watching.score([episode]), watching.score([dataclasses.replace(episode, terminated=True)])
    assert ends.channels["continue"][-1] > goes_on.channels["continue"][-1] + 1
    assert ends.alarm[-1]


def test_a_block_of_steps_is_one_step():
    monitor = calibrated(block=3, rate=4.0)
    episodes = record(20, seed=14, onset=30, fault="jump")
    scored = monitor.score(episodes)
    assert all(len(episode.score) == LENGTH // 3 for episode in scored)
    assert np.mean([episode.begins[10] for episode in scored]) > 0.7
    assert monitor.calibration.held_steps == 40 * (LENGTH // 3)


def test_files_hold_all_of_a_monitor(monitor, tmp_path):
    path = monitor.save(tmp_path / "surprise")
    assert path.name == "surprise.zip"
    loaded = SurpriseMonitor.load(path, exact_model())
    assert loaded.calibration == monitor.calibration
    assert loaded.settings == monitor.settings
    episodes = record(3, seed=15)
    for ours, theirs in zip(monitor.score(episodes), loaded.score(episodes), strict=True):
        np.testing.assert_array_equal(ours.score, theirs.score)
    assert loaded.save(tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_file_of_another_model_or_damaged_is_refused(monitor, tmp_path):
    path, other = monitor.save(tmp_path / "surprise.zip"), exact_model()
    other.predictor.dynamics[0, 0] += 1e-3  # type: ignore[union-attr,operator,index]
    with pytest.raises(CheckpointError, match="another world model"):
        SurpriseMonitor.load(path, other)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        SurpriseMonitor.load(path, exact_model())
    with pytest.raises(CheckpointError, match="no file"):
        SurpriseMonitor.load(tmp_path / "none.zip", exact_model())


def test_calibration_is_repeatable(monitor):
    again = calibrated()
    assert again.calibration == monitor.calibration


def test_a_monitor_that_is_not_calibrated_says_so(tmp_path):
    monitor = SurpriseMonitor(exact_model())
    for use in (
        lambda: monitor.begin(1),
        lambda: monitor.score(record(1)),
        lambda: monitor.threshold,
        lambda: monitor.save(tmp_path / "x"),
    ):
        with pytest.raises(SettingsError, match="calibrate it"):
            use()


@pytest.mark.parametrize(
    ("count", "length", "rate", "needed"), [(6, 500, 1.0, "8"), (20, 60, 1.0, "34"), (20, 60, 0.1, "334")]
)
def test_too_few_episodes_are_refused_with_how_many_are_needed(count, length, rate, needed):
    with pytest.raises(SettingsError, match=f"that needs {needed} episodes or more"):
        SurpriseMonitor(exact_model()).calibrate(record(count, length=length), rate)


def test_as_many_episodes_as_are_said_to_be_needed_are_enough():
    monitor = SurpriseMonitor(exact_model(), SurpriseSettings.from_dict(QUICK))
    assert np.isfinite(monitor.calibrate(record(34), 1.0).threshold.level)
    with pytest.raises(SettingsError, match="0 episodes"):
        monitor.calibrate([], 1.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1000.0, float("nan")])
def test_a_rate_that_none_can_have_is_refused(rate):
    with pytest.raises(SettingsError, match="false_alarms_per_1000"):
        SurpriseMonitor(exact_model()).calibrate(record(8), rate)


def test_episodes_that_do_not_fit_the_model_are_refused(monitor):
    [episode] = record(1)
    for changes, said in (
        ({"observations": episode.observations[:, :3]}, r"observations of the shape \(3,\).*takes \(4,\)"),
        ({"actions": episode.actions[:, :1]}, r"actions of the shape \(1,\)"),
        ({"observations": episode.observations[:-1]}, "one more"),
    ):
        with pytest.raises(SettingsError, match=said):
            monitor.score([dataclasses.replace(episode, **changes)])
    with pytest.raises(SettingsError, match="observations of the shape"):
        monitor.observe(monitor.begin(1), torch.zeros(1, 3), torch.zeros(1, ACTIONS), torch.tensor([True]))


def test_usual_episodes_are_finite():
    episodes = record(20)
    episodes[3].rewards[2] = np.nan
    with pytest.raises(SettingsError, match="rewards of episode 3 of 20"):
        SurpriseMonitor(exact_model()).calibrate(episodes, 5.0)


def test_states_are_selected_and_put_back(monitor):
    def flat(state):
        return [state.tracked.latent.latents, *state.tracked._tensors(), state.quiet]

    episodes, index = record(4, seed=16), torch.tensor([3, 1])
    state = monitor.begin(4)
    for step in range(5):
        observations = np.stack([episode.observations[step] for episode in episodes])
        taken = np.stack([episode.actions[max(step - 1, 0)] for episode in episodes])
        begins = torch.full((4,), step == 0)
        _, state = monitor.observe(state, torch.from_numpy(observations), torch.from_numpy(taken), begins)
    chosen = state.select(index)
    assert any(not torch.equal(whole[1], whole[3]) for whole in flat(state)), "the episodes differ"
    for whole, part in zip(flat(state), flat(chosen), strict=True):
        assert torch.equal(whole[index], part)
    for whole, put in zip(flat(state), flat(monitor.begin(4).put(index, chosen)), strict=True):
        assert torch.equal(whole[index], put[index])


def test_a_model_that_looks_back_at_pictures_is_watched_step_by_step_as_offline():
    """With random weights: what counts is that history, images and blocks pass through."""
    torch.manual_seed(0)
    vision = VisionSettings(image_size=16, patch_size=8, width=16, depth=1, heads=2, hidden=16, projector_hidden=16)
    transformer = TransformerSettings(depth=1, heads=2, head_dims=8, hidden=16, projector_hidden=16)
    settings = JEPASettings(
        latent_dims=8, vision=vision, transformer=transformer, context=3, unroll=3, block=2, heads=False
    )
    model, rng = JEPA((16, 16, 3), 4, settings), np.random.default_rng(0)
    from forethought.envs.recording import RecordedEpisode

    episodes = [
        RecordedEpisode(
            rng.integers(0, 255, (31, 16, 16, 3), np.uint8),
            rng.uniform(-1, 1, (30, 2)).astype(np.float32),
            np.zeros(30, np.float32),
            False,
            True,
            None,
        )
        for _ in range(40)
    ]
    monitor = SurpriseMonitor(model, SurpriseSettings.from_dict(QUICK))
    monitor.calibrate(episodes, 10.0)
    assert set(monitor.calibration.channels) == {"step", "window", "actions", "distribution"}
    scored, state = monitor.score(episodes[:2]), monitor.begin(1)
    for step in range(16):
        taken = episodes[0].actions[2 * (step - 1) : 2 * step].reshape(1, 4) if step else np.zeros((1, 4), np.float32)
        surprise, state = monitor.observe(
            state,
            torch.from_numpy(episodes[0].observations[None, 2 * step]),
            torch.from_numpy(taken),
            torch.tensor([step == 0]),
        )
        if step:
            assert float(surprise.score) == pytest.approx(float(scored[0].score[step - 1]), abs=1e-2)
