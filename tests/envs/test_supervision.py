"""Environments that raise, die or hang, in this process or in their own: named, replaced, and never in the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from forethought.core.errors import EnvironmentFault, SettingsError, UnknownNameError, UnsupportedSpaceError
from forethought.envs import (
    Environments,
    EpisodeStore,
    Supervision,
    Transition,
    episode_seed,
    make_environments,
    processes,
)
from forethought.envs.supervision import BACK_OFF_S, WINDOW_STEPS, RestartBudget

from .faulty import Faulty, built_only_in

SEED = 5
QUICK = Supervision(timeout_s=0.5)
IN_STEP = {(episode_seed(SEED, 1, 1), 3): ""}  # the third step of environment 1's second episode


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes environments, and close them afterwards; back-offs are recorded, not waited for."""
    made: list[Environments] = []

    def build(env: Any, num_envs: int = 2, async_envs: bool = True, supervision: Supervision = QUICK) -> Environments:
        made.append(make_environments(env, num_envs, SEED, None, async_envs, supervision))
        return made[-1]

    build.waits = []  # type: ignore[attr-defined]
    monkeypatch.setattr("forethought.envs.supervision.time", SimpleNamespace(sleep=build.waits.append))
    yield build
    for environments in made:
        environments.close()


def record(environments: Environments, steps: int) -> tuple[EpisodeStore, list[Transition]]:
    """Take random steps and store them."""
    rng = np.random.default_rng(0)
    store = EpisodeStore(environments.observation_codec.shape, environments.action_codec.dims, environments.num_envs)
    store.begin(environments.reset())
    return store, go_on(environments, store, rng, steps)


def go_on(environments: Environments, store: EpisodeStore, rng: np.random.Generator, steps: int) -> list[Transition]:
    transitions = []
    for _ in range(steps):
        actions = environments.action_codec.sample(rng, environments.num_envs)
        transitions.append(environments.step(actions))
        store.append(actions, transitions[-1])
    return transitions


def workers(environments: Environments) -> list[int]:
    """Return their pids."""
    return [single.pid for single in environments.vector.environments]  # type: ignore[attr-defined]


def gone(pids: list[int], within_s: float) -> bool:
    """Whether all the processes end in time."""
    until = time.monotonic() + within_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def assert_same(ours: EpisodeStore, theirs: EpisodeStore) -> None:
    for name, array in theirs.arrays().items():
        assert ours.arrays()[name].tobytes() == array.tobytes(), name


# Stepping


def test_what_is_stored_does_not_depend_on_processes_or_their_timing(make: Any) -> None:  # D04
    expected, one = record(make(Faulty, 3, async_envs=False), 60)
    stored, two = record(make(partial(Faulty, jitter=0.004), 3), 60)
    assert_same(stored, expected)
    for here, there in zip(one, two, strict=True):
        for mine, theirs in zip(here.infos, there.infos, strict=True):
            assert mine.pop("odd")
            assert "odd" not in theirs, "a function, which cannot travel"
            mine["torch"] = theirs["torch"]
            np.testing.assert_equal(mine, theirs)


@pytest.mark.parametrize("name", ["CartPole-v1", "HalfCheetah-v5"])
def test_a_task_by_name_is_stepped_alike_in_processes(make: Any, name: str) -> None:
    expected, _ = record(make(name, async_envs=False), 60)
    assert_same(record(make(name), 60)[0], expected)


def test_a_task_that_only_the_trainer_has_registered_is_known_to_the_workers(make: Any) -> None:
    gym.register("Faulty-v0", entry_point=Faulty)
    try:
        assert make("Faulty-v0", 1).name == "Faulty-v0"
    finally:
        del gym.registry["Faulty-v0"]


def test_workers_do_without_torch(make: Any) -> None:
    for in_process, loaded in ((True, False), (False, "torch" in sys.modules)):
        [step] = record(make(Faulty, 1, in_process), 1)[1]
        assert step.infos[0]["torch"] == loaded


def test_open_episodes_are_taken_up_bit_for_bit_also_after_a_restart(make: Any) -> None:
    broken = partial(Faulty, faults=dict.fromkeys(IN_STEP, "kill"))
    unbroken = make(broken)
    store, _ = record(unbroken, 17)
    assert unbroken.restarts == 1
    resumed = make(broken)
    assert resumed.load_state_dict(json.loads(json.dumps(unbroken.state_dict())))
    assert resumed.restarts == 1
    again = EpisodeStore(resumed.observation_codec.shape, resumed.action_codec.dims, resumed.num_envs)
    again.restore([store.segment()], store.standing())
    go_on(unbroken, store, np.random.default_rng(1), 20)
    go_on(resumed, again, np.random.default_rng(1), 20)
    assert_same(again, store)


def test_an_environment_that_fails_while_its_episode_is_repeated_begins_a_fresh_one(make: Any) -> None:
    environments = make(Faulty, async_envs=False)
    record(environments, 11)  # the fourth step of the second episodes
    broken = make(partial(Faulty, faults=dict.fromkeys(IN_STEP, "exit")))
    assert not broken.load_state_dict(environments.state_dict())
    assert broken.started.tolist() == [False, True]
    np.testing.assert_array_equal(broken.observations[0], environments.observations[0])


# Failing


FAILURES = [
    pytest.param(
        "raise", False, r"{call} failed: RuntimeError: the gearbox broke \(faulty.py, line \d+", id="E01 here"
    ),
    pytest.param("raise", True, r"{call} failed: RuntimeError: the gearbox broke \(faulty.py, line \d+", id="E01"),
    pytest.param("kill", True, r"its worker \(pid {pid}\) died, exit code -9 \(SIGKILL\)", id="E02 killed"),
    pytest.param("exit", True, r"its worker \(pid {pid}\) died, exit code 3", id="E02 exited"),
    pytest.param("hang", True, r"its worker \(pid {pid}\) did not answer within 0.5 s, and was killed", id="E03"),
    pytest.param("hang with the lock", True, r"its worker \(pid {pid}\) did not answer", id="E03 with the lock"),
]


@pytest.mark.parametrize(("kind", "in_process", "message"), FAILURES)
def test_an_environment_that_fails_in_a_step_is_built_anew_and_the_others_do_not_notice(
    make: Any, caplog: pytest.LogCaptureFixture, kind: str, in_process: bool, message: str
) -> None:
    environments = make(partial(Faulty, faults=dict.fromkeys(IN_STEP, kind)), async_envs=in_process)
    pids = workers(environments) if in_process else [0, 0]
    store, transitions = record(environments, 17)
    _, undisturbed = record(make(Faulty, async_envs=False), 17)
    failed = transitions[9]
    assert failed.valid.tolist() == [True, False]
    assert failed.started.tolist() == [False, True]
    assert not (failed.terminated | failed.truncated).any()
    where = rf"Faulty, environment 1, episode seed {episode_seed(SEED, 1, 1)}, step 2: "
    reported = re.compile(where + message.format(call="step", pid=pids[1]))
    assert reported.match(failed.infos[1]["fault"])
    [logged] = caplog.records
    assert reported.match(logged.message)
    assert ("gearbox broke" in caplog.text.partition("Traceback")[2]) == (kind == "raise"), "the environment's own"
    assert environments.restarts == 1
    for step, (one, two) in enumerate(zip(transitions, undisturbed, strict=True)):
        sound = 2 if step < 9 else 1
        np.testing.assert_array_equal(one.next_observations[:sound], two.next_observations[:sound])
    lengths = [len(store.episode(index)["actions"]) for index in range(store.episodes)]
    assert lengths == [7, 7, 7, 2, 7, 3]
    assert store.episode(3)["closed"], "its two steps are true experience, and it ends as truncated after them"


@pytest.mark.parametrize(("kind", "in_process", "message"), FAILURES)
def test_an_environment_that_fails_in_its_reset_is_built_anew(
    make: Any, caplog: pytest.LogCaptureFixture, kind: str, in_process: bool, message: str
) -> None:  # E04
    seeds = [episode_seed(SEED, 0, 0), episode_seed(SEED, 0, 2)]
    environments = make(partial(Faulty, faults={(seed, 0): kind for seed in seeds}), 1, in_process)
    store, transitions = record(environments, 14)
    assert all(step.valid.all() for step in transitions)
    assert environments.restarts == 2
    for seed, logged in zip(seeds, caplog.records, strict=True):
        where = rf"Faulty, environment 0, episode seed {seed}, step 0: "
        assert re.match(where + message.format(call="reset", pid=r"\d+"), logged.message)
    assert store.episodes == 2


@pytest.mark.parametrize(
    ("kind", "message"), [("raise", r"RuntimeError: the gearbox broke"), ("exit", r"died, exit code 3")]
)
def test_a_constructor_that_fails_only_in_the_worker_is_reported_at_once(make: Any, kind: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=message):
        make(partial(built_only_in, os.getpid(), kind), 3)
    assert time.monotonic() - began < 30


def test_a_constructor_that_hangs_is_given_up(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BUILD_TIMEOUT_S", 1.5)
    with pytest.raises(EnvironmentFault, match=r"did not answer within 1.5 s, and was killed"):
        make(partial(built_only_in, os.getpid(), "hang"), 1)


@pytest.mark.parametrize(
    ("env", "error", "message"),
    [
        ("Pendlum-v1", UnknownNameError, "Pendulum-v1"),
        (partial(Faulty, nothing=1), EnvironmentFault, "factory failed: TypeError"),
        (dict, EnvironmentFault, "returned dict"),
        (lambda: gym.make("Blackjack-v1"), UnsupportedSpaceError, "FlattenObservation"),
        (threading.Lock().acquire, SettingsError, "cannot be pickled"),
    ],
)
def test_what_cannot_be_built_in_a_process_is_explained_as_it_is_here(
    make: Any, env: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(env, 1)


@pytest.mark.parametrize("make_object", [Faulty, lambda: gym.vector.SyncVectorEnv([Faulty])])
def test_an_environment_that_exists_already_stays_in_this_process(make: Any, make_object: Any) -> None:
    with pytest.raises(SettingsError, match="async_envs needs an id or a factory"):
        make(make_object(), 1)


# The budget


@pytest.mark.parametrize("in_process", [False, True], ids=["here", "in processes"])
def test_more_failures_than_the_budget_end_it_with_the_environments_own_error(make: Any, in_process: bool) -> None:
    environments = make(partial(Faulty, faults={(-1, 2): "raise"}), 1, in_process)
    message = r"Faulty, environment 0, .*step 1: step failed: RuntimeError: the gearbox broke.* built anew 3 times"
    with pytest.raises(EnvironmentFault, match=message) as caught:
        record(environments, 99)
    assert environments.restarts == 3
    assert make.waits == [BACK_OFF_S, 2 * BACK_OFF_S, 4 * BACK_OFF_S]
    shown = "".join(traceback.format_exception(caught.value))
    assert re.search(r'faulty.py", line \d+, in step', shown)


def test_a_constructor_that_fails_again_and_again_spends_the_budget_too(make: Any, tmp_path: Path) -> None:
    def once() -> Faulty:
        (tmp_path / "built").touch(exist_ok=False)
        return Faulty({(-1, 1): "raise"})

    environments = make(once, 1, async_envs=False)
    with pytest.raises(EnvironmentFault, match=r"factory failed: FileExistsError.* built anew 3 times"):
        record(environments, 1)


def test_an_environment_given_as_an_object_cannot_be_built_anew(make: Any) -> None:
    environments = make(Faulty(dict.fromkeys(IN_STEP, "raise") | {(-1, 3): "raise"}), 1, async_envs=False)
    with pytest.raises(EnvironmentFault, match=r"step 2: step failed: RuntimeError: the gearbox broke") as caught:
        record(environments, 99)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert environments.restarts == 0


def test_the_budget_fills_up_again_as_steps_are_taken(make: Any) -> None:
    budget, fault = RestartBudget(Supervision(restarts=1)), EnvironmentFault("It broke.")
    budget.spend(fault)
    budget.steps += WINDOW_STEPS - 1
    again = RestartBudget(Supervision(restarts=1))
    again.load_state_dict(budget.state_dict())
    for one in (budget, again):
        with pytest.raises(EnvironmentFault, match="no more"):
            one.spend(fault)
        one.steps += 1
        one.spend(fault)
        assert one.restarts == 2


# The trainer's end, and the workers'


def test_workers_end_with_their_environments(make: Any) -> None:
    closed, collected = make(Faulty), make_environments(Faulty, 1, async_envs=True)
    pids = [workers(closed), workers(collected)]
    closed.close()
    assert gone(pids[0], 0.0)
    del collected
    assert gone(pids[1], 0.0)


def test_an_interrupted_step_does_not_mix_up_later_answers(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    environments, undisturbed = make(Faulty), make(Faulty, async_envs=False)
    record(environments, 6)
    record(undisturbed, 6)
    with monkeypatch.context() as patch:
        patch.setattr(processes.WorkerEnvironment, "_receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            environments.step(np.zeros((2, 1)))  # the last of both episodes, after which workers reset by themselves
    undisturbed.step(np.zeros((2, 1)))
    undisturbed.vector.episodes[:] = environments.vector.episodes
    for one in (environments, undisturbed):
        one.vector._next_seeds[:] = [11, 12]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(environments.reset(), undisturbed.reset())


def interrupt(worker: Any) -> Any:
    raise KeyboardInterrupt


def test_workers_that_cannot_be_forked_any_more_are_a_named_error(make: Any) -> None:
    environments = make(Faulty, 1)
    [pid] = workers(environments)
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().split()[3]), signal.SIGKILL)
    record(environments, 3)  # the worker itself lives on
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match=r"Faulty, environment 0, .*no worker can be started"):
        record(environments, 3)


def test_ctrl_c_is_not_for_workers(make: Any) -> None:
    environments = make(Faulty, 1)
    [pid] = workers(environments)
    os.kill(pid, signal.SIGINT)
    record(environments, 3)
    assert os.getpgid(pid) != os.getpgid(0), "the terminal does not even tell them"
    assert environments.restarts == 0


TRAINER = """
import sys
sys.path.insert(0, sys.argv[1])
import os
from functools import partial
from pathlib import Path
import numpy as np
from faulty import Faulty
from forethought.envs import make_environments

environments = make_environments(partial(Faulty, faults={(-1, 2): sys.argv[2]}), 2, async_envs=True)
environments.reset()
nursery = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
print(nursery, *(single.pid for single in environments.vector.environments), flush=True)
while True:
    environments.step(np.zeros((2, 1)))
"""


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        pytest.param(signal.SIGKILL, "", id="R12 stepping"),
        pytest.param(signal.SIGKILL, "hang with the lock", id="R12 hanging"),
        pytest.param(signal.SIGINT, "", id="Ctrl-C"),
    ],
)
def test_no_worker_outlives_the_trainer(number: signal.Signals, kind: str) -> None:
    command = [sys.executable, "-c", TRAINER, str(Path(__file__).parent), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as trainer:
        try:
            pids = [int(pid) for pid in trainer.stdout.readline().split()]  # type: ignore[union-attr]
            time.sleep(0.2)
            os.killpg(trainer.pid, number)  # as Ctrl-C does
            _, errors = trainer.communicate(timeout=20)
        finally:
            trainer.kill()
    assert len(pids) == 3
    assert gone(pids, 5.0)
    assert errors.decode().count("Traceback") == (number == signal.SIGINT), "the trainer's own and nobody else's"
