#!/usr/bin/env bash
# pydantic 2.14.4: a bound behind a BeforeValidator is checked, but its JSON schema has the key "ge" for "minimum".
#
# Annotated[int, Field(ge=1), BeforeValidator(f)] and Annotated[int, BeforeValidator(f), Field(ge=1)] refuse the same
# values. The second one's JSON schema says {"ge": 1}, which is no keyword of JSON schema: whoever reads the schema (forms,
# OpenAPI clients, generated documentation, the JSON mode of a language model) finds no bound at all, without a warning.
#
# Seen:  before {'minimum': 1, 'type': 'integer'}   behind {'ge': 1, 'type': 'integer'}   both refuse 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet pydantic==2.14.4
"$folder/venv/bin/python" - <<'PYTHON'
from typing import Annotated

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

same = BeforeValidator(lambda value: value)
before = TypeAdapter(Annotated[int, Field(ge=1), same])
behind = TypeAdapter(Annotated[int, same, Field(ge=1)])
print("before", before.json_schema(), "behind", behind.json_schema())
for adapter in (before, behind):
    try:
        adapter.validate_python(0)
        raise SystemExit("0 is taken")
    except ValidationError as error:
        assert error.errors()[0]["type"] == "greater_than_equal"
assert before.json_schema() == {"minimum": 1, "type": "integer"}
assert behind.json_schema() == {"ge": 1, "type": "integer"}
PYTHON
