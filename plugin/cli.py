"""The command line: parses arguments, reads the configuration and starts one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import plugin
from plugin import logs
from plugin.config.flags import add_arguments
from plugin.config.load import Loaded, load
from plugin.core.grammars import Grammar, seconds
from plugin.core.quote import quote
from plugin.core.release import DEFAULT_SECONDS, LIMIT, MOST_SECONDS
from plugin.errors import ConfigError, PluginError

#: Exit statuses. ``doctor`` has its own: 0 pass, 1 warn, 2 fail.
OK, FAILED, BAD_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status. Expected errors are one line on standard error."""
    given = sys.argv[1:] if argv is None else argv
    arguments = _parser(given).parse_args(given)
    logs.configure_command()  # the daemon's own is set up by _run
    try:
        return int(arguments.command(arguments))
    except ConfigError as error:
        print(f"mig-device-plugin: {error}", file=sys.stderr)
        return BAD_USAGE
    except PluginError as error:
        print(f"mig-device-plugin: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader closed the pipe. Without this, Python would report it again at exit.
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
        "Show GPUs and MIG devices with their resources and health.",
    )
    devices.add_argument(
        "--output", choices=("table", "json"), default="table", help="(default: table)"
    )
    devices.add_argument(
        "--scan", action="store_true", help="scan the driver, even if a daemon is running"
    )
    add_arguments(devices)
    labels = add("labels", _labels, "Print this node's labels, as GPU Feature Discovery has them.")
    labels.add_argument(
        "--output",
        choices=("text", "json", "features"),
        default="text",
        help="text: KEY=VALUE lines; features: the file for Node Feature Discovery (default: text)",
    )
    add_arguments(labels)
    add_arguments(
        add(
            "doctor", _doctor, "Check this node; exit status 0: all pass, 1: warnings, 2: failures."
        )
    )
    demo = add(
        "demo",
        _demo,
        "Replay the MIG walkthrough on a simulated p4d.24xlarge, with a stand-in kubelet; or, with "
        "--stay, run a simulated node with its page until Ctrl-C.",
    )
    demo.add_argument(
        "--stay",
        action="store_true",
        help="pods come and go, and commands to try are printed; needs no root",
    )
    demo.add_argument(
        "--simulate",
        default="",
        metavar="NODE[:GEOMETRY]",
        help="the node of --stay (default: p4d.24xlarge:all-balanced)",
    )
    demo.add_argument(
        "--port",
        type=_port,
        metavar="PORT",
        help="the page's port with --stay (default: 9400, or any that is free)",
    )
    cdi = add("cdi", _cdi, "Print, name or check CDI specifications.")
    if "cdi" in given:
        from plugin.commands.cdi_arguments import add_actions  # noqa: PLC0415

        add_actions(cdi)
    add("version", _version, "Print the version.")
    for name, text in _DEVICE_VERBS.items():
        _add_target(add(name, _change, text)).set_defaults(verb=name)
    drain = _add_target(
        add("drain", _drain, "Cordon a device and wait until no pod holds it; exit status 0: free.")
    )
    drain.add_argument(
        "--timeout",
        type=_timeout,
        default=0.0,
        metavar="SECONDS",
        help="give up after this time (default: never)",
    )
    add_arguments(drain, ("pod_resources_socket",))
    partition = add("partition", _partition, "Plan, apply and compare MIG configurations.")
    _add_partition(partition, _PARTITION_VERBS if "partition" in given else {})
    release = add(
        "release",
        _release,
        "Let go of the driver for a while, so that a GPU can be reset or the kernel module "
        "reloaded; exit status 0: nothing of it is held.",
    )
    release.add_argument(
        "gpus",
        nargs="*",
        metavar="GPU",
        help="index or UUID of a GPU that is to be reset: its devices are out of service "
        "meanwhile (default: all)",
    )
    release.add_argument(
        "--for",
        dest="seconds",
        type=_release_time,
        default=DEFAULT_SECONDS,
        metavar="SECONDS",
        help=f"use the driver again after this time at the latest (default: {DEFAULT_SECONDS:g}, "
        f"at most {MOST_SECONDS:g})",
    )
    add_arguments(release, _OF_DAEMON)
    add_arguments(add("resume", _resume, "Use the driver again after release."), _OF_DAEMON)
    health = add("health", _change, "Change the health that the running daemon keeps for a device.")
    changes = health.add_subparsers(title="changes", metavar="CHANGE", required=True)
    text = "Clear every fault of a device that you know to be well; a cordon stays."
    clear = _add_target(
        changes.add_parser("clear", help=text, description=text, allow_abbrev=False)
    )
    clear.set_defaults(verb="clear")
    sim = add("sim", _sim, "Change the simulated node of a running daemon.")
    verbs = sim.add_subparsers(title="verbs", metavar="VERB", required=True)
    # Saves 3 ms at the daemon's start, as above.
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
            verb.add_argument("--double-bit", action="store_true", help="an uncorrectable error")
        add_arguments(verb, _OF_DAEMON)
    return parser


def _add_partition(parser: argparse.ArgumentParser, texts: Mapping[str, str]) -> None:
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, text in texts.items():
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        verb.set_defaults(verb=name, name="", file="")
        if name in {"plan", "assert", "apply"}:
            verb.add_argument(
                "-c", dest="name", metavar="NAME", help="the configuration, such as all-balanced"
            )
            verb.add_argument(
                "-f", dest="file", metavar="FILE", help="a file of configurations (mig-parted's)"
            )
        if name == "apply":
            verb.add_argument(
                "--timeout",
                type=_timeout,
                default=0.0,
                metavar="SECONDS",
                help="wait no longer than this (default: until it is applied or is not)",
            )
        if name != "cancel":
            verb.add_argument(
                "--output", choices=("text", "json"), default="text", help="(default: text)"
            )
        add_arguments(verb)


_PARTITION_VERBS = {
    "plan": "Draw each GPU before and after a configuration, and what blocks it; changes nothing.",
    "assert": "Compare the node with a configuration; exit status 0: applied, 1: not.",
    "export": "Print the present state as a configuration named current.",
    "apply": "Have the running daemon apply a configuration, or do so where none runs; exit "
    "status 0: applied, 1: not.",
    "status": "Show what the running daemon applies, and what it waits for.",
    "cancel": "Have no configuration wanted any more; what is there stays.",
}

_TIMEOUT = seconds(0, most=1e6)
_HIGHEST_PORT = 65535

#: The settings that locate the running daemon.
_FILES = ("config_file", "config_dir", "config_name", "config_label", "config_default")
_OF_DAEMON = ("control_socket", *_FILES)

_DEVICE_VERBS = {
    "cordon": "Take a device out of service: it gets no new pods, running pods continue.",
    "uncordon": "Put a cordoned device back into service.",
}

#: Verb → operands (optional ones in brackets) and help. ``plugin.sim.verbs`` implements them.
_SIM_VERBS: dict[str, tuple[tuple[str, ...], str]] = {
    "xid": (("TARGET", "XID"), "Send an XID for a GPU, GPU:MIG, GPU/GI, GPU/GI/CI or UUID."),
    "recovery": (
        ("GPU", "ACTION"),
        "Set the driver's recommendation: none, reset, reboot, drain-and-reset, …",
    ),
    "ecc": (("GPU",), "Count an ECC error."),
    "lose": (("GPU",), "Drop a GPU off the bus."),
    "restore": (("GPU",), "Bring a lost GPU back."),
    "reset": (("GPU",), "Reset a GPU, which removes its MIG instances."),
    "repartition": (
        ("GEOMETRY",),
        "Re-partition the node (all-1g.5gb) or single GPUs (0=3g.20gb*2;1=off).",
    ),
    "hold": (
        ("TARGET", "[PID]", "[WORK]"),
        "Let a process hold a device: for compute, graphics or mps, or only to watch it.",
    ),
    "release": (("TARGET", "[PID]"), "Let one process, or every one, release a device."),
    "unplug": (("GPU",), "Unplug a GPU."),
    "plug": (
        ("SLOT",),
        "Plug an unplugged GPU back in, or add a new card such as a100-40gb.",
    ),
    "fail": (
        ("FUNCTION", "CODE", "[once|always]", "[TARGET]"),
        "Make an NVML function return an error code.",
    ),
    "unfail": (("[FUNCTION]",), "Let a function, or all of them, answer again."),
    "hang": (
        ("[FUNCTION]", "[TARGET]"),
        "Block every driver call, or those of one NVML function.",
    ),
    "unhang": ((), "Let the driver answer again."),
    "calls": ((), "Count the calls of each NVML function so far, and initialisations that last."),
    "unload": ((), "Unload the driver."),
    "load": ((), "Load the driver again."),
    "remove-node": (("PATH",), "Remove a device node or capability file."),
    "restore-node": (("PATH",), "Restore a removed file."),
}


def _add_target(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "target", metavar="TARGET", help="UUID of a GPU or MIG device, or INDEX[:MIG]"
    )
    add_arguments(parser, _OF_DAEMON)
    return parser


def _timeout(text: str) -> float:
    return _duration(text, _TIMEOUT)


def _release_time(text: str) -> float:
    return _duration(text, LIMIT)


def _duration(text: str, grammar: Grammar[float]) -> float:
    try:
        return grammar.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is not valid; choose {grammar.choices}"
        ) from None


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) <= _HIGHEST_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{quote(text)} is not valid; choose a number from 1 to {_HIGHEST_PORT}"
    )


def _load(arguments: argparse.Namespace) -> Loaded:
    return load(vars(arguments), os.environ)


def _run(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments)
    logs.configure(loaded.settings.log_level, loaded.settings.log_format)
    from plugin import app  # noqa: PLC0415 — a command imports only its own modules

    return app.run(loaded, lambda label: load(vars(arguments), os.environ, label))


def _load_running(arguments: argparse.Namespace) -> Loaded:
    from plugin.commands.running import as_running  # noqa: PLC0415

    return as_running(_load_leniently(arguments), vars(arguments))


def _load_leniently(arguments: argparse.Namespace) -> Loaded:
    """A file that the running daemon has refused must not keep its commands from it."""
    try:
        return _load(arguments)
    except ConfigError as error:
        flags = {name: value for name, value in vars(arguments).items() if name not in _FILES}
        variables = {name: os.environ[name] for name in os.environ if name.lower() not in _FILES}
        loaded = load(flags, variables)
        if not os.path.exists(loaded.settings.control_socket):  # noqa: PTH110 — false where we may not look
            raise
        print(f"mig-device-plugin: {error}; going on without it", file=sys.stderr)
        return loaded


def _devices(arguments: argparse.Namespace) -> int:
    from plugin.commands import devices  # noqa: PLC0415

    scan = arguments.scan or arguments.simulate is not None
    return devices.show(_load_running(arguments).settings, arguments.output, scan=scan)


def _labels(arguments: argparse.Namespace) -> int:
    from plugin.commands import labels  # noqa: PLC0415

    return labels.show(_load_running(arguments).settings, arguments.output)


def _doctor(arguments: argparse.Namespace) -> int:
    from plugin.commands import doctor  # noqa: PLC0415
    from plugin.commands.running import as_running  # noqa: PLC0415

    return doctor.examine(as_running(_load(arguments), vars(arguments)))


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.stay:
        from plugin.commands import playground  # noqa: PLC0415

        return playground.play(arguments.simulate, arguments.port)
    if arguments.simulate or arguments.port:
        raise ConfigError("demo: --simulate and --port have a meaning with --stay only")
    from plugin.commands import demo  # noqa: PLC0415

    return demo.play()


def _change(arguments: argparse.Namespace) -> int:
    from plugin.commands import control  # noqa: PLC0415

    return control.change(
        _load_leniently(arguments).settings.control_socket, arguments.verb, arguments.target
    )


def _drain(arguments: argparse.Namespace) -> int:
    from plugin.commands import control  # noqa: PLC0415

    return control.drain(_load_running(arguments).settings, arguments.target, arguments.timeout)


def _partition(arguments: argparse.Namespace) -> int:
    if arguments.verb in {"apply", "status", "cancel"}:
        return _repartition(arguments)
    from plugin.commands import partition  # noqa: PLC0415

    output, name, file = arguments.output, arguments.name or "", arguments.file or ""
    at = partition.source(
        _load_running(arguments).settings, simulate=arguments.simulate is not None
    )
    if arguments.verb == "export":
        return partition.show_current(at, output)
    if arguments.verb == "assert":
        return partition.check(at, name, file, output)
    return partition.plan(at, name, file, at.settings.partition_in_use, output)


def _repartition(arguments: argparse.Namespace) -> int:
    from plugin.commands import partition_apply  # noqa: PLC0415

    settings = _load_running(arguments).settings
    if arguments.verb == "status":
        return partition_apply.show(settings, arguments.output)
    if arguments.verb == "cancel":
        return partition_apply.cancel(settings)
    given = partition_apply.Given(
        arguments.name or "",
        arguments.file or "",
        settings.partition_in_use if arguments.partition_in_use is not None else None,
        arguments.timeout,
        arguments.output,
    )
    return partition_apply.apply(settings, given)


def _release(arguments: argparse.Namespace) -> int:
    from plugin.commands import control  # noqa: PLC0415

    socket = _load_leniently(arguments).settings.control_socket
    return control.release(socket, arguments.gpus, arguments.seconds)


def _resume(arguments: argparse.Namespace) -> int:
    from plugin.commands import control  # noqa: PLC0415

    return control.resume(_load_leniently(arguments).settings.control_socket)


def _sim(arguments: argparse.Namespace) -> int:
    from plugin.commands import control  # noqa: PLC0415

    given = (getattr(arguments, operand.strip("[]").lower()) for operand in arguments.operands)
    operands = [operand for operand in given if operand is not None]
    flags = ["--double-bit"] if getattr(arguments, "double_bit", False) else []
    return control.simulate(
        _load_leniently(arguments).settings.control_socket, arguments.verb, [*operands, *flags]
    )


def _cdi(arguments: argparse.Namespace) -> int:
    from plugin.commands import cdi  # noqa: PLC0415

    settings = _load_running(arguments).settings
    if arguments.action == "list":
        return cdi.list_names(settings)
    if arguments.action == "validate":
        return cdi.validate(settings, arguments.files)
    chosen = cdi.Chosen(tuple(arguments.device), arguments.kind)
    return cdi.generate(settings, chosen, arguments.output, arguments.file)


def _version(arguments: argparse.Namespace) -> int:
    del arguments
    print(f"mig-device-plugin {plugin.__version__}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
