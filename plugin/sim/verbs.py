"""The verbs of ``sim``: each has a name, arguments and an effect on the simulated node."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct

from plugin.core.health.faults import RECOVERY_ACTIONS
from plugin.errors import SimulationError
from plugin.sim.hardware.calls import Fail, Hang
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.codes import Code
from plugin.sim.hardware.engine import SimNode
from plugin.sim.hardware.gpu import GpuState, Work
from plugin.sim.nvml.library import FUNCTIONS
from plugin.sim.targets import find_gpu, find_target, title

_Perform = Callable[[SimNode, Sequence[str]], str]

#: ``nvmlDeviceGpuRecoveryAction_t`` by the words of ``sim recovery``.
_ACTIONS = {
    "none": 0,
    "reset": 1,
    "reboot": 2,
    "drain-p2p": 3,
    "drain-and-reset": 4,
    "recover-imex": 5,
    "reset-bus": 6,
    "reboot-system": 7,
}
_DOUBLE_BIT = "--double-bit"
_WORKS = tuple(work.value for work in Work)
_HIGHEST_XID = 0xFFFF
_HIGHEST_CODE = 999

#: NVML's return codes by the words of ``sim fail``.
_CODES = {code.name.lower().replace("_", "-"): code.value for code in Code if code.value}


class Verb(Struct, frozen=True):
    """``usage`` names the arguments; ``least`` and ``most`` count them."""

    usage: str
    least: int
    most: int
    perform: _Perform


def perform(engine: SimNode, verb: str, arguments: Sequence[str]) -> str:
    """Carry out a verb; returns one sentence on its effect.

    Raises :class:`~plugin.errors.SimulationError`: one line with the choices, or the obstacle.
    """
    known = VERBS.get(verb)
    if known is None:
        raise SimulationError(f"unknown sim command {verb!r}; choose {', '.join(VERBS)}")
    if not known.least <= len(arguments) <= known.most:
        raise SimulationError(
            f"sim {verb} takes {known.usage or 'no arguments'}, not {' '.join(arguments) or 'none'}"
        )
    return known.perform(engine, arguments)


# ---- the verbs


def _xid(engine: SimNode, arguments: Sequence[str]) -> str:
    target, number = find_target(engine, arguments[0]), arguments[1]
    if not number.isdecimal() or not 0 < int(number) <= _HIGHEST_XID:
        raise SimulationError(f"{number!r} is no XID; give a number from 1 to {_HIGHEST_XID}")
    engine.fault(target.gpu.index, int(number), target.gi, target.ci)
    return f"XID {int(number)} of {target.title}"


def _recovery(engine: SimNode, arguments: Sequence[str]) -> str:
    gpu, word = find_gpu(engine, arguments[0]), arguments[1]
    action = _ACTIONS.get(
        word, int(word) if word.isdecimal() and int(word) in RECOVERY_ACTIONS else None
    )
    if action is None:
        raise SimulationError(
            f"unknown recovery action {word!r}; choose {', '.join(_ACTIONS)} or their numbers 0 "
            "to 7"
        )
    engine.set_recovery_action(gpu.index, action)
    return f"{title(engine, gpu)} recommends: {RECOVERY_ACTIONS[action]}"


def _ecc(engine: SimNode, arguments: Sequence[str]) -> str:
    names = [argument for argument in arguments if argument != _DOUBLE_BIT]
    if len(names) != 1:
        raise SimulationError(f"sim ecc takes {VERBS['ecc'].usage}, not {' '.join(arguments)}")
    gpu, double = find_gpu(engine, names[0]), _DOUBLE_BIT in arguments
    engine.ecc(gpu.index, double_bit=double)
    return f"a {'double' if double else 'single'}-bit ECC error of {title(engine, gpu)}"


def _lose(engine: SimNode, arguments: Sequence[str]) -> str:
    gpu = find_gpu(engine, arguments[0])
    engine.lose(gpu.index)
    return f"{title(engine, gpu)} fell off the bus"


def _restore(engine: SimNode, arguments: Sequence[str]) -> str:
    gpu = find_gpu(engine, arguments[0])
    if not gpu.lost:
        raise SimulationError(f"{title(engine, gpu)} is not lost")
    engine.restore(gpu.index)
    return f"{title(engine, gpu)} is back"


def _reset(engine: SimNode, arguments: Sequence[str]) -> str:
    gpu = find_gpu(engine, arguments[0])
    engine.reset(gpu.index)
    return f"{title(engine, gpu)} was reset; it has no MIG instances now"


def _repartition(engine: SimNode, arguments: Sequence[str]) -> str:
    before = {gpu.index: gpu for gpu in engine.gpus}
    engine.configure(arguments[0], only_named=True)
    now = engine.gpus
    changed = [str(n) for n, gpu in enumerate(now) if _shape(gpu) != _shape(before.get(gpu.index))]
    devices = sum(len(tuple(gpu.devices())) for gpu in now)
    change = f"changed GPU {', '.join(changed)}" if changed else "nothing to change"
    return f"{change}; the node has {devices} MIG devices"


def _hold(engine: SimNode, arguments: Sequence[str]) -> str:
    target = find_target(engine, arguments[0])
    pid = _pid(arguments[1]) if len(arguments) > 1 else 1
    work = arguments[2] if len(arguments) > 2 else Work.COMPUTE.value  # noqa: PLR2004
    if work not in _WORKS:
        raise SimulationError(f"{work!r} is nothing a process does; choose {', '.join(_WORKS)}")
    engine.use(target.uuid, pid, work=Work(work))
    holds = "watches" if work == Work.WATCH.value else "holds"
    return f"process {pid} {holds} {target.title}"


def _release(engine: SimNode, arguments: Sequence[str]) -> str:
    target = find_target(engine, arguments[0])
    if len(arguments) == 1:
        engine.release(target.uuid)
        return f"no process holds {target.title}"
    pid = _pid(arguments[1])
    if pid not in {process.pid for process in engine.processes(target.uuid)}:
        raise SimulationError(f"process {pid} does not hold {target.title}")
    engine.release(target.uuid, pid)
    return f"process {pid} holds {target.title} no more"


def _unplug(engine: SimNode, arguments: Sequence[str]) -> str:
    gpu = find_gpu(engine, arguments[0])
    name = title(engine, gpu)
    engine.remove_gpu(gpu.index)
    return f"{name} was pulled out of slot {gpu.index}"


def _plug(engine: SimNode, arguments: Sequence[str]) -> str:
    word = arguments[0]
    if word.isdecimal():
        engine.return_gpu(int(word))
        return f"the GPU of slot {int(word)} is there again, with MIG off"
    cards = catalog().cards
    if word not in cards:
        raise SimulationError(f"{word!r} is neither a slot nor a card; cards: {', '.join(cards)}")
    gpu = engine.add_gpu(cards[word])
    return f"a new {gpu.card.product} in slot {gpu.index}, with MIG off"


def _fail(engine: SimNode, arguments: Sequence[str]) -> str:
    function, code, *rest = arguments
    times = {"once": 1, "always": None}
    how_often = rest.pop(0) if rest and rest[0] in times else "always"
    if len(rest) > 1:
        raise SimulationError(f"{rest[0]!r} is neither once nor always")
    number = _CODES.get(code, int(code) if code.isdecimal() else 0)
    if not 0 < number <= _HIGHEST_CODE:
        raise SimulationError(
            f"{code!r} is no code; give a number from 1 to {_HIGHEST_CODE} or {', '.join(_CODES)}"
        )
    target = find_target(engine, rest[0]) if rest else None
    engine.calls.inject(
        _function(function),
        Fail(number),
        times=times[how_often],
        target=None if target is None else target.uuid,
    )
    where = "" if target is None else f" for {target.title}"
    return f"{function} answers {number} {how_often}{where}"


def _unfail(engine: SimNode, arguments: Sequence[str]) -> str:
    function = _function(arguments[0]) if arguments else None
    broken = engine.calls.broken()
    if function is not None and function not in broken:
        names = ", ".join(sorted(broken)) or "none"
        raise SimulationError(f"{function} has no fault; functions with faults: {names}")
    engine.calls.restore(function)
    return f"{function or 'every function'} answers again"


def _hang(engine: SimNode, arguments: Sequence[str]) -> str:
    if not arguments:
        engine.faults.hang()
        return "every driver call blocks until sim unhang"
    target = find_target(engine, arguments[1]) if len(arguments) > 1 else None
    engine.calls.inject(
        _function(arguments[0]), Hang(), target=None if target is None else target.uuid
    )
    where = "" if target is None else f" for {target.title}"
    return f"{arguments[0]} blocks{where} until sim unhang"


def _unhang(engine: SimNode, arguments: Sequence[str]) -> str:
    del arguments
    engine.faults.unhang()
    engine.calls.restore(kind=Hang)
    return "the driver answers again"


def _calls(engine: SimNode, arguments: Sequence[str]) -> str:
    del arguments
    counts = dict(engine.calls.counts)
    by_function = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
    open_ = f"{engine.sessions} open session{'s' * (engine.sessions != 1)}"
    return f"{sum(counts.values())} calls, {open_}: {by_function}"


def _unload(engine: SimNode, arguments: Sequence[str]) -> str:
    del arguments
    engine.faults.set_available(available=False)
    return "the driver is not loaded until sim load"


def _load(engine: SimNode, arguments: Sequence[str]) -> str:
    del arguments
    engine.faults.set_available(available=True)
    return "the driver is loaded"


def _remove_node(engine: SimNode, arguments: Sequence[str]) -> str:
    engine.faults.remove_node(_path(arguments[0]))
    return f"{arguments[0]} is not there until sim restore-node"


def _restore_node(engine: SimNode, arguments: Sequence[str]) -> str:
    if arguments[0] not in engine.faults.removed:
        names = ", ".join(sorted(engine.faults.removed)) or "none"
        raise SimulationError(f"{arguments[0]} was not removed; removed nodes: {names}")
    engine.faults.restore_node(arguments[0])
    return f"{arguments[0]} is there again"


VERBS: Mapping[str, Verb] = MappingProxyType(
    {
        "xid": Verb("TARGET XID", 2, 2, _xid),
        "recovery": Verb("GPU ACTION", 2, 2, _recovery),
        "ecc": Verb(f"GPU [{_DOUBLE_BIT}]", 1, 2, _ecc),
        "lose": Verb("GPU", 1, 1, _lose),
        "restore": Verb("GPU", 1, 1, _restore),
        "reset": Verb("GPU", 1, 1, _reset),
        "repartition": Verb("GEOMETRY", 1, 1, _repartition),
        "hold": Verb(f"TARGET [PID] [{'|'.join(_WORKS)}]", 1, 3, _hold),
        "release": Verb("TARGET [PID]", 1, 2, _release),
        "unplug": Verb("GPU", 1, 1, _unplug),
        "plug": Verb("SLOT or CARD", 1, 1, _plug),
        "fail": Verb("FUNCTION CODE [once|always] [TARGET]", 2, 4, _fail),
        "unfail": Verb("[FUNCTION]", 0, 1, _unfail),
        "hang": Verb("[FUNCTION [TARGET]]", 0, 2, _hang),
        "unhang": Verb("", 0, 0, _unhang),
        "calls": Verb("", 0, 0, _calls),
        "unload": Verb("", 0, 0, _unload),
        "load": Verb("", 0, 0, _load),
        "remove-node": Verb("PATH", 1, 1, _remove_node),
        "restore-node": Verb("PATH", 1, 1, _restore_node),
    }
)


def _shape(gpu: GpuState | None) -> object:
    return (
        None
        if gpu is None
        else (gpu.mig, gpu.mig_pending, [slot.ci.uuid for slot in gpu.devices()])
    )


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise SimulationError(f"{text!r} is no absolute path; give one such as /dev/nvidia0")
    return text


def _pid(text: str) -> int:
    if not text.isdecimal():
        raise SimulationError(f"{text!r} is no process id; give a number")
    return int(text)


def _function(name: str) -> str:
    if name not in FUNCTIONS:
        near = difflib.get_close_matches(name, FUNCTIONS)
        choices = f"; did you mean {' or '.join(near)}" if near else ""
        raise SimulationError(f"the simulated library has no function {name!r}{choices}")
    return name
