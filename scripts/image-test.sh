#!/usr/bin/env bash
# Build the image for real, without a container engine, and run version, doctor and the simulated daemon from it.
#
#   scripts/image-test.sh
#
# Environment:
#   MDP_BASE_FROM_REGISTRY=1   try the Dockerfile's own base images first; otherwise, and where that fails, the base is
#                              made by debootstrap and kept in the cache directory
#   MDP_DEBIAN_MIRROR=URL      where debootstrap gets its packages (default: http://deb.debian.org/debian)
#   MDP_KEEP_IMAGE=FILE        keep the archive that nodes import there (docker, podman, ctr, kind and k3s read it)
#   XDG_CACHE_HOME             the base is cached below it (default: ~/.cache)
# What pip is told on this machine (index, certificate, local folders) holds for the build as well and stays out of the
# image. Needs root, for mounts and chroot.
set -euo pipefail

readonly suite=bookworm
readonly packages=ca-certificates,python3,python3-venv
readonly node=p4d.24xlarge:all-1g.5gb
readonly kubelet_dir=/var/lib/kubelet/device-plugins

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The name that the chart pulls, and that the archive carries.
image=$(make --silent --no-print-directory -C "$root" image-name)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mig-device-plugin
mirror=${MDP_DEBIAN_MIRROR:-http://deb.debian.org/debian}
work=

say() { printf '==> %s\n' "$*"; }

die() {
    printf 'image-test: %s\n' "$*" >&2
    exit 1
}

# Everything that buildah stores lives in the work directory. vfs and chroot isolation ask nothing of the kernel but
# mounts, so that this also runs inside a container.
store() { buildah --root "$work/storage" --runroot "$work/runroot" --storage-driver vfs "$@"; }

in_image() { store run --isolation chroot "$container" -- "$@"; }

clean_up() {
    local status=$? mounted
    trap - EXIT
    [[ -n $work ]] || exit "$status"
    [[ -z $containerd ]] || kill "$containerd" 2>/dev/null || true
    store rm --all >/dev/null 2>&1 || true
    # Never delete through a mount that an interrupted buildah or debootstrap left behind.
    awk -v under="$work/" 'index($2, under) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r mounted; do
        umount --lazy "$mounted" || true
    done
    rm -rf --one-file-system "$work"
    exit "$status"
}

require_tools() {
    local tool missing=()
    [[ $(id -u) -eq 0 ]] || die "needs root for mounts and chroot: run it as root, for example in a CI container"
    for tool in buildah debootstrap; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    command -v apt-get >/dev/null || die "${missing[*]} not found: install it with this system's package manager"
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Prints the path of the base's tarball, made once per machine.
debian_base() {
    local tarball
    tarball=$cache/$suite-$(uname -m)-${packages//,/+}.tar
    if [[ ! -f $tarball ]]; then
        say "debootstrap $suite ($packages) into $tarball" >&2
        mkdir -p "$cache"
        if ! debootstrap --variant=minbase --include="$packages" $suite "$work/base" "$mirror" >"$work/log" 2>&1; then
            tail -n 20 "$work/log" >&2
            die "debootstrap failed: is $mirror reachable? MDP_DEBIAN_MIRROR names another mirror"
        fi
        rm -rf "$work"/base/var/cache/apt/* "$work"/base/var/lib/apt/lists/*
        tar -C "$work/base" -cf "$work/base.tar" .
        mv "$work/base.tar" "$tarball.$$"
        mv "$tarball.$$" "$tarball" # in one step: a half-written base is never found
        rm -rf --one-file-system "$work/base"
    fi
    printf '%s\n' "$tarball"
}

import_base() {
    local scratch
    scratch=$(store from scratch)
    store add --quiet "$scratch" "$1" / >/dev/null
    store commit --quiet --rm "$scratch" localhost/debian-base >/dev/null
}

# Writes pip's settings of this machine as one file and prints the local paths that they name.
pip_settings() {
    python3 - "$work/pip.conf" <<'PY'
import ast, pathlib, subprocess, sys, urllib.parse

WANTED = {"cert", "client-cert", "extra-index-url", "find-links", "index-url", "no-index", "proxy", "retries",
          "timeout", "trusted-host"}
listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
settings = {}
for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):  # the environment wins
    key, _, value = line.partition("=")
    name = key.rpartition(".")[2].removeprefix("default-")
    if name in WANTED:
        settings[name] = ast.literal_eval(value)
text = "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
pathlib.Path(sys.argv[1]).write_text(text.replace("%", "%%"))
paths = set()
for name, value in settings.items():
    for word in value.split():
        path = pathlib.Path(urllib.parse.unquote(word.removeprefix("file://")))
        if path.is_absolute() and path.exists():
            # The pages of a local index link to files beside it.
            beside = name.endswith("index-url") and len(path.parts) > 2
            paths.add(str(path.parent if beside else path))
print("\n".join(sorted(paths)))
PY
}

# build_image [BUILDAH OPTION...]
build_image() {
    local path volumes=() options=(
        --quiet --isolation chroot --file "$root/Dockerfile" "$@"
        --secret "id=pip.conf,src=$work/pip.conf"
        --build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/plugin/__init__.py")"
        --build-arg "REVISION=$(git -C "$root" rev-parse --verify HEAD 2>/dev/null || echo unknown)"
    )
    while read -r path; do
        [[ -z $path ]] || volumes+=(--volume "$path:$path:ro")
    done < <(pip_settings)
    # Mounting leaves empty folders behind, so the builder is built by itself and only it gets mounts.
    store bud --target builder --tag localhost/builder "${volumes[@]}" "${options[@]}" "$root" >"$work/log" 2>&1 &&
        store bud --build-context builder=container-image://localhost/builder --tag "$image" "${options[@]}" "$root" \
            >>"$work/log" 2>&1
}

build() {
    if [[ -n ${MDP_BASE_FROM_REGISTRY:-} ]]; then
        say "building on the base images of the Dockerfile"
        build_image && return
        say "that failed: $(tail -n 1 "$work/log")"
    fi
    import_base "$(debian_base)"
    say "building on Debian $suite"
    if ! build_image --build-arg BUILD_IMAGE=localhost/debian-base --build-arg RUNTIME_IMAGE=localhost/debian-base; then
        tail -n 30 "$work/log" >&2
        die "the image does not build"
    fi
}

# The daemon as its own process beside a kubelet stand-in, both from the image, on a root file system that is read-only.
run_daemon() {
    mkdir "$work/kubelet"
    store run --isolation chroot --cap-add CAP_SYS_ADMIN --volume "$work/kubelet:$kubelet_dir" \
        --env "KUBELET_SOCKET=$kubelet_dir/kubelet.sock" --env "NODE=$node" "$container" -- \
        sh -c 'mount -o remount,bind,ro / && exec python -' <"$root/scripts/image_daemon_check.py"
}

# Fails when a compiler, a linker, pip or something that only the build needed is in the image.
check_contents() {
    local mounted found
    mounted=$(store mount "$container")
    found=$(find "$mounted" -xdev \( -type f -o -type l \) -path '*/bin/*' -regextype posix-extended \
        -regex '.*/(.*-)?(cc|c\+\+|gcc|g\+\+|clang|tcc|ld(\.(bfd|gold|lld))?|as|rustc|go)(-[0-9.]+)?' -printf '/%P\n')
    [[ -z $found ]] || die "the image holds a compiler or linker: $found"
    found=$(cd "$mounted" && find . \( -path ./build -o -path ./src -o -path './opt/mig-device-plugin/bin/pip*' \
        -o -path './root/.cache/*' -o -path ./etc/pip.conf \) -prune -print)
    [[ -z $found ]] || die "the image holds what only its build needed: $found"
    found=$(find "$mounted/opt" -mindepth 1 -maxdepth 1 ! -name mig-device-plugin -printf '/opt/%P\n')
    [[ -z $found ]] || die "the image holds more than the environment below /opt: $found"
    say "found: no compiler"
    say "environment: $(du -sh "$mounted/opt/mig-device-plugin" | cut -f 1)"
    store umount "$container" >/dev/null
}

# Fails when the CycloneDX bill of materials and what is installed differ.
check_bill() {
    in_image python -c '
import importlib.metadata, json
bill = json.load(open("/opt/mig-device-plugin/share/sbom.cdx.json"))
listed = {(each["name"].lower(), each["version"]) for each in bill["components"]}
there = {(each.name.lower(), each.version) for each in importlib.metadata.distributions(path=[
    path for path in __import__("sys").path if path.startswith("/opt/mig-device-plugin/")])}
assert bill["bomFormat"] == "CycloneDX" and there and there <= listed, there ^ listed
print("bill of materials:", bill["specVersion"], ", ".join(sorted(f"{name} {version}" for name, version in there)))
' || die "the bill of materials is not that of the image"
}

# Writes the archive that a node without a registry imports, and imports it: into an empty store, and with containerd,
# without its snapshots, where that is installed.
check_archive() {
    local archive=${MDP_KEEP_IMAGE:-$work/image.tar} names
    rm -f "$archive"
    store push --quiet "$image" "docker-archive:$archive:$image"
    names=$(buildah --root "$work/other" --runroot "$work/other-run" --storage-driver vfs pull --quiet "docker-archive:$archive" \
        >/dev/null && buildah --root "$work/other" --runroot "$work/other-run" --storage-driver vfs images --format '{{.Name}}:{{.Tag}}')
    rm -rf --one-file-system "$work/other" "$work/other-run"
    [[ $names == "$image" ]] || die "the archive is imported as $names, and the chart pulls $image"
    say "the archive is imported as $names"
    command -v containerd >/dev/null || return 0
    check_containerd "$archive"
}

check_containerd() {
    local socket=$work/containerd.sock log=$work/containerd.log tries=0 names
    printf 'version = 2\nroot = "%s"\nstate = "%s"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n' \
        "$work/containerd-root" "$work/containerd-state" "$socket" >"$work/containerd.toml"
    containerd --config "$work/containerd.toml" >"$log" 2>&1 &
    containerd=$!
    until ctr --address "$socket" version >/dev/null 2>&1; do
        ((tries += 1)) && [[ $tries -le 50 ]] || die "containerd does not start: $(tail -n 1 "$log")"
        sleep 0.2
    done
    ctr --address "$socket" --namespace k8s.io images import --no-unpack "$1" >/dev/null
    names=$(ctr --address "$socket" --namespace k8s.io images list --quiet)
    kill "$containerd" && wait "$containerd" || true
    containerd=
    [[ $names == "$image" ]] || die "containerd imports the archive as $names, and the chart pulls $image"
    say "containerd imports the archive as $names"
}

main() {
    local started=$SECONDS config
    require_tools
    work=$(mktemp -d "${TMPDIR:-/tmp}/mig-device-plugin-image.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    build

    config=$(store inspect --type image --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' "$image")
    [[ $config == '[mig-device-plugin] [run]' ]] || die "entry point and command are $config"
    container=$(store from "$image")

    say "mig-device-plugin version"
    in_image mig-device-plugin version
    check_bill
    say "mig-device-plugin doctor --simulate $node"
    # It may warn (1), since there is no kubelet in the image, but not fail (2).
    in_image sh -c "mig-device-plugin doctor --simulate $node --mig-strategy mixed || [ \$? -eq 1 ]"
    say "mig-device-plugin run --simulate $node, read-only root file system"
    run_daemon
    check_contents
    say "image: $(store images --format '{{.Size}}' "$image")"
    check_archive
    say "passed in $((SECONDS - started)) s"
}

container=
containerd=
main "$@"
