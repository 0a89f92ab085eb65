"""``cdi generate``, ``list`` and ``validate``, as somebody runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plugin.cdi.validation import Found, faults
from plugin.cli import main

from .test_cdi_specification import VALIDATOR, made

NODE = "--simulate=p4d.24xlarge:0=1g.5gb*2;1=3g.20gb"


BOTH_KINDS = (
    "a CDI specification has devices of one kind, and this node has those of nvidia.com/mig and "
    "nvidia.com/gpu; choose one: --kind=nvidia.com/mig or --kind=nvidia.com/gpu"
)


@pytest.fixture
def cdi(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command beside no daemon; exit status and everything it prints."""

    def run(action: str, *arguments: str, node: str = NODE) -> tuple[int, str]:
        status = main(["cdi", action, node, "--control-socket=", *arguments])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def devices(document: dict[str, Any]) -> list[str]:
    return [device["name"] for device in document["devices"]]


@pytest.mark.parametrize("kind", ["mig", "nvidia.com/gpu"])
@pytest.mark.parametrize("output", ["yaml", "json"])
def test_the_document_of_a_kind_is_printed(
    cdi: Callable[..., tuple[int, str]], output: str, kind: str
) -> None:
    status, text = cdi("generate", f"--output={output}", f"--kind={kind}")
    assert status == 0
    document = yaml.safe_load(text) if output == "yaml" else json.loads(text)
    VALIDATOR.validate(document)
    wanted = {"mig": ["0:0", "0:1", "1:0"], "nvidia.com/gpu": [*map(str, range(2, 8))]}
    assert devices(document)[1::2] == wanted[kind]


def test_the_only_kind_of_a_node_need_not_be_chosen(cdi: Callable[..., tuple[int, str]]) -> None:
    status, text = cdi("generate", node="--simulate=2xa100-40gb")
    assert (status, yaml.safe_load(text)["kind"]) == (0, "nvidia.com/gpu")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--device=0:1",), ["0:1"]),
        (("--device=0:1", "--device=1:0"), ["0:1", "1:0"]),
        (("--device=7",), ["7"]),
        (("--kind=mig",), ["0:0", "0:1", "1:0"]),
        (("--kind=nvidia.com/mig", "--device=all"), ["0:0", "0:1", "1:0"]),
        (("--cdi-vendor=k8s.device-plugin.nvidia.com", "--device=0:0", "--device=7"), ["0:0", "7"]),
    ],
)
def test_some_devices_are_chosen_and_a_file_is_written(
    cdi: Callable[..., tuple[int, str]],
    tmp_path: Path,
    arguments: tuple[str, ...],
    names: list[str],
) -> None:
    path = tmp_path / "cdi.yaml"
    assert cdi("generate", f"--file={path}", *arguments) == (0, "")
    assert devices(yaml.safe_load(path.read_text()))[1::2] == names
    assert cdi("validate", str(path)) == (0, f"{path}: valid\n")
    assert oct(path.stat().st_mode)[-3:] == "644"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device=9",), "--device 9: no such device on this node; `cdi list` prints the names"),
        (("--kind=x",), "no device of this node is of kind x"),
        (("--file=/x/y",), BOTH_KINDS),
        ((), BOTH_KINDS),
        (("--kind=mig", "--file=/x/y"), "writing /x/y: No such file or directory"),
    ],
)
def test_what_cannot_be_generated(
    cdi: Callable[..., tuple[int, str]], arguments: tuple[str, ...], said: str
) -> None:
    status, text = cdi("generate", *arguments)
    assert status == 1
    assert said in text


def test_names_are_listed(cdi: Callable[..., tuple[int, str]]) -> None:
    status, text = cdi("list", "--mig-strategy=none")
    lines = text.splitlines()
    assert status == 0
    assert {"nvidia.com/mig=0:1", "nvidia.com/mig=all", "nvidia.com/gpu=0"} <= set(lines)
    assert len(lines) == 2 * 3 + 1 + 2 * 8 + 1


def test_roots_of_the_host_are_in_the_paths(
    cdi: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path = tmp_path / "cdi.json"
    roots = ("--driver-root=/run/nvidia/driver", "--dev-root=/host")
    cdi("generate", "--kind=mig", "--output=json", f"--file={path}", *roots)
    document = json.loads(path.read_text())
    assert document["containerEdits"]["deviceNodes"][0]["hostPath"] == "/host/dev/nvidiactl"
    hosts = {mount["hostPath"] for mount in document["containerEdits"]["mounts"]}
    assert all(host.startswith("/run/nvidia/driver/usr/") for host in hosts)
    assert cdi("validate", str(path), *roots) == (0, f"{path}: valid\n")
    status, text = cdi("validate", str(path))
    assert status == 1
    assert "/host/dev/nvidiactl does not exist" in text


def test_a_chosen_hook_that_is_not_used_is_told_of(
    cdi: Callable[..., tuple[int, str]],
) -> None:
    hook = "--nvidia-cdi-hook-path=/usr/bin/nvidia-cdi-hook"
    status, text = cdi("generate", "--kind=mig", "--output=json", hook, "--driver-root=/run/d")
    assert status == 0
    assert "NVIDIA's hooks are not used: whether the host has /usr/bin/nvidia-cdi-hook" in text
    assert '"hooks"' not in text


def test_files_to_check_that_are_not_there(
    cdi: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    assert cdi("validate")[0] == 1
    status, text = cdi("validate", f"--cdi-directory={tmp_path}")
    assert (status, f"{tmp_path} has no CDI specification of this plugin" in text) == (1, True)
    (tmp_path / "a").write_text("{")
    status, text = cdi("validate", str(tmp_path / "a"), str(tmp_path / "b"))
    assert status == 1
    assert "is neither YAML nor JSON" in text
    (tmp_path / "c").write_text("---\na: 1\n---\nb: 2\n")
    assert cdi("validate", str(tmp_path / "c")) == (
        *(1, f"{tmp_path / 'c'}: the file: holds several documents; a file has one\n"),
    )
    assert "cannot be read: No such file or directory" in text


def test_what_the_daemon_wrote_is_checked(
    cdi: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    written = tmp_path / "mig-device-plugin-nvidia.com-mig.yaml"
    cdi("generate", "--kind=mig", f"--file={written}")
    assert cdi("validate", f"--cdi-directory={tmp_path}") == (0, f"{written}: valid\n")


# ---- what is wrong with a document


def everything(path: str) -> Found:
    return Found.DEVICE if path.startswith("/dev/") else Found.OTHER


GOOD = made()["nvidia.com/mig"]


def changed(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (None, "must be object"),
        ({}, "must contain ["),
        (changed(extra=1), "must not contain {'extra'} properties"),
        (changed(cdiVersion="2.0.0"), "cdiVersion must be one of"),
        (changed(kind="nvidia.com"), "kind must match pattern"),
        (changed(kind="1.com/mig"), "kind must match pattern"),
        (changed(devices=[]), "devices must contain at least 1 items"),
        (
            changed(devices=[{"name": "a", "containerEdits": {}}]),
            "containerEdits must contain at least 1 properties",
        ),
        (changed(devices=[{"name": "a b", "containerEdits": {"env": ["A=b"]}}]), "match pattern"),
        (changed(containerEdits={"env": ["A"]}), "env[0] must match pattern"),
        (changed(containerEdits={"deviceNodes": [{"path": "dev"}]}), "path must match pattern"),
        (
            changed(containerEdits={"deviceNodes": [{"path": "/a", "permissions": "x"}]}),
            "permissions must match pattern",
        ),
        (changed(containerEdits={"mounts": [{"hostPath": "/a"}]}), "must contain"),
        (
            changed(containerEdits={"hooks": [{"hookName": "boot", "path": "/a"}]}),
            "hookName must be one of",
        ),
        (changed(cdiVersion="0.3.0"), "cdiVersion 0.3.0 is too low: the fields need 0.5.0"),
        (changed(devices=[GOOD["devices"][0]] * 2, cdiVersion="0.3.0"), "is there 2 times"),
    ],
)
def test_one_sentence_for_each_fault(document: Any, said: str) -> None:
    (found,) = faults(document, everything)
    assert said in found
    assert not VALIDATOR.is_valid(document) or "times" in found or "too low" in found


def test_files_of_the_host_that_do_not_exist() -> None:
    with_numbers = {"path": "/dev/made", "type": "c", "major": 1, "minor": 3}
    hook = {"hookName": "createContainer", "path": "/hook"}
    document = changed(containerEdits={"deviceNodes": [with_numbers], "hooks": [hook]})

    def lookup(path: str) -> Found:
        return Found.DEVICE if path == "/dev/nvidia0" else Found.NOTHING

    nodes = {n["path"] for d in GOOD["devices"] for n in d["containerEdits"]["deviceNodes"]}
    missing = {"/hook", *nodes} - {"/dev/nvidia0"}
    assert set(faults(document, lookup)) == {f"{path} does not exist" for path in missing}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"path": "/dev/nvidia0", "hostPath": "/etc/passwd"}, "/etc/passwd is no device node"),
        ({"path": "/run/pipe", "type": "p"}, ""),
        ({"path": "/dev/nvidia-caps/nvidia-cap1"}, "is the capability config, which reaches"),
        (
            {"path": "/dev/nvidia-caps/nvidia-cap2", "type": "c", "major": 510, "minor": 2},
            "is the capability monitor, which reaches",
        ),
        (
            {"path": "/dev/x", "hostPath": "/run/d/dev/nvidia-caps/nvidia-cap1", "type": "c"},
            "/run/d/dev/nvidia-caps/nvidia-cap1 is the capability config",
        ),
    ],
)
def test_a_device_node_has_to_be_one_that_a_container_may_have(
    node: dict[str, Any], said: str
) -> None:
    document = changed(containerEdits={"deviceNodes": [node]})

    def lookup(path: str) -> Found:
        return Found.DEVICE if "/dev/" in path else Found.OTHER

    found = list(faults(document, lookup))
    assert len(found) == bool(said)
    assert all(said in each for each in found)


def test_a_file_in_place_of_a_device_node_is_found_on_the_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, fake = tmp_path / "cdi.json", tmp_path / "dev/nvidia0"
    fake.parent.mkdir()
    fake.touch()
    nodes = [{"path": f"/dev/{name}", "hostPath": path} for name, path in (("a", str(fake)),)]
    nodes.append({"path": "/dev/null"})
    document = {
        **GOOD,
        "devices": [{"name": "a", "containerEdits": {"deviceNodes": nodes}}],
        "containerEdits": {},
    }
    file.write_text(json.dumps(document))
    assert main(["cdi", "validate", str(file), "--control-socket="]) == 1
    assert capsys.readouterr().out == f"{file}: {fake} is no device node\n"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(GOOD)), _VALUES)
def test_any_document_has_an_answer(field: str, value: object) -> None:
    document = changed(**{field: value})
    found = list(faults(document, everything))
    assert bool(found) or VALIDATOR.is_valid(document)


def test_the_daemon_without_cdi_imports_nothing_of_it() -> None:
    code = (
        "import sys; from plugin import app, specification; from pathlib import Path;"
        "from plugin.core.inventory.model import Inventory;"
        "from plugin.core.settings import Settings;"
        "import asyncio;"
        "specify = specification.Specification(Path('/x'), Path('/x/ledger'));"
        "asyncio.run(specify(Inventory(), Settings()));"
        "print([name for name in sys.modules if name.startswith('plugin.cdi')"
        " or name in {'fastjsonschema', 'plugin.driver.installation'}])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
