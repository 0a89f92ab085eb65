"""Every command in README, docs and Helm's notes can be pasted as it stands: the shell has nothing
to complain about, and each program is called in a way that it understands.
"""

import contextlib
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import helm_python
import pytest
import yaml

from plugin.arguments import parser_of
from tests.chart.pasted import in_document, in_notes, paste

if TYPE_CHECKING:
    from .conftest import Renderer

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *ROOT.glob("charts/*/README.md"), *ROOT.glob("docs/**/*.md")]
IMAGE = "localhost/mig-device-plugin:0.1.0"

KUBECTL = {
    "apply": {"-f"},
    "create": {"--clusterrole", "--serviceaccount", "--from-literal"},
    "describe": {"-n"},
    "exec": {"-n"},
    "get": {"-n", "-o", "-l", "-L"},
    "label": {"-l", "--overwrite"},
    "logs": {"-n"},
    "port-forward": {"-n"},
    "rollout": {"-n"},
    "wait": {"--for", "--timeout"},
}
IMAGES = {
    "docker": {"build", "push", "run", "save"},
    "podman": {"build", "load", "push", "save"},
    "buildah": {"bud", "build", "push"},
    "kind": {"load"},
    "ctr": {"-n"},
    "k3s": {"ctr"},
    "containerd": {"config"},
}


@pytest.fixture
def check(render: "Renderer", tmp_path: Path) -> Callable[[str], str]:
    """Paste a text, check every call; returns what the programs read."""
    return partial(checked, render, tmp_path)


def checked(render: "Renderer", folder: Path, text: str) -> str:
    pasted = paste(text, folder)
    assert pasted.complaints == ""
    assert pasted.calls, f"nothing was started by {text!r}"
    for call in pasted.calls:
        understand(render, *call)
    return pasted.stdin


def understand(render: "Renderer", program: str, *arguments: str) -> None:
    match program:
        case "mig-device-plugin":
            with contextlib.ExitStack() as stack:
                if "--help" in arguments:
                    stack.enter_context(pytest.raises(SystemExit, match=r"^0$"))
                parser_of(arguments).parse_args(arguments)
        case "kubectl":
            kubectl(render, *arguments)
        case "helm":
            helm(render, *arguments)
        case "make":
            make(*arguments)
        case _ if program in IMAGES:
            assert arguments[0] in IMAGES[program]
            for name in arguments:
                if name.startswith("localhost/"):
                    assert name == IMAGE == render().container["image"]
        case _:
            assert program in {"curl", "git", "nvidia-smi", "openssl", "python", "sudo"}


def kubectl(render: "Renderer", *arguments: str) -> None:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given, command = arguments[:end], arguments[end + 1 :]
    namespace, rest = (given[:2], given[2:]) if given[0] == "-n" else ((), given)
    verb, *operands = rest
    assert len(namespace) in {0, 2}
    flags = {word.partition("=")[0] for word in operands if re.match(r"--?[A-Za-z]", word)}
    assert flags <= KUBECTL[verb], f"kubectl {verb} takes no {flags - KUBECTL[verb]}"
    if command:
        understand(render, *command)


def helm(render: "Renderer", *arguments: str) -> None:
    verb, *rest = arguments
    if verb != "install":
        assert verb in {"uninstall", "upgrade"}
        return
    release, chart, *options = rest
    assert (ROOT / chart / "Chart.yaml").is_file()
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    assert pairs.keys() <= {"--namespace", "--set", "--values"}
    values: dict[str, Any] = {"image": {}}
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option == "--set":
            name, _, text = value.partition("=")
            *groups, key = name.split(".")
            at = values
            for group in groups:
                at = at.setdefault(group, {})
            at[key] = yaml.safe_load(text)
    assert render(values, name=release).daemonset["metadata"]["name"] == release


def make(*arguments: str) -> None:
    printed = dry_run(*arguments, "BUILDER=docker")
    for _, is_set, value in (word.partition("=") for word in arguments):
        assert not is_set or value in printed, f"the Makefile makes nothing of {value}"


def dry_run(*arguments: str) -> str:
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "-C", str(ROOT), *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents(check: Callable[[str], str], path: Path) -> None:
    for text in in_document(path.read_text(encoding="utf-8")):
        check(text)


def test_notes(render: "Renderer", check: Callable[[str], str], case: dict[str, Any]) -> None:
    release = render(case)
    texts = list(in_notes(release.notes))
    assert len(texts) >= len(["rollout", "logs", "doctor", "devices", "describe", "apply"])
    read = "".join(check(text) for text in texts)
    assert yaml.safe_load(read)["metadata"]["name"] == "mig-example", (
        "the here-document ends where it says, and what it holds is the example"
    )


def test_the_notes_can_be_pasted_at_one_go(render: "Renderer", check: Callable[[str], str]) -> None:
    """Whoever marks a whole step and pastes it gets the here-document and what follows it."""
    _, _, step = render().notes.partition("4. Use it")
    text, _, _ = step.partition("\n5. ")
    _, _, commands = text.partition(":\n")
    read = check(commands)
    assert yaml.safe_load(read)["kind"] == "Pod"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("  cat <<'EOF'\n  a: 1\n  EOF\n  kubectl logs x\n", "here-document"),
        ("kubctl get pods", "command not found"),
        ("kubectl get 'pods", "unexpected EOF"),
    ],
)
def test_what_cannot_be_pasted_is_found(tmp_path: Path, text: str, wrong: str) -> None:
    assert wrong in paste(text, tmp_path).complaints


@pytest.mark.parametrize(
    "call",
    [
        ("mig-device-plugin", "drian", "0"),
        ("kubectl", "exec", "POD", "--", "mig-device-plugin", "doctor", "--strategy"),
        ("kubectl", "logs", "--folow", "x"),
        ("helm", "install", "gpu", "charts/mig-device-plugin", "--set", "driver.acess=host"),
        ("make", "imag"),
        ("make", "image", "BASE=x"),
        ("kind", "load", "docker-image", "localhost/mig-device-plugin:latest"),
    ],
)
def test_calls_that_no_program_understands_are_found(
    render: "Renderer", call: tuple[str, ...]
) -> None:
    with pytest.raises((SystemExit, AssertionError, helm_python.HelmError)):
        understand(render, *call)


def test_make_image_builds_what_the_chart_pulls(render: "Renderer") -> None:
    image = render().container["image"]
    plain = dry_run("image", "BUILDER=docker")
    assert f" --tag {image} " in plain
    assert "_IMAGE=" not in plain, "the Dockerfile's own default"
    base = "docker.io/library/python@sha256:" + "a" * 64
    other = dry_run(
        "image", "BUILDER=buildah", "IMAGE=registry.example/mig:1", f"RUNTIME_IMAGE={base}"
    )
    assert " --tag registry.example/mig:1 " in other
    assert f"--build-arg RUNTIME_IMAGE={base}" in other
    assert f"echo {image}" in dry_run("image-name"), "what make image-test names its archive by"
