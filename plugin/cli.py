"""The command line: parses arguments, reads the configuration and starts one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import plugin
from plugin import logs
from plugin.config.flags import add_arguments
from plugin.config.load import Loaded, load
from plugin.core.grammars import seconds
from plugin.core.quote import quote
from plugin.errors import ConfigError, PluginError

#: Exit statuses. ``doctor`` has its own: 0 pass, 1 warn, 2 fail.
OK, FAILED, BAD_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status. Every expected error is one line on standard
    error.
    """
    given = sys.argv[1:] if argv is None else argv
    arguments = _parser(given).parse_args(given)
    try:
        return int(arguments.command(arguments))
    except ConfigError as error:
        print(f"mig-device-plugin: {error}", file=sys.stderr)
        return BAD_USAGE
    except PluginError as error:
        print(f"mig-device-plugin: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mig-device-plugin",
        description="Kubernetes device plugin for NVIDIA MIG.",
        epilog="Every option can also be given by the environment variable or the configuration "
        "file key in brackets; "
        "a flag wins over a variable, a variable over the file.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, command: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        child = commands.add_parser(
            name, help=text, description=text, epilog=parser.epilog, allow_abbrev=False
        )
        child.set_defaults(command=command)
        return child

    add_arguments(add("run", _run, "Run the daemon: advertise, register, allocate."))
    devices = add(
        "devices",
        _devices,
        "Show GPUs and MIG devices, what they are advertised as, and their health.",
    )
    devices.add_argument(
        "--output", choices=("table", "json"), default="table", help="(default: table)"
    )
    devices.add_argument(
        "--scan", action="store_true", help="look at the driver, even when a daemon is running"
    )
    add_arguments(devices)
    add_arguments(
        add(
            "doctor", _doctor, "Check this node; exit status 0: all pass, 1: warnings, 2: failures."
        )
    )
    add(
        "demo",
        _demo,
        "Replay the MIG walkthrough on a simulated p4d.24xlarge, with a stand-in kubelet.",
    )
    add("version", _version, "Print the version.")
    for name, text in _MARKS.items():
        _add_target(add(name, _mark, text)).set_defaults(verb=name)
    drain = _add_target(
        add("drain", _drain, "Cordon a device and wait until no pod holds it; exit status 0: free.")
    )
    drain.add_argument(
        "--timeout",
        type=_timeout,
        default=0.0,
        metavar="SECONDS",
        help="give up then (default: never)",
    )
    add_arguments(drain, ("pod_resources_socket",))
    health = add("health", _mark, "Change what the running daemon knows of a device's health.")
    changes = health.add_subparsers(title="changes", metavar="CHANGE", required=True)
    text = (
        "Take back every fault held against a device, as somebody who knows that it is well; "
        "a cordon stays."
    )
    clear = _add_target(
        changes.add_parser("clear", help=text, description=text, allow_abbrev=False)
    )
    clear.set_defaults(verb="clear")
    sim = add(
        "sim", _sim, "Have something happen on the node of a running daemon that simulates it."
    )
    verbs = sim.add_subparsers(title="what happens", metavar="VERB", required=True)
    # The daemon starts 3 ms sooner without.
    for name, (operands, text) in _SIM_VERBS.items() if "sim" in given else ():
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        verb.set_defaults(verb=name, operands=operands)
        for operand in operands:
            verb.add_argument(
                operand.strip("[]").lower(),
                nargs="?" if operand[0] == "[" else None,
                metavar=operand,
            )
        if name == "ecc":
            verb.add_argument(
                "--double-bit", action="store_true", help="one that cannot be corrected"
            )
        add_arguments(verb, _OF_DAEMON)
    return parser


_TIMEOUT = seconds(0, most=1e6)

#: The settings that say where the running daemon listens.
_OF_DAEMON = ("control_socket", "config_file")

_MARKS = {
    "cordon": "Take a device out of service: kubelet places no more pods on it, those there go on.",
    "uncordon": "Put a cordoned device back into service.",
}

#: Verb → its operands (in brackets: may be left out) and what it does. ``plugin.sim.verbs`` carries
#: them out.
_SIM_VERBS: dict[str, tuple[tuple[str, ...], str]] = {
    "xid": (("TARGET", "XID"), "An XID of a GPU, GPU:MIG, GPU/GI, GPU/GI/CI or UUID."),
    "recovery": (
        ("GPU", "ACTION"),
        "The driver recommends none, reset, reboot, drain-and-reset, …",
    ),
    "ecc": (("GPU",), "An ECC error."),
    "lose": (("GPU",), "The GPU falls off the bus."),
    "restore": (("GPU",), "A lost GPU is back."),
    "reset": (("GPU",), "The GPU is reset; its MIG instances are gone then."),
    "repartition": (
        ("GEOMETRY",),
        "all-1g.5gb for the node, or 0=3g.20gb*2;1=off for the GPUs named.",
    ),
    "hold": (
        ("TARGET", "[PID]"),
        "A process holds a device, which blocks resets and re-partitions.",
    ),
    "release": (("TARGET",), "Every process lets go of a device."),
    "unplug": (("GPU",), "The GPU is pulled out of its slot."),
    "plug": (
        ("SLOT",),
        "The GPU of a slot is there again, or a new card such as a100-40gb is added.",
    ),
    "fail": (
        ("FUNCTION", "CODE", "[once|always]", "[TARGET]"),
        "An NVML function answers with an error code.",
    ),
    "unfail": (("[FUNCTION]",), "It answers again, or all do."),
    "hang": (
        ("[FUNCTION]", "[TARGET]"),
        "Every driver call blocks, or those of one NVML function.",
    ),
    "unhang": ((), "The driver answers again."),
    "unload": ((), "The driver is unloaded."),
    "load": ((), "The driver is loaded again."),
    "remove-node": (("PATH",), "A device node or capability file is missing."),
    "restore-node": (("PATH",), "A missing file is there again."),
}


def _add_target(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "target", metavar="TARGET", help="UUID of a GPU or MIG device, or INDEX[:MIG]"
    )
    add_arguments(parser, _OF_DAEMON)
    return parser


def _timeout(text: str) -> float:
    try:
        return _TIMEOUT.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is not valid; choose {_TIMEOUT.choices}"
        ) from None


def _load(arguments: argparse.Namespace) -> Loaded:
    return load(vars(arguments), os.environ)


def _run(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments)
    logs.configure(loaded.settings.log_level, loaded.settings.log_format)
    from plugin import app  # noqa: PLC0415 — each command imports what it needs, no more

    return app.run(loaded, lambda: _load(arguments))


def _load_running(arguments: argparse.Namespace) -> Loaded:
    from plugin.commands.running import as_running  # noqa: PLC0415

    return as_running(_load(arguments), vars(arguments))


def _devices(arguments: argparse.Namespace) -> int:
    from plugin.commands import devices  # noqa: PLC0415

    scan = arguments.scan or arguments.simulate is not None
    return devices.show(_load_running(arguments).settings, arguments.output, scan=scan)


def _doctor(arguments: argparse.Namespace) -> int:
    from plugin.commands import doctor  # noqa: PLC0415

    return doctor.examine(_load_running(arguments))


def _demo(arguments: argparse.Namespace) -> int:
    del arguments
    from plugin.commands import demo  # noqa: PLC0415

    return demo.play()


def _mark(arguments: argparse.Namespace) -> int:
    from plugin.commands import control  # noqa: PLC0415

    return control.mark(_load(arguments).settings.control_socket, arguments.verb, arguments.target)


def _drain(arguments: argparse.Namespace) -> int:
    from plugin.commands import control  # noqa: PLC0415

    return control.drain(_load_running(arguments).settings, arguments.target, arguments.timeout)


def _sim(arguments: argparse.Namespace) -> int:
    from plugin.commands import control  # noqa: PLC0415

    given = (getattr(arguments, operand.strip("[]").lower()) for operand in arguments.operands)
    operands = [operand for operand in given if operand is not None]
    flags = ["--double-bit"] if getattr(arguments, "double_bit", False) else []
    return control.simulate(
        _load(arguments).settings.control_socket, arguments.verb, [*operands, *flags]
    )


def _version(arguments: argparse.Namespace) -> int:
    del arguments
    print(f"mig-device-plugin {plugin.__version__}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
