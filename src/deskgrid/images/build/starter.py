"""A first recipe to begin with: commented, beside a script, and building as it is."""

from pathlib import Path

from deskgrid.host.system.files import write_new
from deskgrid.images.contract import ImageError
from deskgrid.model.values.names import BadName
from deskgrid.model.values.names import name as valid_name

_RECIPE = """\
# What the image "{name}" is made of. Build it, look at it, compare it with the one before:
#
#   deskgrid image build {name}.toml
#   deskgrid image inspect {name}
#   deskgrid image diff {name}@OLD {name}@NEW
#
# HTCondor and what makes a machine a member of the pool are added to every image.

name = "{name}"                        # jobs ask for it: +vm_name = "{name}"
suite = "trixie"                    # Debian's release
packages = ["python3"]              # of Debian
scripts = ["{name}.sh"]                # run as root inside the tree, in this order; beside this file
disk_bytes = "2GiB"                 # of which only what is used takes room
memory_bytes = "512MiB"             # least memory of a machine that runs it

# from = "other.toml"               # begin with what another recipe says
# extra_suites = ["trixie-updates"] # exactly these beside the suite; unsaid: updates and security
# mirror = "https://mirror.example.org/debian"
# snapshot = "20260901T000000Z"     # the archive as it was then; needs a mirror with {{snapshot}} in it

# [[files]]                         # owned by root
# source = "motd"                   # beside this file
# to = "/etc/motd"
# mode = "0644"

# [[users]]                         # accounts without passwords
# name = "alice"
# uid = 1000
# groups = ["staff"]
"""
_SCRIPT = """\
#!/bin/sh
# Run as root inside the tree of the image "{name}", when its packages and files are there.
# If it fails, so does the build. What it downloads is in no list of packages: prefer packages. What it leaves below
# /tmp, /run and /var/log does not get into the image.
set -eu
"""


def write(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a recipe and its script, and return both. Raises: ImageError when the name is bad or one is there."""
    try:
        valid_name("image name", name)
    except BadName as error:
        raise ImageError(str(error)) from None
    recipe, script = folder / f"{name}.toml", folder / f"{name}.sh"
    for path in (recipe, script):
        if path.exists() or path.is_symlink():
            raise ImageError(f"{path}: it is there already, and nothing is overwritten; choose another name or folder")
    try:
        for path, text in ((recipe, _RECIPE), (script, _SCRIPT)):
            write_new(path, text.format(name=name).encode(), 0o755 if path == script else 0o644)
    except OSError as error:
        raise ImageError(f"{error.filename}: {error.strerror}; expected a folder that can be written") from None
    return recipe, script
