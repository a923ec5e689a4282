"""``python -m tests.limited_engine FD LEVEL FORMAT``: a real engine process that can have 4 GiB of memory."""

from __future__ import annotations

import resource

from appliance.engine.llama.__main__ import main

LIMIT_BYTES = 4 << 30

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    main()
