"""Wrappers that watch: what the monitor says stands in info, in every autoreset mode, and under the picture."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from forethought.agents import SurpriseMonitor, SurpriseWrapper, VectorSurpriseWrapper
from forethought.agents.surprise_trace import draw_trace
from forethought.agents.surprise_watch import Reading
from forethought.core.errors import SettingsError
from forethought.envs.adapters import unpack_info
from forethought.evaluations.video import VideoRecorder

from .watched import ACTIONS, LENGTH, World, calibrated, exact_model, record


@pytest.fixture(scope="module")
def monitor() -> SurpriseMonitor:
    return calibrated()


def replayed(env, episode, seed, onset=None):
    """Play the actions of ``episode`` in ``env``, where the world jumps at step ``onset``; return all infos."""
    _, info = env.reset(seed=seed)
    infos = [info]
    for step, action in enumerate(episode.actions):
        if step == onset:
            env.unwrapped.jump = np.array([0.0, 0.6, 0.0, 0.0])
        *_, truncated, info = env.step(2 * action)
        infos.append(info)
        if truncated:
            break
    return infos


def seed_of(number: int, seed: int = 0) -> int:
    return int(np.random.default_rng((seed, number)).integers(2**31))


def test_info_tells_what_the_monitor_says_beside_what_was_there(monitor):
    [episode] = record(1)
    [scored] = monitor.score([episode])
    infos = replayed(SurpriseWrapper(World(), monitor), episode, seed_of(0))
    assert np.isnan(infos[0]["surprise"])
    assert infos[0]["own"] == 1
    assert infos[-1]["own"] == 2
    np.testing.assert_allclose([info["surprise"] for info in infos[1:]], scored.score, atol=1e-3)
    assert [info["surprise_alarm"] for info in infos[1:]] == scored.alarm.tolist()
    assert set(infos[-1]["surprise_channels"]) == set(monitor.calibration.channels)


def test_a_second_episode_is_watched_from_its_beginning(monitor):
    first, second = record(2)
    env = SurpriseWrapper(World(), monitor)
    replayed(env, first, seed_of(0))
    infos = replayed(env, second, seed_of(1))
    np.testing.assert_allclose([i["surprise"] for i in infos[1:]], monitor.score([second])[0].score, atol=1e-3)


def test_an_alarm_stops_the_episode_if_asked_and_says_why(monitor):
    [episode] = record(1, seed=2)
    quiet = replayed(SurpriseWrapper(World(), monitor, on_alarm="stop"), episode, seed_of(0, 2))
    assert len(quiet) == LENGTH + 1
    assert "surprise_stop" not in quiet[-1]
    stopped = replayed(SurpriseWrapper(World(), monitor, on_alarm="stop"), episode, seed_of(0, 2), onset=20)
    assert len(stopped) == 22
    assert stopped[-1]["surprise_begins"]
    assert "above" in stopped[-1]["surprise_stop"]
    assert "step" in stopped[-1]["surprise_stop"]


def test_a_function_is_called_once_for_a_run_of_alarmed_steps(monitor):
    called = []
    env = SurpriseWrapper(World(), monitor, on_alarm=lambda info, index: called.append((info["surprise"], index)))
    [episode] = record(1, seed=2)
    infos = replayed(env, episode, seed_of(0, 2), onset=20)
    assert len(infos) == LENGTH + 1
    assert sum(info["surprise_alarm"] for info in infos) > 1  # the window remembers
    assert called == [(infos[21]["surprise"], 0)]


def test_what_is_not_finite_stops_the_episode(monitor):
    env = SurpriseWrapper(World(), monitor, on_alarm="stop")
    env.reset(seed=0)
    env.unwrapped.jump = np.full(4, np.nan)
    *_, truncated, info = env.step(np.zeros(ACTIONS, np.float32))
    assert truncated
    assert info["surprise"] == np.inf
    assert info["surprise_stop"] == "a value is not finite"


class Spoilt(World):
    """A world whose second episode, and in vectors every one after, begins with what is no number."""

    begun = 0

    def reset(self, **how):
        observation, info = super().reset(**how)
        self.begun += 1
        return (np.full_like(observation, np.nan) if self.begun == 2 else observation), info


def test_an_episode_that_begins_alarmingly_is_stopped_at_its_first_step_or_called_for(monitor):
    called = []
    watched = SurpriseWrapper(Spoilt(), monitor, on_alarm=lambda info, index: called.append((info["surprise"], index)))
    watched.reset(seed=0)
    watched.reset(seed=0)
    assert called == [(np.inf, 0)]
    env = SurpriseWrapper(Spoilt(), monitor, on_alarm="stop")
    for wanted in (False, True, False):
        env.reset(seed=0)
        *_, truncated, info = env.step(np.zeros(ACTIONS, np.float32))
        assert truncated == wanted
        assert info.get("surprise_stop") == ("a value is not finite" if wanted else None)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_tells_of_episodes_that_begin_alarmingly(monitor, mode):
    called = []
    vector = SyncVectorEnv([lambda: World(3), lambda: Spoilt(2)], autoreset_mode=mode)
    env = VectorSurpriseWrapper(vector, monitor, lambda info, index: called.append((info["surprise"], index)))
    env.reset(seed=0)
    told = []
    for _ in range(3):
        *_, terminated, truncated, infos = env.step(np.zeros((2, ACTIONS), np.float32))
        ended = terminated | truncated
        if mode is AutoresetMode.DISABLED and ended.any():
            _, infos = env.reset(options={"reset_mask": ended})
        told.append(infos["surprise_begins"].tolist())
    assert told.count([False, True]) == 1
    assert called == [(np.inf, 1)]


def test_only_whole_blocks_are_judged_and_their_rewards_are_summed():
    monitor = calibrated(block=3, rate=4.0)
    [episode] = record(1)
    [scored] = monitor.score([episode])
    infos = replayed(SurpriseWrapper(World(), monitor), episode, seed_of(0))
    np.testing.assert_allclose([info["surprise"] for info in infos[3::3]], scored.score, atol=1e-3)
    rewards = [info["surprise_channels"]["reward"] for info in infos[3::3]]
    np.testing.assert_allclose(rewards, scored.channels["reward"], atol=1e-3)
    assert all(np.isnan(info["surprise"]) and not info["surprise_alarm"] for info in infos[1::3] + infos[2::3])


LENGTHS = 12, 20


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_tells_each_environment_what_it_would_be_told_alone(monitor, mode):
    env = VectorSurpriseWrapper(SyncVectorEnv([lambda n=n: World(n) for n in LENGTHS], autoreset_mode=mode), monitor)
    rng, seen = np.random.default_rng(0), [[[]], [[]]]
    observations, infos = env.reset(seed=[5, 6])
    assert np.isnan(infos["surprise"]).all()
    recorded = [[[observations[index]]] for index in range(2)]
    actions_of: list[list[list[np.ndarray]]] = [[[]], [[]]]
    rewards_of: list[list[list[float]]] = [[[]], [[]]]
    resetting = np.zeros(2, bool)
    for _ in range(50):
        actions = rng.uniform(-2, 2, (2, ACTIONS)).astype(np.float32)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        ended = terminated | truncated
        if mode is AutoresetMode.DISABLED and ended.any():
            fresh, _ = env.reset(options={"reset_mask": ended.copy()})
        for index in range(2):
            if resetting[index]:
                assert np.isnan(infos["surprise"][index])
                recorded[index][-1].append(observations[index])
                continue
            final = infos["final_obs"][index] if mode is AutoresetMode.SAME_STEP and ended[index] else None
            recorded[index][-1].append(observations[index] if final is None else final)
            actions_of[index][-1].append(actions[index] / 2)
            rewards_of[index][-1].append(rewards[index])
            seen[index][-1].append(unpack_info(infos, index)["surprise"])
            if ended[index]:
                begin = {AutoresetMode.SAME_STEP: [observations[index]], AutoresetMode.NEXT_STEP: []}
                recorded[index].append(begin[mode] if mode in begin else [fresh[index]])
                for part in (actions_of, rewards_of, seen):
                    part[index].append([])
        resetting = ended if mode is AutoresetMode.NEXT_STEP else np.zeros(2, bool)
    checked = 0
    for index in range(2):
        for parts in zip(recorded[index], actions_of[index], rewards_of[index], seen[index], strict=True):
            if not parts[1]:
                continue
            template = record(1)[0]
            episode = type(template)(*(np.array(part, np.float32) for part in parts[:3]), False, True, None)
            np.testing.assert_allclose(parts[3], monitor.score([episode])[0].score, atol=1e-3)
            checked += 1
    assert checked >= 6


def test_the_last_surprise_of_an_episode_stands_in_the_final_info_too(monitor):
    env = VectorSurpriseWrapper(
        SyncVectorEnv([lambda n=n: World(n) for n in LENGTHS], autoreset_mode=AutoresetMode.SAME_STEP), monitor
    )
    env.reset(seed=0)
    for _ in range(LENGTHS[0]):
        *_, infos = env.step(np.zeros((2, ACTIONS), np.float32))
    final = unpack_info(infos, 0)["final_info"]
    assert final["surprise"] == infos["surprise"][0]
    assert final["surprise_channels"]["step"] == infos["surprise_channels"]["step"][0]
    assert final["own"] == 2
    assert "final_info" not in unpack_info(infos, 1)


def test_a_vector_that_does_not_reset_itself_is_stopped_where_it_is_alarmed(monitor):
    def vector(mode):
        return SyncVectorEnv([World, World], autoreset_mode=mode)

    env = VectorSurpriseWrapper(vector(AutoresetMode.DISABLED), monitor, on_alarm="stop")
    env.reset(seed=3)
    env.env.envs[1].unwrapped.jump = np.ones(4)
    *_, truncated, infos = env.step(np.zeros((2, ACTIONS), np.float32))
    assert truncated.tolist() == [False, True]
    assert infos["surprise_stop"][0] is None
    assert "above" in infos["surprise_stop"][1]
    with pytest.raises(SettingsError, match="SurpriseWrapper"):
        VectorSurpriseWrapper(vector(AutoresetMode.NEXT_STEP), monitor, on_alarm="stop")


def test_a_vector_calls_for_the_environment_that_is_alarmed(monitor):
    called = []
    env = VectorSurpriseWrapper(SyncVectorEnv([World, World, World]), monitor, lambda info, n: called.append((info, n)))
    env.reset(seed=3)
    env.env.envs[2].unwrapped.jump = np.ones(4)
    *_, infos = env.step(np.zeros((3, ACTIONS), np.float32))
    [(info, number)] = called
    assert number == 2
    assert info["surprise"] == pytest.approx(infos["surprise"][2])


def test_environments_that_do_not_fit_the_model_are_refused(monitor):
    class Wide(World):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Box(-1, 1, (5,), np.float32)

    class Strong(World):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(-1, 1, (3,), np.float32)

    with pytest.raises(SettingsError, match=r"observations of the shape \(4,\).*have the shape \(5,\)"):
        SurpriseWrapper(Wide(), monitor)
    with pytest.raises(SettingsError, match=r"actions of 2 dimensions.*have 3"):
        SurpriseWrapper(Strong(), monitor)
    with pytest.raises(SettingsError, match="calibrate it"):
        SurpriseWrapper(World(), SurpriseMonitor(exact_model()))
    with pytest.raises(SettingsError, match="on_alarm"):
        SurpriseWrapper(World(), monitor, on_alarm="halt")  # type: ignore[arg-type]
    vector = SyncVectorEnv([World])
    vector.metadata = {}
    with pytest.raises(SettingsError, match="autoreset_mode"):
        VectorSurpriseWrapper(vector, monitor)


def test_pictures_show_the_trace_under_them(monitor, tmp_path):
    env = SurpriseWrapper(World(render_mode="rgb_array"), monitor)
    [episode] = record(1, seed=2)
    env.reset(seed=seed_of(0, 2))
    before = env.render()
    assert before.shape == (104, 96, 3)
    assert (before[:64] == 200).all()
    replayed(env, episode, seed_of(0, 2), onset=30)
    after = env.render()
    assert (after[64:] != before[64:]).any()
    plain = SurpriseWrapper(World(render_mode="rgb_array"), monitor, trace=False)
    plain.reset(seed=0)
    assert plain.render().shape == (64, 96, 3)
    recorder = VideoRecorder(tmp_path / "watched.gif", frames_per_second=10)
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.zeros(ACTIONS, np.float32))
        recorder.capture(env)
    path = recorder.close()
    assert path is not None
    assert path.stat().st_size > 0


def test_pictures_of_a_vector_show_a_trace_each(monitor):
    env = VectorSurpriseWrapper(SyncVectorEnv([lambda: World(render_mode="rgb_array")] * 2), monitor)
    env.reset(seed=0)
    env.step(np.zeros((2, ACTIONS), np.float32))
    assert [picture.shape for picture in env.render()] == [(104, 96, 3)] * 2


def test_what_is_no_picture_is_left_alone(monitor):
    env = SurpriseWrapper(World(), monitor)
    env.env.render = lambda: "text"  # type: ignore[method-assign]
    assert env.render() == "text"


def test_the_trace_shows_alarms_gaps_and_scores_without_end():
    picture = np.zeros((100, 300, 3), np.uint8)
    quiet = draw_trace(picture, [(0.5, False)] * 100, 3.0)
    alarmed = draw_trace(picture, [(0.5, False)] * 50 + [(np.inf, True)] * 50, 3.0)
    assert quiet.shape == alarmed.shape == (140, 300, 3)
    red = lambda drawn: ((drawn[100:, :, 0] > 100) & (drawn[100:, :, 1] < 60)).sum()  # noqa: E731
    assert red(quiet) == 0
    assert red(alarmed) > 1000
    assert draw_trace(picture, [(float("nan"), False), (1.0, False)], 3.0).shape == quiet.shape
    assert draw_trace(picture, [], 3.0).shape == quiet.shape


def test_a_wrapped_environment_is_still_one_of_gymnasium(monitor):
    env = gym.wrappers.RecordEpisodeStatistics(SurpriseWrapper(World(), monitor))
    env.reset(seed=0)
    for _ in range(LENGTH):
        *_, info = env.step(np.zeros(ACTIONS, np.float32))
    assert info["episode"]["l"] == LENGTH
    assert "surprise" in info


class Doubt(torch.nn.Module):
    """Stands in for an ensemble that knows only the middle of the world."""

    def forward(self, latents, actions):
        return latents.square().sum(-1)


def said(monitor, info):
    """Return what a monitor would say of the step that ``info`` tells of."""
    one = np.ones(1, bool)
    channels = {name: np.array([level]) for name, level in info["surprise_channels"].items()}
    reading = Reading(one, np.array([info["surprise"]]), one, one, channels, np.array([info["surprise_novel"]]))
    return reading.sentence(0, monitor.threshold)


def test_an_ensemble_tells_what_was_never_seen_from_what_is_impossible(monitor, tmp_path):
    assert monitor.calibration.usual_disagreement is None
    doubting = exact_model()
    doubting.disagreement_head = Doubt()
    watching = SurpriseMonitor(doubting, monitor.settings)
    watching.calibrate(record(80), 2.0)
    loaded = SurpriseMonitor.load(watching.save(tmp_path / "monitor"), doubting)
    [episode] = record(1, seed=2)
    infos = replayed(SurpriseWrapper(World(), loaded), episode, seed_of(0, 2), onset=20)
    assert not any(info["surprise_novel"] for info in infos[:22])
    assert infos[21]["surprise_alarm"]  # nothing that it has been through leads there
    assert "where the model has never been" not in said(loaded, infos[21])
    env = SurpriseWrapper(World(), loaded)
    env.reset(seed=0)
    env.unwrapped.jump = np.array([0.0, 9.0, 0.0, 0.0])
    env.step(np.zeros(ACTIONS))
    env.unwrapped.jump = np.array([0.0, 9.0, 0.0, 0.0])
    *_, info = env.step(np.zeros(ACTIONS))
    assert info["surprise_novel"]  # by then it is far from all that it knows
    assert said(loaded, info).endswith("where the model has never been")
    together = VectorSurpriseWrapper(SyncVectorEnv([World, World]), loaded)
    together.reset(seed=[0, 1])
    *_, info = together.step(np.zeros((2, ACTIONS), np.float32))
    assert info["surprise_novel"].tolist() == [False, False]
    plain = SurpriseWrapper(World(), monitor)
    assert "surprise_novel" not in replayed(plain, episode, seed_of(0, 2))[-1]
