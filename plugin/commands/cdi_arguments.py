"""Arguments of the ``cdi`` command."""

from __future__ import annotations

import argparse

from plugin.config.flags import add_arguments

#: What the specification depends on, and what locates the running daemon.
_SETTINGS = (
    *("mig_strategy", "cdi_vendor", "cdi_directory", "nvidia_cdi_hook_path", "driver_root"),
    *(
        "dev_root",
        "library_folders",
        "container_driver_root",
        "proc_root",
        "sys_root",
        "simulate",
        "control_socket",
        *("config_file", "config_dir", "config_name", "config_label", "config_default"),
    ),
)


def add_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        child = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        child.set_defaults(action=name)
        return child

    generate = add("generate", "Print the CDI specification of this node, or write it to a file.")
    generate.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="NAME",
        help="UUID, index (0 or 0:3) or all; may be repeated (default: all)",
    )
    generate.add_argument(
        "--kind", default="", metavar="KIND", help="mig or gpu; needed where the node has both"
    )
    generate.add_argument(
        "--output", choices=("yaml", "json"), default="yaml", help="(default: yaml)"
    )
    generate.add_argument("--file", metavar="FILE", help="write to this file (default: print)")
    listing = add("list", "Print the full names of this node's devices, one per line.")
    validate = add(
        "validate",
        "Check CDI specifications by their schema, and whether the files that they name exist.",
    )
    validate.add_argument(
        "files", nargs="*", metavar="FILE", help="(default: what the daemon wrote)"
    )
    for child in (generate, listing, validate):
        add_arguments(child, _SETTINGS)
