"""Pictures bought with plain asyncio: each answer is read and its base64 decoded, nothing more.

`python -m benchmarks.beside.provider_alone BASE_URL PICTURES`: the seconds from the first request
until the last picture is there.
"""

import asyncio
import base64
import json
import sys
import time

import httpx2

ORDER = {
    "model": "gpt-image-2.5-flare",
    "size": "1024x1024",
    "quality": "medium",
    "output_format": "webp",
    "n": 1,
}
HEADERS = {"authorization": "Bearer sandbox"}


async def buy(client: httpx2.AsyncClient, url: str, number: int) -> bytes:
    answer = await client.post(url, json=ORDER | {"prompt": f"picture {number}"}, headers=HEADERS)
    answer.raise_for_status()
    return base64.b64decode(json.loads(answer.content)["data"][0]["b64_json"])


async def main(base_url: str, pictures: int) -> float:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(timeout=60, limits=limits) as client:
        url = f"{base_url}/images/generations"
        await asyncio.gather(*(buy(client, url, number) for number in range(4)))  # warm up
        started = time.perf_counter()
        await asyncio.gather(*(buy(client, url, number) for number in range(pictures)))
        return time.perf_counter() - started


if __name__ == "__main__":
    sys.stdout.write(f"{asyncio.run(main(sys.argv[1], int(sys.argv[2])))}\n")
