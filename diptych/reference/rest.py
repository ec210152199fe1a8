"""The page about the REST API, from the gateway's own OpenAPI description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diptych.reference.markdown import code, document, table
from services.gateway.app import create
from services.gateway.settings import GatewaySettings
from shared.problems import MEDIA_TYPE

Node = Mapping[str, Any]

_TOP = """
The same description, to be tried out, is at `/docs` of a running gateway, and as JSON at `/openapi.json`. Sizes and
limits here are the defaults; [settings](settings.md) change them. Refusals are the [problems](../errors.md)
that the tables name.
"""


def page() -> str:
    description = create(GatewaySettings.model_construct()).openapi()
    schemas: Node = description["components"]["schemas"]
    sections: dict[str, list[str]] = {}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            title = operation.get("tags", ["service"])[0]
            sections.setdefault(title, []).append(_operation(f"{method.upper()} {path}", operation, schemas))
    routes = [block for title, group in sections.items() for block in (f"## {title.capitalize()}", *group)]
    answers = [_schema(name, schemas[name]) for name in _answers(description["paths"], schemas)]
    return document(
        "REST API", description["info"]["description"], _TOP, *routes, "## Parts of requests and answers", *answers
    )


def _operation(name: str, operation: Node, schemas: Node) -> str:
    blocks = [f"### {code(name)}", f"**{operation['summary']}.** {operation.get('description', '')}".strip()]
    rows = [
        [code(one["name"]), one["in"], _type(one["schema"]), _default(one, one["schema"]), _meaning(one)]
        for one in operation.get("parameters", [])
    ]
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        schema = _followed(body["schema"], schemas)
        where = "form" if kind == "multipart/form-data" else kind
        rows += [[code(field), where, *cells] for field, *cells in _fields(schema)]
    if rows:
        blocks.append(table(["name", "in", "type", "default", "meaning"], rows))
    blocks.append(table(["status", "answer"], _responses(operation["responses"])))
    return "\n\n".join(blocks)


def _responses(responses: Node) -> Iterator[list[str]]:
    for status, response in responses.items():
        yield [status, ", ".join(_answer(response.get("content", {}))) or response["description"]]


def _answer(content: Node) -> Iterator[str]:
    for kind, body in content.items():
        schema = body.get("schema", {})
        if "examples" in body and kind == MEDIA_TYPE:
            yield from (f"[{code(slug)}](../errors.md#{slug})" for slug in body["examples"])
        elif schema.get("$ref", "").endswith("/HTTPValidationError"):  # what FastAPI supposes; ours is a problem, too
            yield "[`invalid-request`](../errors.md#invalid-request)"
        else:
            yield _type(schema) if "$ref" in schema else code(kind)


def _answers(paths: Node, schemas: Node) -> list[str]:
    """The names of all schemas that answers, and fields of requests, are made of, each after the one that first needs
    it."""
    found: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, Mapping):
            if "$ref" in node:
                name = node["$ref"].rsplit("/", 1)[1]
                if name not in found:
                    found.append(name)
                    visit(schemas[name])
            else:
                for below in node.values():
                    visit(below)
        elif isinstance(node, list):
            for below in node:
                visit(below)

    for methods in paths.values():
        for operation in methods.values():
            for body in operation.get("requestBody", {}).get("content", {}).values():
                visit(_followed(body["schema"], schemas).get("properties", {}))
            for status, response in operation["responses"].items():
                if status.startswith("2"):
                    visit(response.get("content", {}))
    return found


def _schema(name: str, schema: Node) -> str:
    rows = [[code(field), *cells] for field, *cells in _fields(schema)]
    blocks = [f"### {code(name)}", schema.get("description", "").replace("``", "`")]
    return "\n\n".join([*filter(None, blocks), table(["field", "type", "default", "meaning"], rows)])


def _fields(schema: Node) -> Iterator[list[str]]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        yield [name, _type(field), _default({"required": name in required}, field), _meaning(field)]


def _meaning(node: Node) -> str:
    return str(node.get("description", ""))


def _followed(schema: Node, schemas: Node) -> Node:
    return schemas[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def _default(owner: Node, schema: Node) -> str:
    if owner.get("required"):
        return "required"
    value = schema.get("default")
    return "" if value is None or value == "" else code(_plain(value))


def _plain(value: Any) -> str:
    return (
        str(value).lower() if isinstance(value, bool) else f"{value:.15g}" if isinstance(value, float) else str(value)
    )


def _type(schema: Node) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{code(name)}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(code(str(value)) for value in schema.get("enum") or [schema["const"]])
    return _unnamed(schema)


def _unnamed(schema: Node) -> str:
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}" + _bounds(schema, "minItems", "maxItems", "items")
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, Mapping) and values else "object"
    if kind == "string" and schema.get("contentMediaType") == "application/octet-stream":
        return "file"
    if kind == "string":
        return "string" + _bounds(schema, "minLength", "maxLength", "characters")
    return str(kind) + _bounds(schema, "minimum", "maximum", "")


def _bounds(schema: Node, low: str, high: str, unit: str) -> str:
    least, most = (_plain(schema[key]) if key in schema else "" for key in (low, high))
    if not least and not most:
        return ""
    said = f"{least} to {most}" if least and most else f"from {least}" if least else f"up to {most}"
    return ", " + f"{said} {unit}".strip()
