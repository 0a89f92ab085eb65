"""The command line: parses arguments, reads the configuration and starts one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import plugin
from plugin import logs
from plugin.config import Loaded, add_arguments, load
from plugin.errors import ConfigError, PluginError

#: Exit statuses. ``doctor`` has its own: 0 pass, 1 warn, 2 fail.
OK, FAILED, BAD_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status. Every expected error is one line on standard error."""
    arguments = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mig-device-plugin",
        description="Kubernetes device plugin for NVIDIA MIG.",
        epilog="Every option can also be given by the environment variable or the configuration file key in brackets; "
        "a flag wins over a variable, a variable over the file.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        child = commands.add_parser(name, help=text, description=text, epilog=parser.epilog, allow_abbrev=False)
        child.set_defaults(command=command)
        return child

    add_arguments(add("run", _run, "Run the daemon: advertise, register, allocate."))
    devices = add("devices", _devices, "Show GPUs and MIG devices, what they are advertised as, and their health.")
    devices.add_argument("--output", choices=("table", "json"), default="table", help="(default: table)")
    add_arguments(devices)
    add_arguments(add("doctor", _doctor, "Check this node; exit status 0: all pass, 1: warnings, 2: failures."))
    add("demo", _demo, "Replay the MIG walkthrough on a simulated p4d.24xlarge, with a stand-in kubelet.")
    add("version", _version, "Print the version.")
    return parser


def _load(arguments: argparse.Namespace) -> Loaded:
    return load(vars(arguments), os.environ)


def _run(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments)
    logs.configure(loaded.settings.log_level, loaded.settings.log_format)
    from plugin import app  # noqa: PLC0415 — each command imports what it needs, no more

    return app.run(loaded, lambda: _load(arguments))


def _devices(arguments: argparse.Namespace) -> int:
    from plugin.commands import devices  # noqa: PLC0415

    return devices.show(_load(arguments).settings, arguments.output)


def _doctor(arguments: argparse.Namespace) -> int:
    from plugin.commands import doctor  # noqa: PLC0415

    return doctor.examine(_load(arguments))


def _demo(arguments: argparse.Namespace) -> int:
    del arguments
    from plugin.commands import demo  # noqa: PLC0415

    return demo.play()


def _version(arguments: argparse.Namespace) -> int:
    del arguments
    print(f"mig-device-plugin {plugin.__version__}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
