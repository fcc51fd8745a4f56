"""/docs: the OpenAPI document as one page for people. Made here, so that it needs no script and no other server."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; text-transform: capitalize; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: .4rem .8rem; }
details details { background: var(--soft); }
summary { cursor: pointer; overflow-wrap: anywhere; }
code, pre { font: .875rem/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-top: 1px solid var(--line); padding: .3rem .5rem; text-align: left; vertical-align: top; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 700; }
"""

Json = Mapping[str, Any]


def page(document: Json) -> str:
    """A whole HTML page. Everything from the document is escaped."""
    info = document["info"]
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append(_operation(method, path, operation, document))
    sections = "".join(
        f'<section><h2 id="{_text(tag)}">{_text(tag)}</h2>{"".join(parts)}</section>' for tag, parts in by_tag.items()
    )
    contents = " · ".join(f'<a href="#{_text(tag)}">{_text(tag)}</a>' for tag in by_tag)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(info['title'])}: API</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1><p>{_text(info['description'])} "
        'For programs: <a href="/openapi.json">openapi.json</a>.</p>'
        f"<nav>{contents}</nav>{sections}</main></body></html>"
    )


def _operation(method: str, path: str, operation: Json, document: Json) -> str:
    parts = [_parameters(operation), *_bodies("Request", operation.get("requestBody"), document)]
    rows = ""
    for status, response in operation["responses"].items():
        rows += f"<tr><td><code>{_text(status)}</code></td><td>{_text(response['description'])}</td></tr>"
    parts.append(f"<h4>Answers</h4><table>{rows}</table>")
    good = next(iter(operation["responses"].items()))
    parts += _bodies(f"Answer {good[0]}", good[1], document)
    return (
        f'<details><summary><code><span class="method">{_text(method.upper())}</span>{_text(path)}</code> '
        f"{_text(operation['summary'])}</summary>{''.join(parts)}</details>"
    )


def _parameters(operation: Json) -> str:
    rows = ""
    for parameter in operation["parameters"]:
        needed = "" if parameter["required"] else "optional"
        schema = {key: value for key, value in parameter["schema"].items() if key != "title"}
        rows += (
            f"<tr><td><code>{_text(parameter['name'])}</code></td><td>{_text(parameter['in'])} {needed}</td>"
            f"<td>{_text(parameter.get('description', ''))}</td><td><code>{_text(json.dumps(schema))}</code></td></tr>"
        )
    return f"<h4>Parameters</h4><table>{rows}</table>" if rows else ""


def _bodies(title: str, holder: Json | None, document: Json) -> Iterator[str]:
    for media, content in (holder or {}).get("content", {}).items():
        shown = json.dumps(_resolved(content["schema"], document), indent=2, ensure_ascii=False)
        yield (
            f"<details><summary>{_text(title)}: <code>{_text(media)}</code></summary>"
            f"<pre>{_text(shown)}</pre></details>"
        )


def _resolved(schema: Any, document: Json, above: frozenset[str] = frozenset()) -> Any:
    """The schema with its references filled in; one that contains itself is named instead."""
    if isinstance(schema, list):
        return [_resolved(item, document, above) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.rpartition("/")[2]
        if name in above:
            return {"$ref": name}
        return _resolved(document["components"]["schemas"][name], document, above | {name})
    return {key: _resolved(value, document, above) for key, value in schema.items() if key != "title"}


def _text(value: object) -> str:
    return html.escape(str(value))
