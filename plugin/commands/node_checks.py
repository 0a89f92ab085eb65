"""Checks of what the driver answered, for ``doctor``."""

from __future__ import annotations

from collections.abc import Iterator

from plugin.assembly import device_files
from plugin.commands.check import Check, Outcome, shortened
from plugin.core.advertise.advertisement import advertise
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings


def node_checks(inventory: Inventory, settings: Settings) -> Iterator[Check]:
    """Its hardware, the resources made of it, and its device nodes."""
    yield Check(
        "driver", Outcome.PASS, f"version {inventory.driver_version}, NVML {inventory.nvml_version}"
    )
    yield from _hardware(inventory)
    yield from _resources(inventory, settings)
    yield from _nodes(inventory, settings)


def _hardware(inventory: Inventory) -> Iterator[Check]:
    for warning in inventory.warnings():
        yield Check(
            "hardware",
            Outcome.FAIL,
            warning,
            "see dmesg for NVRM messages; a lost GPU needs a reset or reboot",
        )
    if not inventory.gpus:
        yield Check(
            "GPUs",
            Outcome.FAIL,
            "none found",
            "check lspci, and that this container sees the driver",
        )
        return
    products: dict[str, int] = {}
    for gpu in inventory.gpus:
        products[gpu.product] = products.get(gpu.product, 0) + 1
        if gpu.error:
            yield Check("GPU", Outcome.FAIL, gpu.error, "see dmesg for NVRM messages")
    yield Check(
        "GPUs", Outcome.PASS, ", ".join(f"{count} × {name}" for name, count in products.items())
    )
    on = [gpu.path for gpu in inventory.gpus if gpu.mig_enabled]
    devices = sum(len(gpu.mig_devices) for gpu in inventory.gpus)
    pending = [gpu.path for gpu in inventory.gpus if gpu.mig_pending]
    if not any(gpu.mig for gpu in inventory.gpus):
        yield Check("MIG", Outcome.PASS, "these GPUs have no MIG")
    elif pending:
        yield Check(
            "MIG",
            Outcome.WARN,
            f"mode change pending on GPU {', '.join(pending)}",
            "reset these GPUs",
        )
    else:
        yield Check(
            "MIG",
            Outcome.PASS,
            f"on for {len(on)} of {len(inventory.gpus)} GPUs, {devices} MIG devices",
        )


def _resources(inventory: Inventory, settings: Settings) -> Iterator[Check]:
    advertisement = advertise(inventory, settings)
    for problem in advertisement.problems:
        yield Check(
            "strategy",
            Outcome.WARN,
            problem,
            "change the geometry, or choose another --mig-strategy",
        )
    if advertisement.resources:
        found = ", ".join(f"{len(ids)} × {name}" for name, ids in advertisement.resources.items())
        yield Check("resources", Outcome.PASS, found)
    else:
        yield Check("resources", Outcome.FAIL, "nothing would be advertised", "see the lines above")


def _nodes(inventory: Inventory, settings: Settings) -> Iterator[Check]:
    of_gpus = list(
        dict.fromkeys(path for gpu in inventory.gpus for path in gpu.missing_device_nodes)
    )
    capabilities = [
        path
        for path in dict.fromkeys(
            path for device in inventory.devices() for path in device.missing_device_nodes
        )
        if path not in of_gpus
    ]
    where = "simulated" if settings.simulate else f"below {device_files(settings).root}"
    verdict = Outcome.FAIL if settings.pass_device_specs else Outcome.WARN
    for name, missing in (("device nodes", of_gpus), ("capability nodes", capabilities)):
        if missing:
            yield Check(
                name,
                verdict,
                f"missing {where}: {shortened(missing)}",
                "run `nvidia-smi` on the host, which creates them; mount its /dev here, see "
                "--dev-root",
            )
    if not of_gpus and not capabilities:
        yield Check("device nodes", Outcome.PASS, f"all there ({where})")
    expected = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"} - set(
        inventory.control_nodes
    )
    if expected:
        yield Check(
            "control nodes",
            Outcome.WARN,
            f"missing {where}: {', '.join(sorted(expected))}",
            "run `nvidia-modprobe -u -c 0` on the host",
        )
