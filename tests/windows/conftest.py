"""What is in `inside` runs on a Windows Python; `test_under_wine.py` takes it there."""

import sys

collect_ignore_glob = [] if sys.platform == "win32" else ["inside/*"]
