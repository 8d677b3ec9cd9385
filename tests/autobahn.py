"""Runs the Autobahn suite with kosoku, whose arguments it takes."""

from kosoku import _caseindex, _cli

_caseindex.initialize_shims()

import case12_x_x  # noqa: E402, once its folder is in the path


def with_bytes(on_message):
    """The cases expect bytes, but kosoku passes bytes for compressed messages only."""

    def convert(self, message, binary):
        if isinstance(message, str):
            message = message.encode("latin-1" if binary else "utf-8")
        on_message(self, message, binary)

    return convert


for case in case12_x_x.Case12_X_X + case12_x_x.Case13_X_X:
    case.onMessage = with_bytes(case.onMessage)

_cli.main()
