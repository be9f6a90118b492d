"""Writes a workflow without YAML's anchors: each alias becomes a copy of what it stands for.

Usage: expand.py WORKFLOW RESULT
"""

import sys

from ruamel.yaml import YAML

# YAML 1.2, in which `on` is a name and not a boolean, as GitHub reads it.
yaml = YAML(typ="safe", pure=True)
yaml.default_flow_style = False
yaml.width = 10_000
yaml.sort_base_mapping_type_on_output = False
yaml.representer.ignore_aliases = lambda *_: True

source, result = sys.argv[1:]
with open(source, encoding="utf-8") as read, open(result, "w", encoding="utf-8") as written:
    yaml.dump(yaml.load(read), written)
