"""Print the failed and the skipped tests of a JUnit report; fail if pytest has skipped a test or has run none.

For a skipped test the exit status of pytest is 0. The report also shows an expected failure (xfail) as skipped,
although the test has run.
"""

import sys
import xml.etree.ElementTree as ET

LINES_OF_A_FAILURE = 25
CHARACTERS_OF_A_MESSAGE = 150

root = ET.parse(sys.argv[1]).getroot()  # noqa: S314  our own pytest wrote it
cases = list(root.iter("testcase"))
skipped = 0
failures = []
for case in cases:
    name = f"{case.get('classname')}::{case.get('name')}"
    for problem in [*case.findall("failure"), *case.findall("error")]:
        text = (problem.text or problem.get("message") or "").strip().splitlines()
        message = (problem.get("message") or "").partition("\n")[0][:CHARACTERS_OF_A_MESSAGE]
        failures.append(f"failed: {name}: {message}")
        print(f"failed: {name}", *text[-LINES_OF_A_FAILURE:], sep="\n    ")
    for skip in case.findall("skipped"):
        if skip.get("type") != "pytest.xfail":
            skipped += 1
            print(f"skipped: {name}: {skip.get('message')}")
# All names once more, in a few lines, for a reader who sees only the end.
print(*failures, sep="\n", end="\n" if failures else "")
print(f"{len(cases)} tests, {skipped} of them skipped")
sys.exit(bool(skipped) or not cases)
