"""One HTML file of a reading, to be sent by mail: images, page and style in it, and no truth."""

import base64
import json
import re
from typing import Any

from factory.core.errors import InputError
from factory.publish.review.desk import Desk
from factory.publish.review.server import build_page, read_page

MOST_BYTES = 100_000_000
"""Of the images of a page: browsers and mail take no more."""
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


def write_offline(desk: Desk) -> str:
    """Returns the page as one HTML text that fetches nothing.

    Raises:
        InputError: the images are too many for one file.
        StoreError: an image cannot be read.
    """
    images: dict[str, list[str]] = {}
    size = 0
    for case in desk.cases.values():
        images[case.id] = []
        for side in range(len(case.images)):
            data, media = desk.read_image(case.id, side)
            size += len(data)
            if size > MOST_BYTES:
                raise InputError(
                    f"the images have more than {MOST_BYTES / 1e6:g} MB together, too much for one "
                    "file: ask for fewer with --count"
                )
            text = base64.b64encode(data).decode()
            images[case.id].append(f"data:{media};base64,{text}")
    told = {"reading": desk.describe(), "cases": desk.list_cases(""), "images": images}
    return _join(told)


def _join(told: dict[str, Any]) -> str:
    data = json.dumps(told).replace("<", "\\u003c")
    style, script = read_page("style.css"), read_page("review.js").replace("</", "<\\/")
    parts = {
        '<link rel="stylesheet" href="/page/style.css">': f"<style>\n{style}</style>",
        '<script src="/page/review.js"></script>': (
            f'<script type="application/json" id="mailed">{data}</script>\n'
            f"<script>\n{script}</script>"
        ),
        '<meta charset="utf-8">': (
            '<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        ),
    }
    pattern = "|".join(map(re.escape, parts))
    return re.sub(pattern, lambda found: parts[found[0]], build_page("review"))
