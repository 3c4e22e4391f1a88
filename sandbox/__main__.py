"""`python -m sandbox DIRECTORY`: OpenAI's and Cloudinary's sides in a process of their own.

Says where they are as one line of JSON, and lasts until its input ends.
"""

import argparse
import json
import sys
from pathlib import Path

from sandbox.server import Sandbox


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("directory", type=Path, help="where pictures are kept")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a picture takes")
    parser.add_argument("--picture-bytes", type=int, help="sell from stock, pictures so long")
    options = parser.parse_args()
    with Sandbox(
        options.directory, latency=options.latency, picture_bytes=options.picture_bytes
    ) as sandbox:
        addresses = {
            "openai_base_url": sandbox.openai_base_url,
            "cloudinary_url": sandbox.cloudinary_url,
        }
        sys.stdout.write(json.dumps(addresses) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
