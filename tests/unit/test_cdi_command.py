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

from plugin.cdi.validation import faults
from plugin.cli import main

from .test_cdi_specification import VALIDATOR, made

NODE = "--simulate=p4d.24xlarge:0=1g.5gb*2;1=3g.20gb"


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


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_a_document_for_each_kind_is_printed(
    cdi: Callable[..., tuple[int, str]], output: str
) -> None:
    status, text = cdi("generate", f"--output={output}")
    assert status == 0
    if output == "yaml":
        found = list(yaml.safe_load_all(text))
    else:
        found, decoder, rest = [], json.JSONDecoder(), text
        while rest := rest.strip():
            document, end = decoder.raw_decode(rest)
            found.append(document)
            rest = rest[end:]
    assert [document["kind"] for document in found] == ["nvidia.com/mig", "nvidia.com/gpu"]
    for document in found:
        VALIDATOR.validate(document)
    assert devices(found[0])[1::2] == ["0:0", "0:1", "1:0"]
    assert devices(found[1])[1::2] == [*map(str, range(2, 8))]


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
        (
            ("--file=/x/y",),
            "/x/y: a file has devices of one kind, and there are nvidia.com/mig and",
        ),
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
    assert "cannot be read: No such file or directory" in text


def test_what_the_daemon_wrote_is_checked(
    cdi: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    written = tmp_path / "mig-device-plugin-nvidia.com-mig.yaml"
    cdi("generate", "--kind=mig", f"--file={written}")
    assert cdi("validate", f"--cdi-directory={tmp_path}") == (0, f"{written}: valid\n")


# ---- what is wrong with a document


def everything(path: str) -> bool:
    del path
    return True


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
    there = {"/dev/nvidia0"}
    found = list(faults(document, there.__contains__))
    assert found[0] == "/hook does not exist"
    assert len(found) == 1 + len(
        {n["path"] for d in GOOD["devices"] for n in d["containerEdits"]["deviceNodes"]} - there
    )


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
