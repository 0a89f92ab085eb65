"""Progress of partitioning as lines, from its JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary(found: Mapping[str, Any], now: float) -> str:
    if found["configuration"] is None and found["reason"] is not None:
        return f"which configuration is wanted is not known: {found['reason']['text']}"
    if found["configuration"] is None:
        return "no configuration is wanted"
    since = max(0, round(now - found["since"]))
    text = f"{found['configuration']} (by {found['source']}): {found['state']} for {since} s"
    reason = found["reason"]
    with_a_gpu = any(gpu["reason"] == reason for gpu in found["gpus"])
    return f"{text}: {reason['text']}" if reason and not with_a_gpu else text


def line(gpu: Mapping[str, Any]) -> str:
    steps = gpu["steps"]
    text = f"GPU {gpu['index']}  {gpu['state']}: {gpu['wanted']}"
    if steps["total"]:
        text += f", {steps['done']} of {steps['total']} steps"
    return f"{text}; {gpu['reason']['text']}" if gpu["reason"] else text
