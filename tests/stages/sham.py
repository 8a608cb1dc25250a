"""Stands in for a command in tests of the sweep, and starts in milliseconds: `python -m sham fail=3 out="folder"`.

It ends with code `fail`, and otherwise writes metrics.json after `seconds`. On SIGTERM it ends with code 75.
"""

import json
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    out = Path(given["out"].strip('"'))
    signal.signal(signal.SIGTERM, lambda *_: (print("asked to stop", flush=True), sys.exit(75)))
    tries = out / "tries"
    count = int(tries.read_text()) + 1 if tries.exists() else 1
    tries.write_text(str(count))
    print(f"try {count}", flush=True)
    if count <= int(given.get("interrupted", 0)):
        sys.exit(75)
    time.sleep(float(given.get("seconds", 0)))
    if int(given.get("fail", 0)):
        print("the last word", flush=True)
        sys.exit(int(given["fail"]))
    if "nothing" not in given:
        (out / "metrics.json").write_text(json.dumps({"rsum": 1.0}))


if __name__ == "__main__":
    main()
