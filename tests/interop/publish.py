"""Publishes items with gripcontrol: publish.py CONTROL_URI [KEY]

Reads one item per line from standard input, as JSON: {"channel", "ws" | "stream" | "response"}.
Prints one line for each: "ok" if it was published, or "error: ..." if the host rejected it.
"""

import json
import sys

from gripcontrol import (
    GripPubControl,
    HttpResponseFormat,
    HttpStreamFormat,
    WebSocketMessageFormat,
)
from pubcontrol import Item


def main():
    config = {"control_uri": sys.argv[1]}
    if len(sys.argv) > 2:
        config |= {"control_iss": "python", "key": sys.argv[2]}
    publisher = GripPubControl(config)
    for line in sys.stdin:
        item = json.loads(line)
        if "ws" in item:
            formats = WebSocketMessageFormat(item["ws"])
        elif "stream" in item:
            formats = HttpStreamFormat(item["stream"])
        else:
            formats = HttpResponseFormat(body=item["response"])
        try:
            publisher.publish(item["channel"], Item(formats), blocking=True)
            result = "ok"
        except Exception as error:
            result = f"error: {error}"
        print(result.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
