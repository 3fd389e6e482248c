"""The chat template of a transformers directory: `chat_template.jinja`, or the one in `tokenizer_config.json`. Read, and refused if malformed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kexport.converter.sources.documents import read_bytes, read_document
from kexport.converter.sources.stores import Store
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError

TEMPLATE_FILE, CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"
_DEFAULT = "default"
_KEY = "chat_template"
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class ChatFiles:
    """`template`: its text. `tokens`: the special tokens it may name, as the source spells them."""

    template: str
    tokens: dict[str, str]


def read_chat_files(store: Store, handle: str) -> ChatFiles | None:
    """The source's chat template; None for a base model. A file of its own counts more than the config, as in transformers.

    Raises:
        InvalidInputError: KX445, it is no template; with the line. UnsupportedError: KX402, jinja2 is not installed.
    """
    config_path = store.find(CONFIG_FILE)
    config = read_document(config_path) if config_path is not None else {}
    path = store.find(TEMPLATE_FILE)
    name, template = (TEMPLATE_FILE, _text(read_bytes(path, TEMPLATE_FILE))) if path is not None else (CONFIG_FILE, _chosen(config.get(_KEY)))
    if not template:
        return None
    _check(template, name, handle)
    return ChatFiles(template, _tokens(config))


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError("KX445", f"{TEMPLATE_FILE} is not UTF-8 text: {error}", hint="fetch the file again") from error


def _chosen(templates: Any) -> str:
    """The template of the config. Of several named ones the default: the others are for tools and documents."""
    if isinstance(templates, str):
        return templates
    entries = [entry for entry in templates if isinstance(entry, Mapping)] if isinstance(templates, list) else []
    named = {entry.get("name"): entry.get("template") for entry in entries}
    chosen = named.get(_DEFAULT, next(iter(named.values())) if len(named) == 1 else "")
    return chosen if isinstance(chosen, str) else ""


def _tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Spelled as they are, or with their flags beside them."""
    values = {name: config.get(name) for name in _TOKENS}
    spelled = {name: value.get("content") if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: value for name, value in spelled.items() if isinstance(value, str)}


def _check(template: str, name: str, handle: str) -> None:
    try:
        import jinja2
        from kexport.runtime.chat import compile_template
    except ModuleNotFoundError as error:
        hint = 'pip install "kexport[convert]"'
        raise UnsupportedError("KX402", "this source has a chat template, which needs the package `jinja2`", hint=hint) from error
    try:
        compile_template(template)
    except jinja2.TemplateSyntaxError as error:
        hint = f"correct it, take it out of {name}, or convert with --no-tokenizer"
        message = f"the chat template in {name} of {handle} is malformed in line {error.lineno}: {error.message}"
        raise InvalidInputError("KX445", message, hint=hint) from error
