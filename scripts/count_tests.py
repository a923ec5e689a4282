"""``python scripts/count_tests.py REPORT...``: one line for all of pytest's JUnit reports together."""

from __future__ import annotations

import sys
from xml.etree import ElementTree


def main() -> None:
    suites = [suite for path in sys.argv[1:] for suite in ElementTree.parse(path).iter("testsuite")]
    n_tests, n_failed, n_errors, n_skipped = (
        sum(int(suite.attrib[name]) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    seconds = sum(float(suite.attrib["time"]) for suite in suites)
    counts = {"failed": n_failed, "passed": n_tests - n_failed - n_errors - n_skipped}
    counts |= {"skipped": n_skipped, "errors": n_errors}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    sys.stdout.write(f"===== {told} in {seconds:.2f}s =====\n")


if __name__ == "__main__":
    main()
