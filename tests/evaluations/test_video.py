"""Videos stay within their limits, and an environment that cannot be drawn costs one warning."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from forethought.core.errors import EnvironmentFault, MissingExtraError, SettingsError
from forethought.envs import make_env
from forethought.evaluations import video
from forethought.evaluations.evaluate import evaluate
from forethought.evaluations.video import VideoRecorder


class Screen:
    """Shows noise, the worst case for compression, or fails from some step on."""

    render_mode = "rgb_array"

    def __init__(self, shape=(50, 70, 3), fails_at=None):
        self.shape, self.fails_at, self.frames = shape, fails_at, 0
        self.rng = np.random.default_rng(0)

    def render(self):
        self.frames += 1
        if self.frames == self.fails_at:
            raise OSError("no display")
        return self.rng.integers(0, 255, self.shape, dtype=np.uint8)


def record(path, screen, steps, fps=20.0):
    recorder = VideoRecorder(path, fps)
    for _ in range(steps):
        recorder.capture(screen)
    return recorder.close()


def test_evaluate_records_the_first_episode(tmp_path, countdown, seeded_agent):
    evaluation = evaluate(seeded_agent, countdown, episodes=3, video=tmp_path / "deep" / "episode.gif")
    with Image.open(evaluation.video) as picture:
        # 50 frames a second are halved to 25; the first frame shows the start of the episode.
        assert picture.n_frames == evaluation.lengths[0] // 2 + 1
        assert picture.info["duration"] == 40
    assert evaluation.to_dict()["video"] == str(tmp_path / "deep" / "episode.gif")


def test_recording_does_not_change_the_results(tmp_path, countdown, seeded_agent):
    plain = evaluate(seeded_agent, countdown, episodes=3)
    assert np.array_equal(
        plain.returns, evaluate(seeded_agent, countdown, episodes=3, video=tmp_path / "a.gif").returns
    )


def test_large_pictures_are_shrunk_to_320_pixels(tmp_path):
    with Image.open(record(tmp_path / "a.gif", Screen((300, 640, 3)), 2)) as picture:
        assert picture.size == (320, 150)


def test_a_long_episode_is_shown_by_its_first_twenty_seconds(tmp_path):
    with Image.open(record(tmp_path / "a.gif", Screen((10, 10, 3)), 30, fps=1.0)) as picture:
        assert picture.n_frames == 20


def test_a_gif_is_thinned_and_shrunk_until_it_is_small_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_GIF_BYTES", 40_000)
    path = record(tmp_path / "a.gif", Screen((60, 80, 3)), 40)
    assert path.stat().st_size <= 40_000
    with Image.open(path) as picture:
        assert 1 < picture.n_frames < 40
        assert picture.info["duration"] * picture.n_frames == pytest.approx(40 * 50, rel=0.2), "real time is kept"


def test_without_a_suffix_it_is_mp4_if_ffmpeg_is_there_else_gif(tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    path = record(tmp_path / "a", Screen((51, 71, 3)), 5)
    assert path.name == "a.mp4"
    assert path.stat().st_size > 500
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"], "nothing is left lying about"
    monkeypatch.setattr(video, "_has_ffmpeg", lambda: False)
    assert record(tmp_path / "b", Screen(), 2).name == "b.gif"


def test_mp4_without_the_extra_names_the_install_line(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_has_ffmpeg", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install '.\[video\]'"):
        VideoRecorder(tmp_path / "a.mp4", 20)


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"\.webm"):
        VideoRecorder(tmp_path / "a.webm", 20)


def test_a_rendering_failure_is_one_warning_and_no_file(tmp_path):
    recorder, screen = VideoRecorder(tmp_path / "a.gif", 20), Screen(fails_at=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            recorder.capture(screen)
    assert ["no display" in str(warning.message) for warning in caught] == [True]
    assert recorder.close() is None
    assert not list(tmp_path.iterdir())


def test_an_environment_that_cannot_draw_is_evaluated_all_the_same(tmp_path, countdown, seeded_agent):
    with pytest.warns(UserWarning, match="rgb_array") as caught:
        evaluation = evaluate(seeded_agent, lambda: countdown(), episodes=2, video=tmp_path / "a.gif")
    assert len(caught) == 1
    assert evaluation.video is None
    assert evaluation.terminated.all()


def test_mujoco_is_filmed_small_without_a_display(tmp_path, constant_agent):
    try:
        make_env("Reacher-v5", render_mode="rgb_array").close()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))
    film = evaluate(constant_agent(), "Reacher-v5", episodes=1, max_steps=3, video=tmp_path / "a.gif").video
    with Image.open(film) as picture:
        assert picture.size == (320, 320)
        assert len(np.unique(np.asarray(picture))) > 10, "something is to be seen"


def test_no_warning_without_a_video(countdown, seeded_agent):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate(seeded_agent, countdown, episodes=1).video is None
