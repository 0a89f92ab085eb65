"""The command line: loads the settings that a command needs, and starts it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import plugin
from plugin import logs
from plugin.arguments import FILES, parser_of
from plugin.config.load import CommandLine, Loaded, load
from plugin.errors import ConfigError, PluginError

#: Exit statuses. ``doctor`` has its own: 0 pass, 1 warn, 2 fail.
OK, FAILED, BAD_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status. Expected errors are one line on standard error."""
    given = sys.argv[1:] if argv is None else argv
    arguments = parser_of(given).parse_args(given)
    logs.configure_command()  # the daemon's own is set up by _run
    try:
        return _COMMANDS[arguments.command](arguments)
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


def _load(arguments: argparse.Namespace) -> Loaded:
    return load(vars(arguments), os.environ)


def _run(arguments: argparse.Namespace) -> int:
    line = CommandLine(vars(arguments), os.environ)
    alone = line.alone()
    logs.configure(alone.log_level, alone.log_format)
    from plugin import app  # noqa: PLC0415 — a command imports only its own modules

    return app.run(line)


def _load_running(arguments: argparse.Namespace) -> Loaded:
    from plugin.commands.running import as_running  # noqa: PLC0415

    return as_running(_load_leniently(arguments), vars(arguments))


def _load_leniently(arguments: argparse.Namespace) -> Loaded:
    """A file that the running daemon has refused must not keep its commands from it."""
    try:
        return _load(arguments)
    except ConfigError as error:
        flags = {name: value for name, value in vars(arguments).items() if name not in FILES}
        variables = {name: os.environ[name] for name in os.environ if name.lower() not in FILES}
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

    return doctor.examine(_load_running(arguments))


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
    from plugin.commands import partition_apply, partition_given  # noqa: PLC0415

    settings = _load_running(arguments).settings
    if arguments.verb == "status":
        return partition_apply.show(settings, arguments.output)
    if arguments.verb == "cancel":
        return partition_apply.cancel(settings)
    given = partition_given.Given(
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
    if arguments.verb == "label":
        from plugin.commands import node_label  # noqa: PLC0415

        return node_label.change(_load_leniently(arguments).settings, arguments.label)
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


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "cdi": _cdi,
    "demo": _demo,
    "devices": _devices,
    "doctor": _doctor,
    "drain": _drain,
    "labels": _labels,
    "partition": _partition,
    "release": _release,
    "resume": _resume,
    "run": _run,
    "sim": _sim,
    "version": _version,
    **dict.fromkeys(("cordon", "uncordon", "health"), _change),
}


if __name__ == "__main__":
    sys.exit(main())
