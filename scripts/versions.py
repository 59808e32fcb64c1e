"""Constraints for pip from the bounds in pyproject.toml: the oldest releases that hemolens says it works with.

python scripts/versions.py > minimum.txt        # torch==2.6, …
pip install -c minimum.txt -e .[dev]            # `make test-minimum`: in a venv of its own, with the tests
make test-newest                                # the newest releases that the bounds allow
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def constraints(requirements: Sequence[str]) -> list[str]:
    """``name==bound`` of each requirement with a lower bound; those pinned or without one are left out.

    A bound with two numbers means a series, of which pip takes the newest patch: its first release may be withdrawn.
    """
    found = []
    for requirement in requirements:
        match = re.match(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9][0-9A-Za-z.]*)", requirement)
        if match:
            name, bound = match.groups()
            found.append(f"{name}=={bound}{'.*' if bound.count('.') == 1 else ''}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", default=[], help="constrain this extra too, e.g. export")
    options = parser.parse_args()
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    if unknown := [name for name in options.extra if name not in extras]:
        print(f"versions.py: no extra {unknown[0]}; there are {', '.join(extras)}", file=sys.stderr)
        return 2
    wanted = [*project["dependencies"], *(line for name in options.extra for line in extras[name])]
    print("\n".join(constraints(wanted)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
