"""A bundle's `metadata.json`: what the policy is, what goes in and comes out, and how to tell it is the one meant."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agents.domain import TradingAction
from agents.errors import PolicyUnusable

__all__ = ["FORMATS", "Canary", "Metadata", "read_metadata"]

FORMATS: Mapping[str, str] = {"torchscript": "policy.pt", "mlp": "policy.safetensors"}
"""The formats, and the file that each keeps its policy in."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_INPUTS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Canary:
    """An input with the output that its author saw: `input` of shape (n,), `output` of shape (actions,)."""

    input: tuple[float, ...]
    output: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """A checked `metadata.json`.

    `actions`: what each output stands for, in the order of the outputs; the greatest output wins. `features`: the names
    of the inputs. `tolerance`: how far a canary's outputs may be from those that the author saw, absolute.
    `latency_us`: percentiles as the author measured them, for comparison only. `pin`: the sha256 of `metadata.json`
    as it was read; since that states the policy file's, it stands for the whole bundle.
    """

    policy_id: str
    version: str
    created: str
    format: str
    sha256: str
    inputs: int
    features: tuple[str, ...]
    actions: tuple[TradingAction, ...]
    canaries: tuple[Canary, ...]
    tolerance: float
    latency_us: Mapping[str, float]
    pin: str = ""

    @property
    def file(self) -> str:
        return FORMATS[self.format]

    def as_json(self) -> dict[str, Any]:
        """The content of `metadata.json`."""
        return {
            "policy_id": self.policy_id,
            "version": self.version,
            "created": self.created,
            "format": self.format,
            "sha256": self.sha256,
            "input": {"shape": [self.inputs], "dtype": "float32"},
            "output": {"shape": [len(self.actions)], "kind": "logits"},
            "features": list(self.features),
            "actions": [action.name for action in self.actions],
            "canaries": [{"input": list(each.input), "output": list(each.output)} for each in self.canaries],
            "tolerance": self.tolerance,
            "latency_us": dict(self.latency_us),
        }


def read_metadata(text: bytes, where: str) -> Metadata:
    """Check the bytes of a `metadata.json`; `where` names it in messages.

    Raises:
        PolicyUnusable: it is not JSON, or says something that no policy can be used by.
    """
    try:
        data = json.loads(text)
        return replace(_metadata(data), pin=hashlib.sha256(text).hexdigest())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise PolicyUnusable(
            f"{where} describes no policy ({' '.join(told.split()):.200}); it was not loaded; make the bundle anew"
        ) from error


def _metadata(data: Mapping[str, Any]) -> Metadata:
    if not isinstance(data, dict):
        raise TypeError("it is no JSON object")
    form = _one_of(data, "format", tuple(FORMATS))
    if data["input"]["dtype"] != "float32":
        raise ValueError(f"the input's dtype is {data['input']['dtype']!r}, not 'float32'")
    if data["output"]["kind"] != "logits":
        raise ValueError(f"the output's kind is {data['output']['kind']!r}, not 'logits'")
    inputs, outputs = _length(data, "input"), _length(data, "output")
    actions = tuple(TradingAction[name] for name in _texts(data, "actions"))
    if len(set(actions)) < len(actions) or len(actions) != outputs or TradingAction.HOLD not in actions:
        raise ValueError(f"its actions {data['actions']!r:.80} must be {outputs} different ones, HOLD among them")
    features = tuple(_texts(data, "features"))
    if len(features) != inputs:
        raise ValueError(f"it names {len(features)} features and has an input of {inputs}")
    return Metadata(
        policy_id=_matching(data, "policy_id", _ID),
        version=_text(data, "version"),
        created=_text(data, "created"),
        format=form,
        sha256=_matching(data, "sha256", _SHA256),
        inputs=inputs,
        features=features,
        actions=actions,
        canaries=_canaries(data, inputs, outputs),
        tolerance=_number(data["tolerance"]),
        latency_us={str(name): _number(value) for name, value in data.get("latency_us", {}).items()},
    )


def _canaries(data: Mapping[str, Any], inputs: int, outputs: int) -> tuple[Canary, ...]:
    found = tuple(
        Canary(tuple(map(_number, each["input"])), tuple(map(_number, each["output"]))) for each in data["canaries"]
    )
    if not found:
        raise ValueError("it has no canaries, so nobody could tell whether the policy answers as its author saw it")
    if any(len(each.input) != inputs or len(each.output) != outputs for each in found):
        raise ValueError("a canary's input or output is not of the shape that the bundle states")
    return found


def _one_of(data: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = _text(data, name)
    if value not in allowed:
        raise ValueError(f"its {name} is {value!r:.40}; there are {', '.join(allowed)}")
    return value


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data[name]
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(f"its {name} is {value!r:.40}, which is no plain text")
    return value


def _texts(data: Mapping[str, Any], name: str) -> list[str]:
    values = data[name]
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise TypeError(f"its {name} are no list of texts")
    return values


def _matching(data: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = _text(data, name)
    if not pattern.fullmatch(value):
        raise ValueError(f"its {name} {value!r:.80} does not match {pattern.pattern}")
    return value


def _length(data: Mapping[str, Any], name: str) -> int:
    shape = data[name]["shape"]
    if not (isinstance(shape, list) and len(shape) == 1 and type(shape[0]) is int and 0 < shape[0] <= _INPUTS_MAX):
        raise ValueError(f"the {name}'s shape is {shape!r:.40}, not [n] with n from 1 to {_INPUTS_MAX}")
    return int(shape[0])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is no finite number")
    return float(value)
