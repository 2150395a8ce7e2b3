"""World models by name, for learning from recorded data."""

from __future__ import annotations

from ..core.errors import SettingsError, UnknownNameError, did_you_mean
from .lewm import LEWM, LEWM_SMALL
from .settings import JEPASettings
from .vision import VisionSettings

STATE = JEPASettings(heads=False, regularizer_weight=0.05).settled()
"""For state vectors: nothing but SIGReg keeps its latents apart, because no reward shapes them."""
PRESETS = {"lewm": LEWM, "lewm-small": LEWM_SMALL, "state": STATE}


def preset_for(observation_shape: tuple[int, ...], name: str = "") -> JEPASettings:
    """Return the settings of the preset ``name`` for observations of this shape; without a name, of one that fits.

    Raises:
        UnknownNameError: there is no such preset.
        SettingsError: it takes other observations.
    """
    if not name and len(observation_shape) == 1:
        return STATE
    small = LEWM_SMALL.vision
    assert small is not None
    if not name:
        if observation_shape == small.image_shape:
            return LEWM_SMALL
        fitting = VisionSettings.fitting(observation_shape)
        return LEWM_SMALL.replace(vision=small.replace(image_size=fitting.image_size, patch_size=fitting.patch_size))
    if name not in PRESETS:
        raise UnknownNameError(f"Unknown world model {name!r}.{did_you_mean(name, PRESETS)}")
    preset = PRESETS[name]
    takes = None if preset.vision is None else preset.vision.image_shape
    if (takes is None) == (len(observation_shape) == 3) or (takes is not None and takes != observation_shape):
        wanted = "vectors" if takes is None else f"images of the shape {takes}"
        raise SettingsError(f"The world model {name!r} takes {wanted}, and the observations are {observation_shape}.")
    return preset
