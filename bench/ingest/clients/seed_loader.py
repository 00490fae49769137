"""The seed's loader, made again from its description: a DataLoader over leased tasks, PIL + ToTensor.

What it keeps, because its memory and speed come from there: tasks are fetched by the loader workers, each batch is
downloaded by eight threads, decoded by PIL to float32, stacked, shared with the main process and prefetched; batches
that wait are whole, and a generator holds the last batch while it makes the next. Results go out by two threads, five
posts at most waiting. What it leaves out: retries, and what follows an error. It runs as a client process of its own:
`python -m bench.ingest.clients.seed_loader --help`.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import requests
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from torchvision import transforms

DOWNLOAD_THREADS: Final = 8
POST_THREADS: Final = 2
MAX_PENDING_POSTS: Final = 5
BOXES: Final = 20

Networks = Callable[[torch.Tensor], None]


class LeasedImages(IterableDataset[dict[str, Any]]):
    """Leases a batch of tasks, downloads and decodes it, yields it stacked; ends at the first empty answer."""

    def __init__(self, api: str, token: str, job: int, batch: int) -> None:
        self.api, self.token, self.job, self.batch = api, token, job, batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        api, images = requests.Session(), requests.Session()
        to_tensor = transforms.ToTensor()

        def load(task: dict[str, str]) -> torch.Tensor:
            response = images.get(task["image_url"], timeout=30)
            response.raise_for_status()
            image: Image.Image = Image.open(io.BytesIO(response.content))
            # Only where needed, as the original: a conversion of RGB to RGB is a copy more.
            tensor: torch.Tensor = to_tensor(image if image.mode == "RGB" else image.convert("RGB"))
            return tensor

        with ThreadPoolExecutor(DOWNLOAD_THREADS) as pool:
            while True:
                answer = api.post(
                    f"{self.api}/jobs/{self.job}/tasks/",
                    json={"batch_size": self.batch},
                    headers={"Authorization": f"Token {self.token}"},
                    timeout=30,
                )
                answer.raise_for_status()
                tasks = answer.json()["tasks"]
                if not tasks:
                    return
                loaded = list(pool.map(load, tasks))
                yield {"images": torch.stack(loaded), "tasks": tasks}


def run(options: argparse.Namespace, token: str) -> dict[str, float]:
    """Drain one job; how many images, and in what time."""
    infer = _networks() if options.models == "r50" else None
    loader = DataLoader(
        LeasedImages(options.api, token, options.job, options.batch),
        batch_size=None,
        num_workers=options.workers,
        prefetch_factor=options.prefetch,
        pin_memory=options.pin,
        persistent_workers=True,
    )
    session = requests.Session()

    def post(tasks: list[dict[str, str]]) -> None:
        session.post(
            f"{options.api}/jobs/{options.job}/result/",
            json={"results": [_result(task, options.pipeline) for task in tasks]},
            headers={"Authorization": f"Token {token}"},
            timeout=60,
        ).raise_for_status()

    started_at = time.monotonic()
    done = 0
    pending: list[Future[None]] = []
    with ThreadPoolExecutor(POST_THREADS) as posts:
        for item in loader:
            began_at = time.monotonic()
            if infer is not None:
                infer(item["images"])
            rest = options.infer_seconds * len(item["tasks"]) - (time.monotonic() - began_at)
            time.sleep(max(0.0, rest))
            pending.append(posts.submit(post, item["tasks"]))
            done += len(item["tasks"])
            print(f"{done} images", file=sys.stderr, flush=True)
            if len(pending) > MAX_PENDING_POSTS:
                pending.pop(0).result()
        for future in pending:
            future.result()
    return {"images": done, "seconds": time.monotonic() - started_at}


def _result(task: dict[str, str], pipeline: str) -> dict[str, Any]:
    return {
        "reply_subject": task["reply_subject"],
        "result": {
            "pipeline": pipeline,
            "total_time": 0.0,
            "source_images": [{"id": task["image_id"], "url": task["image_url"]}],
            "detections": [],
            "timestamp": datetime.datetime.now(datetime.UTC).isoformat(),
        },
    }


def _networks() -> Networks:
    """The R50 detector and both R50 classifiers, weights drawn by chance, on every box that is kept."""
    from torchvision.models import resnet50
    from torchvision.models.detection import fasterrcnn_resnet50_fpn
    from torchvision.transforms import functional

    torch.manual_seed(0)
    detector = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, box_detections_per_img=BOXES
    ).eval()
    binary, species = resnet50(num_classes=2).eval(), resnet50(num_classes=5).eval()

    @torch.inference_mode()
    def infer(images: torch.Tensor) -> None:
        for image in images:
            boxes = detector([image])[0]["boxes"].int().tolist()
            places = [(x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)) for x1, y1, x2, y2 in boxes]
            crops = [functional.resize(image[:, y1:y2, x1:x2], [128, 128]) for x1, y1, x2, y2 in places]
            if crops:
                batch = torch.stack(crops)
                binary(batch).softmax(1)
                species(batch).softmax(1)

    return infer


def main() -> None:
    parser = argparse.ArgumentParser(description="Drain one job as the seed's worker does.")
    parser.add_argument("--api", required=True, help="base URL, ending in /api/v2")
    parser.add_argument("--token-file", type=Path, required=True, help="file that holds the API token")
    parser.add_argument("--job", type=int, required=True)
    parser.add_argument("--pipeline", required=True, help="slug that the results name")
    parser.add_argument("--batch", type=int, default=24, help="tasks a fetch (default: the seed's 24)")
    parser.add_argument("--workers", type=int, default=4, help="loader processes (default: the seed's 4)")
    parser.add_argument("--prefetch", type=int, default=4, help="batches ahead a process (default: the seed's 4)")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="default: the seed's, on")
    parser.add_argument("--infer-seconds", type=float, default=0.0, help="least time of inference an image")
    parser.add_argument("--models", choices=["stub", "r50"], default="stub")
    options = parser.parse_args()
    print(json.dumps(run(options, options.token_file.read_text().strip())))


if __name__ == "__main__":
    main()
