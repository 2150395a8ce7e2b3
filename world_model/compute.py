"""How updates are computed: arithmetic and compilation, the same for the model and for behaviour learned on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..core.settings import Settings

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class ComputeSettings(Settings):
    """How updates are computed; acting and planning are not touched."""

    precision: Precision = "fp32"
    """Arithmetic of the forward pass: fp32; bf16, which is autocast, with losses and statistics in fp32; or, with
    "auto", bf16 where the machine has units for it. Others imitate it, and take many times as long."""
    compile: bool = False
    """Compile updates with torch.compile: faster, after a minute or two at the start. Resuming is then no longer exact
    to the bit."""

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which a loss is to be computed."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.in_bf16(device))

    def in_bf16(self, device: torch.device) -> bool:
        """Return whether losses are computed in bf16 on ``device``."""
        return self.precision == "bf16" or (self.precision == "auto" and bf16_helps(device))

    def warn_if_imitated(self, device: torch.device) -> None:
        """Warn where bf16 is asked for and ``device`` has no units for it, so that updates take many times as long."""
        if self.precision == "bf16" and not bf16_helps(device):
            warnings.warn(
                f"Updates in bf16 are slow here, because the {device.type} of this machine has no units for it: "
                "compute.precision = 'auto' takes bf16 where they are faster, and fp32 elsewhere.",
                stacklevel=3,
            )

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` compiled, if that is wanted, for arguments whose shapes stay the same."""
        return _Compiled(function) if self.compile else function


def bf16_helps(device: torch.device) -> bool:
    """Return whether ``device`` has units for bf16, and multiplies matrices faster in it than in fp32.

    Processors have if they know AMX or AVX-512's instructions for bf16. One that knows AVX2 alone took sixty times as
    long as in fp32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    instructions = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in instructions)


class _Compiled:
    """A compiled function, or, where it cannot be compiled, the function itself, after one warning."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._eager = function
        self._function: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException  # importing it takes seconds, as does the first compilation

        if self._function is None:
            self._function = torch.compile(self._eager, dynamic=False)
        try:
            return self._function(*arguments)
        except TorchDynamoException as error:
            reason = " ".join(str(error).strip().partition("\n\n")[0].split())
            warnings.warn(f"Nothing is compiled, because torch.compile failed: {reason}", stacklevel=2)
            self._function = self._eager
            return self._eager(*arguments)
