"""Wishes: what plans should bring about, said in physical quantities, and in sums of such sayings.

>>> wish = quantity("x_velocity", target=2.0) + 0.5 * quantity("torso_height", at_least=0.6) + 0.01 * effort()
>>> Wish.parse("x_velocity=2.0, 0.5*torso_height>=0.6, 0.01*effort") == wish
True

The agent never learned any of them: a probe reads the quantities off the latents that its world model imagines.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from ..core.errors import SettingsError

Form = Literal["target", "at_least", "at_most", "maximize", "minimize", "reward", "effort"]
_SIGNS: dict[Form, str] = {"target": "=", "at_least": ">=", "at_most": "<="}
_BARE: tuple[Form, ...] = ("reward", "effort")
_EXTREMES: dict[str, Form] = {"max": "maximize", "min": "minimize"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TERM = re.compile(rf"(?:({_NUMBER})\s*\*\s*)?([A-Za-z]\w*)(?:\s*(>=|<=|=)\s*({_NUMBER}|max|min))?")


@dataclass(frozen=True)
class Term:
    """One part of a wish.

    Attributes:
        form: what is asked of the quantity; or ``reward``, what the agent learned to seek; or ``effort``, small
            actions.
        name: of the quantity, or that of the form.
        value: target or bound, in the quantity's unit.
        weight: of its cost in the sum.
    """

    form: Form
    name: str
    value: float | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or self.weight <= 0:
            raise SettingsError(f"The weight {self.weight} of {self.name} must be a positive number.")
        if self.value is not None and not math.isfinite(self.value):
            raise SettingsError(f"{self.name} cannot be brought to {self.value}.")

    @property
    def is_quantity(self) -> bool:
        """Whether it is about a physical quantity."""
        return self.form not in _BARE

    def __str__(self) -> str:
        weight = "" if self.weight == 1 else f"{self.weight:g}*"
        if self.form in _SIGNS:
            return f"{weight}{self.name}{_SIGNS[self.form]}{self.value:g}"
        ends = {form: f"={text}" for text, form in _EXTREMES.items()}
        return f"{weight}{self.name}{ends.get(self.form, '')}"


@dataclass(frozen=True)
class Wish:
    """A weighted sum of :class:`Term`; ``+`` adds wishes, ``*`` weighs them.

    What a term costs is counted in units that are comparable: about 1 for missing a target or a bound by as much as the
    quantity is usually spread, 1 for full actions, and -1 for a reward of mean size.
    """

    terms: tuple[Term, ...]

    def __add__(self, other: Wish) -> Wish:
        return Wish(self.terms + other.terms) if isinstance(other, Wish) else NotImplemented

    def __mul__(self, weight: float) -> Wish:
        return Wish(tuple(replace(term, weight=term.weight * weight) for term in self.terms))

    __rmul__ = __mul__

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the quantities that it is about, each once."""
        return tuple(dict.fromkeys(term.name for term in self.terms if term.is_quantity))

    @property
    def needs_reward(self) -> bool:
        """Whether it asks for what the agent learned to seek."""
        return any(term.form == "reward" for term in self.terms)

    @classmethod
    def parse(cls, text: str) -> Wish:
        """Return the wish of a text such as ``"x_velocity=2.0, 0.5*torso_height>=0.6"``.

        Terms are separated by commas: ``name=VALUE``, ``name>=VALUE``, ``name<=VALUE``, ``name=max``, ``name=min``,
        ``reward`` or ``effort``, each after ``WEIGHT*`` if it is not to count 1.

        Raises:
            SettingsError: another text.
        """
        return cls(tuple(_parse_term(part.strip()) for part in text.split(",")))

    def __str__(self) -> str:
        return ", ".join(map(str, self.terms))


def quantity(
    name: str,
    target: float | None = None,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    maximize: bool = False,
    minimize: bool = False,
) -> Wish:
    """Return the wish that a physical quantity be somewhere.

    Args:
        name: of a quantity of the task, such as ``x_velocity``.
        target: to be as close to this as possible; angles in radians, the shorter way round.
        at_least: not to be below this; may be combined with ``at_most``.
        at_most: not to be above this.
        maximize: to be as large as possible.
        minimize: to be as small as possible.

    Raises:
        SettingsError: nothing is asked, or more than fits together.
    """
    asked: list[Term] = []
    if target is not None:
        asked.append(Term("target", name, float(target)))
    if at_least is not None:
        asked.append(Term("at_least", name, float(at_least)))
    if at_most is not None:
        asked.append(Term("at_most", name, float(at_most)))
    if maximize:
        asked.append(Term("maximize", name))
    if minimize:
        asked.append(Term("minimize", name))
    forms = {term.form for term in asked}
    if not asked or (len(asked) > 1 and forms != {"at_least", "at_most"}):
        raise SettingsError(
            f"quantity({name!r}) asks for one of target, at_least and at_most (which go together), maximize, minimize."
        )
    if at_least is not None and at_most is not None and at_least > at_most:
        raise SettingsError(f"{name} cannot be at least {at_least} and at most {at_most}.")
    return Wish(tuple(asked))


def reward() -> Wish:
    """Return the wish for what the agent learned to seek: its task's reward, and its critic's value after the plan."""
    return Wish((Term("reward", "reward"),))


def effort() -> Wish:
    """Return the wish for small actions: the mean square of actions in units of their bounds is its cost."""
    return Wish((Term("effort", "effort"),))


def _parse_term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    if found is None:
        raise SettingsError(
            f"{text!r} is no wish: say name=VALUE, name>=VALUE, name<=VALUE, name=max, name=min, reward or effort, "
            "each after WEIGHT* if it is not to count 1; for example x_velocity=2.0, 0.5*torso_height>=0.6."
        )
    weight, name, sign, value = found.groups()
    scale = 1.0 if weight is None else float(weight)
    if sign is None:
        if name not in _BARE:
            raise SettingsError(f"What is {name} to be? Such as {name}=1.0, {name}>=1.0 or {name}=max.")
        return Term("reward" if name == "reward" else "effort", name, weight=scale)
    if value in _EXTREMES:
        if sign != "=":
            raise SettingsError(f"{text!r} is no wish: say {name}={value}.")
        return Term(_EXTREMES[value], name, None, scale)
    [form] = [form for form, known in _SIGNS.items() if known == sign]
    return Term(form, name, float(value), scale)
