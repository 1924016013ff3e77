"""Parameters of a request as words: their types and help, for options of the command line and keys of a batch file alike."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openlance.errors import RequestError


@dataclass(frozen=True)
class Parameter:
    """One parameter. `kind`: int, float or str; `count` values (2: a pair, 0: any number, given by repeating the option)."""

    name: str
    kind: type
    about: str
    count: int = 1
    names: tuple[str, ...] = ()
    """Of the values of a pair, in help."""

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """The value of a batch file's key, as the request wants it. Raises RequestError naming the type that is needed."""
        if self.count == 1:
            return self._one(value)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or (self.count and len(values) != self.count):
            raise RequestError(f"{self.name} must be a list of {self.count or 'any number of'} values, not {value!r}")
        return tuple(self._one(item) for item in values)

    def _one(self, value: Any) -> Any:
        fits = isinstance(value, int | float) if self.kind is float else isinstance(value, self.kind)
        if isinstance(value, bool) or not fits:
            names: Mapping[type, str] = {int: "an integer", float: "a number", str: "a string"}
            raise RequestError(f"{self.name} must be {names[self.kind]}, not {value!r}")
        return value


SIZES = (
    Parameter("height", int, "pixels; rounded to what the model makes, with a notice"),
    Parameter("width", int, "pixels"),
)
FRAMES = (Parameter("num_frames", int, "frames of a clip, 4k + 1"),)
IMAGE = (
    Parameter("num_inference_steps", int, "solver steps, 1 to 1000"),
    Parameter("guidance_scale", float, "weight of the prompt; 1: off, and twice as fast"),
    Parameter("visual_guidance_scale", float, "weight of sources and references against no condition; 1: off"),
    Parameter("guidance_interval", float, "guide at times in (LOW, HIGH]; 1 is noise", 2, ("LOW", "HIGH")),
    Parameter("guidance_renorm", str, "keep the norm of the guided velocity: global, channel or none"),
    Parameter("guidance_renorm_min", float, "least factor of the renorm, 0 to 1"),
    Parameter("timestep_shift", float, "how much the schedule dwells on noise; 1: even"),
    Parameter("solver", str, "euler, heun or dpm++2m"),
    Parameter("guidance_positions", str, "consistent, or shipped to reproduce published pictures exactly"),
)
TEXT = (
    Parameter("max_new_tokens", int, "longest answer, in tokens"),
    Parameter("temperature", float, "0: always the likeliest token"),
    Parameter("top_p", float, "draw from the likeliest tokens of this mass, up to 1"),
    Parameter("stop", str, "end the answer before this text (may be repeated)", 0),
)
SYSTEM = (
    Parameter("system", str, "SYSTEM text instead of the model's own"),
    Parameter("resolution", int, "areas that media are brought to, as sides of squares in pixels", 2, ("LATENT", "VISION")),
)
SEED = (Parameter("seed", int, "same seed, same result; default 42"),)
EVERYTHING = (*SIZES, *FRAMES, *IMAGE, *TEXT, *SYSTEM, *SEED)
"""All parameters of a request."""


def add_parameters(parser: argparse.ArgumentParser, title: str, parameters: tuple[Parameter, ...]) -> None:
    """Options for parameters; one that is not given stays None: the model's default."""
    group = parser.add_argument_group(title)
    for parameter in parameters:
        if parameter.count == 0:
            group.add_argument(parameter.option, action="append", type=parameter.kind, metavar="TEXT", help=parameter.about)
        elif parameter.count > 1:
            group.add_argument(parameter.option, nargs=parameter.count, type=parameter.kind, metavar=parameter.names, help=parameter.about)
        else:
            group.add_argument(parameter.option, type=parameter.kind, metavar=_metavar(parameter.kind), help=parameter.about)


def _metavar(kind: Callable[..., Any]) -> str:
    return {int: "N", float: "X"}.get(kind, "TEXT")  # type: ignore[call-overload,no-any-return]


def given_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters among parsed arguments that were given, lists as tuples."""
    values = {parameter.name: getattr(args, parameter.name, None) for parameter in EVERYTHING}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None}
