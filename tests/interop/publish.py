"""Publishes as a Python program does: publish.py CONTROL_URI [KEY], then a line of JSON an item.

An item is {"channel", "ws" | "stream" | "response"}. Each line is answered with "ok" when it
has been published, or with "error: ..." when the host refused it.
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
            answer = "ok"
        except Exception as error:
            answer = f"error: {error}"
        print(answer.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
