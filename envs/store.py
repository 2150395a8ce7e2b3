"""EpisodeStore: every step ever taken, append-only, and the sampler that cuts clips from it.

A row is one environment step: the observation before it, the action, the reward, and whether it ended the episode
in a terminal state. Each row points to the row that follows it in its episode, and the last one to the episode's
latest observation, kept beside the rows. So environments may interleave in any order, and running episodes can be
sampled like finished ones.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..core.clip import Clip, ClipSpec
from ..core.errors import CheckpointError, EnvironmentFault, SettingsError
from .clips import cut_clips, draw_endings, draw_starts, farthest, whole_blocks, whole_clips
from .columns import Columns, read_header
from .segments import add_segment, cut_segment, link_rows, require_like
from .vectors import to_float32

if TYPE_CHECKING:
    from .transition import Transition

Array = NDArray[Any]
SOURCE_FILE = "source.json"
"""In a store's folder: of what task its episodes are, where that is known."""
_STANDING = ("now", "began", "open_episode")
_PER_ENVIRONMENT = (*_STANDING, "last_row")
_NONE = -1


class EpisodeStore:
    """Append-only rows of experience.

    Args:
        observation_shape: of one observation: the width O of a vector, or (height, width, 3) of an image.
        action_dims: A, of internal actions ([-1, 1] or one-hots).
        num_envs: B, environments that append to it.
        folder: where to keep the rows as memory-mapped files, for data larger than memory. A store that is there
            already is continued as of its last :meth:`flush`; episodes that were running then stay unfinished.
            ``None`` keeps everything in memory.
        state_dims: S, the width of the true state that is recorded beside every observation (see
            :func:`~forethought.envs.state_of`), for whoever starts an environment or asks a latent there. It is never
            learned from. 0 for none; otherwise episodes come whole, by :meth:`add_episode`.
        read_only: never write to ``folder``, which holds a store; nothing can be added.

    Attributes:
        folder: where the rows are kept, or ``None``.

    Raises:
        CheckpointError: if what ``folder`` holds is damaged, of another version or of other dimensions.
    """

    def __init__(
        self,
        observation_shape: int | tuple[int, ...],
        action_dims: int,
        num_envs: int = 1,
        folder: str | os.PathLike[str] | None = None,
        state_dims: int = 0,
        read_only: bool = False,
    ) -> None:
        shape = (observation_shape,) if isinstance(observation_shape, int) else tuple(observation_shape)
        if not shape or min(*shape, action_dims, num_envs) < 1:
            raise SettingsError(
                f"A store needs at least one observation dimension, action dimension and environment, not "
                f"{observation_shape}, {action_dims} and {num_envs}."
            )
        self.observation_shape, self.action_dims, self.num_envs = shape, action_dims, num_envs
        self.state_dims = state_dims
        dtype = np.dtype(np.float32 if len(shape) == 1 else np.uint8)
        self.folder = None if folder is None else Path(folder)
        self._columns = Columns(shape, dtype, action_dims, state_dims, self.folder, read_only)
        self._now = np.zeros((num_envs, *shape), dtype)
        self._began = np.zeros(num_envs, bool)
        self._open_episode = np.full(num_envs, _NONE, np.int64)  # none until its first step
        self._last_row = np.full(num_envs, _NONE, np.int64)
        self._reach = self._farthest()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], num_envs: int = 1, read_only: bool = False) -> Self:
        """Open the store in ``folder`` without knowing its dimensions; ``read_only`` leaves its files untouched.

        Raises:
            CheckpointError: if there is none, or it cannot be read.
        """
        header = read_header(Path(folder))
        if header is None:
            raise CheckpointError(f"{folder} holds no episode store.")
        shape, states = tuple(header["observation_shape"]), header["state_dims"]
        return cls(shape, header["action_dims"], num_envs, folder, state_dims=states, read_only=read_only)

    def look_back(self, rows: int, episodes: int) -> None:
        """Show only the first ``rows`` and ``episodes``, as when there were no more; the store is read only.

        Raises:
            SettingsError: it is not, or never held so many.
        """
        self._columns.look_back(rows, episodes)
        self._reach = self._farthest()

    @property
    def rows(self) -> int:
        """Environment steps stored."""
        return self._columns.rows

    @property
    def episodes(self) -> int:
        """Episodes with at least one stored step, running ones included."""
        return self._columns.episodes

    def begin(self, observations: Array, mask: Array | None = None) -> None:
        """Begin a new episode with ``observations`` (B, O) where ``mask`` (B,) holds, everywhere by default.

        An episode that is still open there ends, as truncated.
        """
        mask = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask, bool)
        _require_finite(observations[mask], "observations")
        self._close(mask)
        self._now[mask] = observations[mask]
        self._began |= mask

    def append(self, actions: Array, transition: Transition) -> None:
        """Store the valid steps of ``transition``, made by internal ``actions`` (B, A), and begin what it started.

        Where a step is not valid and a new episode started, the open one was cut: it ends, as truncated.

        Raises:
            SettingsError: where no episode has begun, or the store records states, which a transition lacks.
        """
        if self.state_dims:
            raise SettingsError("A store with states takes whole episodes: call add_episode.")
        stepped = np.flatnonzero(transition.valid)
        if len(stepped):
            self._append(stepped, np.asarray(actions), transition)
            self._close(transition.valid & (transition.terminated | transition.truncated))
        if transition.started.any():
            self.begin(transition.observations, transition.started)

    def _append(self, stepped: NDArray[np.int64], actions: Array, transition: Transition) -> None:
        if not self._began[stepped].all():
            raise SettingsError("A step can be stored only where an episode has begun; call begin first.")
        after, rewards = transition.next_observations[stepped], transition.rewards[stepped]
        _require_finite(after, "observations")
        _require_finite(actions[stepped], "actions")
        _require_finite(rewards, "rewards")
        fresh = stepped[self._open_episode[stepped] == _NONE]
        if len(fresh):
            self._open_episode[fresh] = self._columns.add_episodes(len(fresh))
        rows, episodes, previous = (
            self._columns.add_rows(len(stepped)),
            self._open_episode[stepped],
            self._last_row[stepped],
        )
        data = self._columns.data
        data["observations"][rows] = self._now[stepped]
        data["actions"][rows] = actions[stepped]
        data["rewards"][rows] = rewards
        data["terminated"][rows] = transition.terminated[stepped]
        data["successors"][rows] = ~episodes
        goes_on = previous != _NONE
        data["successors"][previous[goes_on]] = rows[goes_on]
        self._reach = max(self._reach, farthest(previous[goes_on], rows[goes_on]))
        data["episode_of_row"][rows] = episodes
        data["latest"][episodes] = after
        self._last_row[stepped] = rows
        self._now[stepped] = after

    def _close(self, mask: Array) -> None:
        episodes = self._open_episode[mask]
        self._columns.data["closed"][episodes[episodes != _NONE]] = True
        self._open_episode[mask] = _NONE
        self._last_row[mask] = _NONE
        self._began[mask] = False

    def add_episode(
        self,
        observations: Array,
        actions: Array,
        rewards: Array,
        terminated: bool,
        truncated: bool,
        states: Array | None = None,
    ) -> None:
        """Add a recorded episode of T steps.

        Args:
            observations: (T + 1, O), or images (T + 1, height, width, 3), the one after the last step included.
            actions: (T, A), internal ones (:meth:`ActionCodec.encode` makes them).
            rewards: (T,); zeros where there are none.
            terminated: whether the last step reached a terminal state.
            truncated: whether the episode was cut there; if neither, it merely stops being recorded.
            states: (T + 1, S), where the store records them, as of every observation.

        Raises:
            SettingsError: if the shapes do not fit each other and the store.
            EnvironmentFault: if a value is not finite.
            WriteError: if there is no room on the disk; the store is as it was before.
        """
        if np.ndim(terminated) or np.ndim(truncated):
            raise SettingsError("terminated and truncated are of the episode: one bool each, not one for every step.")
        steps = len(actions)
        images = len(self.observation_shape) > 1
        columns = {
            "observations": observations if images else to_float32(observations),
            "actions": to_float32(actions),
            "rewards": to_float32(rewards),
        }
        expected: list[tuple[int, ...]] = [(steps + 1, *self.observation_shape), (steps, self.action_dims), (steps,)]
        if self.state_dims or states is not None:
            columns["states"] = np.empty((0, 0)) if states is None else states
            expected.append((steps + 1, self.state_dims))
        given = [np.shape(values) for values in columns.values()]
        if steps == 0:
            raise SettingsError("An episode needs a step at least: observations that nothing led to are not stored.")
        if given != expected:
            raise SettingsError(
                f"An episode of {steps} steps needs {', '.join(columns)} of shapes {str(expected)[1:-1]}, "
                f"not {str(given)[1:-1]}."
            )
        for what, values in columns.items():
            _require_finite(values, what)
        if (largest := np.abs(columns["actions"]).max()) > 1 + 1e-4:
            warnings.warn(
                f"Actions reach {largest:g}: agents know those in [-1, 1], as ActionCodec.encode makes them.",
                stacklevel=2,
            )
        self._columns.make_room(steps, 1)
        rows, [episode] = self._columns.add_rows(steps), self._columns.add_episodes(1)
        data = self._columns.data
        data["observations"][rows] = columns["observations"][:-1]
        data["actions"][rows] = columns["actions"]
        data["rewards"][rows] = columns["rewards"]
        data["terminated"][rows] = False
        data["terminated"][rows[-1]] = terminated
        data["successors"][rows] = rows + 1
        data["successors"][rows[-1]] = ~episode
        data["episode_of_row"][rows] = episode
        data["latest"][episode] = columns["observations"][-1]
        data["closed"][episode] = terminated or truncated
        if states is not None:
            data["states"][rows], data["latest_states"][episode] = states[:-1], states[-1]

    def sample(
        self,
        batch: int,
        spec: ClipSpec,
        rng: np.random.Generator,
        rows: slice | None = None,
        endings: float = 0.0,
        fading: float = 0.0,
    ) -> Clip:
        """Cut ``batch`` clips that start at random rows and never cross an episode's end.

        A clip step is valid if all environment steps of its block were taken, or the episode ended inside it. What
        follows is padding: the last place again, zero actions and rewards.

        Args:
            batch: clips B.
            spec: model steps T and environment steps per model step.
            rng: where the random rows come from.
            rows: the rows to use, in the order in which they were appended (``slice(0, 900)`` to train,
                ``slice(900, None)`` to validate); the others count as not recorded.
            endings: share of the clips that are drawn among those that reach a terminal state instead, if any do.
            fading: by which share each row is drawn more rarely than the one after it, down to a tenth; 0 for all
                alike.

        Raises:
            SettingsError: if no clip can start there, with the numbers.
        """
        first, last, stride = (rows or slice(None)).indices(self.rows)
        if stride != 1 or first >= last:
            raise SettingsError(f"No clip can start in rows {first} to {last} of {self.rows} (step {stride}).")
        data = self._columns.data
        starts = draw_starts(data, batch, spec.block, rng, first, last, fading)
        if count := round(endings * batch):
            ending = draw_endings(data, count, spec.length * spec.block, self._reach, rng, first, last)
            starts[: len(ending)] = ending
        return cut_clips(data, starts, spec, last)

    def clips(self, spec: ClipSpec, rows: slice) -> Clip:
        """Cut one clip from every row in ``rows`` whose first block is complete, in order; see :meth:`sample`.

        Raises:
            SettingsError: if there is none.
        """
        first, last, _ = rows.indices(self.rows)
        data = self._columns.data
        starts = whole_blocks(data, spec.block, first, last)
        if not len(starts):
            raise SettingsError(f"No block of {spec.block} steps is complete in rows {first} to {last}.")
        return cut_clips(data, starts, spec, last)

    def starts(self, spec: ClipSpec, episodes: Array | None = None) -> NDArray[np.int64]:
        """Return the rows from which every environment step of a clip was taken, in order, for :meth:`cut`.

        Args:
            spec: model steps T and environment steps per model step.
            episodes: numbers of the episodes to use; all by default. To hold data out, split them, never their rows:
                clips that overlap tell of each other.
        """
        rows = whole_clips(self._columns.data, spec, self.rows)
        if episodes is None:
            return rows
        chosen = np.zeros(self.episodes, bool)
        chosen[episodes] = True
        return rows[chosen[self._columns.data["episode_of_row"][rows]]]

    def cut(self, starts: NDArray[np.int64], spec: ClipSpec) -> Clip:
        """Cut the clips that begin at the rows ``starts`` (B,), in that order."""
        return cut_clips(self._columns.data, starts, spec, self.rows)

    def episode(self, index: int) -> dict[str, Array]:
        """Return a copy of one episode of T steps.

        Returns:
            observations (T + 1, O), actions (T, A), rewards (T,), terminated (T,) bool, and closed () bool, which is
            False while the episode runs; where states are recorded, states (T + 1, S).
        """
        if not 0 <= index < self.episodes:
            raise SettingsError(f"There is no episode {index}; {self.episodes} are stored.")
        data = self._columns.used()
        rows = np.flatnonzero(data["episode_of_row"] == index)
        whole = {"observations": "latest"} | ({"states": "latest_states"} if self.state_dims else {})
        columns = {name: np.concatenate([data[name][rows], data[last][index][None]]) for name, last in whole.items()}
        columns |= {name: data[name][rows] for name in ("actions", "rewards", "terminated")}
        return {**columns, "closed": np.array(data["closed"][index])}

    @property
    def nbytes(self) -> int:
        """Bytes of the experience, room for more not counted."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, Array]:
        """Return everything as arrays, running episodes included; views, which the next :meth:`append` may change."""
        return {**self._columns.used(), **{name: getattr(self, f"_{name}") for name in _PER_ENVIRONMENT}}

    def segment(self, first: int = 0) -> dict[str, Array]:
        """Return a copy of the rows from ``first`` on, which will never change; :meth:`restore` takes them back."""
        return cut_segment(self._columns, first)

    def standing(self) -> dict[str, Array]:
        """Return a copy of what is not in the rows, and changes: where each of the B environments is.

        Returns:
            now (B, O), began (B,), open_episode (B,), -1 for none, and unfinished, the numbers of all episodes that
            have not ended.
        """
        per_environment = {name: getattr(self, f"_{name}").copy() for name in _STANDING}
        return {**per_environment, "unfinished": np.flatnonzero(~self._columns.used()["closed"])}

    def restore(self, segments: Iterable[Mapping[str, Array]], standing: Mapping[str, Array]) -> None:
        """Fill this store, which is empty, with segments that follow each other, and stand where it stood after them.

        Raises:
            CheckpointError: if arrays are missing, of other dimensions, or do not fit each other.
        """
        if self.rows:
            raise SettingsError(f"Only an empty store can be restored; this one has {self.rows} rows.")
        for segment in segments:
            add_segment(self._columns, segment)
        require_like(standing, {**self.standing(), "unfinished": np.zeros(0, np.int64)})
        for name, least in (("open_episode", _NONE), ("unfinished", 0)):
            if ((standing[name] < least) | (standing[name] >= self.episodes)).any():
                raise CheckpointError(f"The stored experience is inconsistent: {name} points beyond it.")
        for name in _STANDING:
            getattr(self, f"_{name}")[...] = standing[name]
        closed = self._columns.used()["closed"]
        closed[:] = True
        closed[standing["unfinished"]] = False
        running = self._open_episode != _NONE
        self._last_row[running] = link_rows(self._columns)[self._open_episode[running]]
        self._reach = self._farthest()

    def moved_to(self, num_envs: int) -> Self:
        """Return a store in memory that holds the same rows and to which ``num_envs`` other environments append.

        Episodes that were running stay as they are, unfinished.
        """
        moved = type(self)(self.observation_shape, self.action_dims, num_envs, state_dims=self.state_dims)
        moved.restore([self.segment()], {**moved.standing(), "unfinished": self.standing()["unfinished"]})
        return moved

    def _farthest(self) -> int:
        return farthest(np.arange(self.rows), self._columns.used()["successors"])

    def flush(self) -> None:
        """Bring the files in the folder up to date, so that opening it finds all rows stored so far."""
        self._columns.flush()


def _require_finite(values: Array, what: str) -> None:
    if not np.isfinite(values).all():
        raise EnvironmentFault(f"Non-finite {what} are never stored.")
