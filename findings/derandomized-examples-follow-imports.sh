#!/usr/bin/env bash
# hypothesis 6.170.17: with derandomize=True the examples of a test depend on which other modules are imported.
#
# Since 6.131 hypothesis takes constants (numbers, strings) out of the source of every local module that is loaded, and
# draws from these now and then. "Local" is whatever lies outside of site-packages, so the modules of the package under
# test and of its tests. Derandomized, the choice is seeded by the test's own source, but it is a choice among what is
# loaded: running one test file alone, in another order, or beside a new file changes what all of them try. So a suite
# that is green can turn red, and a failing example can go away, without a change to the test or to what it tests.
#
# Seen:  200 examples of st.integers() and st.text(): the same in two equal runs; other ones once a module of constants
#        that nothing uses is imported, which then turn up among them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet hypothesis==6.170.17
cat >"$folder/unused.py" <<'PYTHON'
NUMBERS = [987654321, 123123123, 555444333]
NAMES = ["a sentence that nobody draws", "another one of these"]
PYTHON
cat >"$folder/examples.py" <<'PYTHON'
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

if sys.argv[1] == "import":
    import unused

seen = []


@settings(derandomize=True, max_examples=200, database=None, deadline=None)
@given(st.integers(), st.text())
def test(number, text):
    seen.append((number, text))


test()
print(ascii(seen))
PYTHON
cd "$folder"
run() { venv/bin/python examples.py "$1"; }
run plain >one; run plain >two; run import >three
cmp one two
if cmp -s one three; then echo "the import changed nothing"; exit 1; fi
grep -q -e 987654321 -e 123123123 -e 555444333 -e 'nobody draws' three
! grep -q -e 987654321 -e 'nobody draws' one
echo "two runs alike; an unused import changes the examples"
