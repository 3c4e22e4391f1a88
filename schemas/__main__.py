"""`python -m schemas` writes the published documents; with `--check` it says which are stale."""

import sys
from argparse import ArgumentParser

from schemas.documents import DIRECTORY, published, stale


def main() -> int:
    """Write the documents, or with `--check` return 1 when any file is not what it should be."""
    parser = ArgumentParser(prog="python -m schemas", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    if parser.parse_args().check:
        differing = stale()
        for path in differing:
            sys.stderr.write(f"schemas/{path} is stale: run `python -m schemas`\n")
        return 1 if differing else 0
    for path, text in published().items():
        target = DIRECTORY / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
