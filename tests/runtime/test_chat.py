"""Chat templates: rendered as Hugging Face's libraries render them, without a way out or an end that never comes; `lm.chat()` on top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import msgspec
import pytest
from kexport import runtime
from kexport.runtime.chat import ChatTemplate, compile_template
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.files import sha256_file
from kexport.runtime.contract.manifest import Chat, File, Packer
from kexport.runtime.contract.manifest_io import write_manifest

from .byte_tokenizer import END_ID, PAD_ID, START_ID
from .gqa_model import Sizes, write_decoder, write_encoder_decoder
from .test_language_model import VOCABULARY, add_tokenizer

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
MESSAGES = [
    {"role": "user", "content": "  Is <b> & 'q' safe?  "},
    {"role": "assistant", "content": "größe 日本"},
    {"role": "user", "content": "again"},
]
TURNS = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception('only users and assistants, not ' ~ message['role']) }}
    {%- endif %}
[{{ message['role'] | upper }}] {{ message['content'] | trim }}{{ eos_token if message.role == 'assistant' }}
{% endfor %}
{% if add_generation_prompt %}
[ASSISTANT] {% endif %}"""
TEMPLATES = {
    "turns": TURNS,
    "control": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ loop.index }}:{{ m.content }};{% if loop.last %}{% break %}{% endif %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0, text='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.text = ns.text + m.content[:2] ~ ns.n %}{% endfor %}{{ ns.text * 2 }}",
    "json": "{{ messages | tojson }}\n{{ messages[0] | tojson(indent=2) }}\n{{ messages | map(attribute='role') | join(', ') }}",
    "macro": "{% macro say(m, mark='#') %}{{ mark }}{{ m.content | replace('a', 'A') | indent(2) }}{% endmacro %}{% for m in messages[::-1] %}{{ say(m) }}\n{% endfor %}",
    "methods": "{% for m in messages %}{{ m.content.strip().split(' ')[-1].upper() }}{{ m.get('name', 'nobody') }}{{ '|'.join(['x', m.role]) }}{% endfor %}",
    "tests": "{% if tools is none and tools is not defined %}x{% endif %}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ missing }}{{ messages[0].missing is defined }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "trim": "  {% if true %}\n  a\n  {% endif %}\n{# note #}\nb {{- ' c' -}} \n d\n",
    "variables": "{{ enable_thinking | default(true) }}{{ tools | length if tools else 0 }}{{ add_generation_prompt }}{{ [1, 2.5, none, true] }}",
}
BOMBS = [
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x | replace('b', ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('', ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x | list | join(ns.x) %}{% endfor %}",
    "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ x }}",
    "{% set x = [1] %}" + "{% set x = x + x %}" * 60,
    "{{ 'x' * 10 ** 12 }}",
    "{{ [1] * 10 ** 12 }}",
    "{{ 'a' | indent(10 ** 12) }}",
]
ESCAPES = [
    "{{ messages.append(1) }}", "{{ messages[0].update(role='x') }}", "{{ cycler.__init__.__globals__ }}", "{{ ''.__class__.__mro__ }}",
    "{{ messages.__class__.__base__.__subclasses__() }}", "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}",
    "{{ '{0.__class__}'.format(messages) }}", "{{ '%99999999999d' % 1 }}", "{{ 'a'.ljust(10 ** 12) }}", "{{ 10 ** (10 ** 6) }}",
    "{{ raise_exception.__globals__ }}", "{{ messages | map('format') | list }}", "{{ messages | attr('__class__') }}", "{{ range(10 ** 12) }}",
    "{{ (messages | tojson).format }}", "{{ environment.toll() }}", "{{ lipsum(n=10 ** 6) }}", "{% for x in 5 %}{% endfor %}",
]  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_rendering_is_that_of_transformers(name: str, add_generation_prompt: bool) -> None:
    """The same text, character for character, with the same variables."""
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    variables = {"enable_thinking": False} if name == "variables" else {}
    arguments = {"add_generation_prompt": add_generation_prompt, **TOKENS, **variables}
    (expected,), _ = utilities.render_jinja_template(conversations=[MESSAGES], chat_template=TEMPLATES[name], **arguments)
    got = ChatTemplate(TEMPLATES[name], TOKENS).render(MESSAGES, add_generation_prompt=add_generation_prompt, **variables)
    assert got == expected


def test_turns() -> None:
    """Written out once, so that this holds without transformers, too."""
    text = ChatTemplate(TURNS, TOKENS).render(MESSAGES)
    assert text == "<s>[USER] Is <b> & 'q' safe?\n[ASSISTANT] größe 日本</s>\n[USER] again\n[ASSISTANT] "
    assert not ChatTemplate(TURNS, TOKENS).render(MESSAGES, add_generation_prompt=False).endswith("[ASSISTANT] ")


@pytest.mark.parametrize("source", BOMBS)
def test_what_grows_is_paid_for(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops in loops, text that doubles: ended by the budget, which the next rendering has anew."""
    monkeypatch.setattr("kexport.runtime.chat.BUDGET", 1_000_000)
    template = ChatTemplate("{% if messages | length > 1 %}" + source + "{% endif %}", {})
    with pytest.raises(InvalidInputError, match="KX547"):
        template.render(MESSAGES)
    assert template.render(MESSAGES[:1]) == ""


@pytest.mark.parametrize("source", ESCAPES)
def test_there_is_no_way_out(source: str) -> None:
    """Python's insides, other files, changes of the caller's messages: an error, or nothing at all."""
    messages = [dict(message) for message in MESSAGES]
    try:
        text = ChatTemplate(source, {}).render(messages)
    except (InvalidInputError, jinja2.TemplateSyntaxError) as error:
        text = "" if not isinstance(error, InvalidInputError) else {"KX546": "", "KX547": ""}[error.code]
    assert text == ""
    assert messages == MESSAGES


def test_a_long_conversation_is_within_the_budget() -> None:
    """Two thousand messages of a thousand characters."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": "x" * 1000} for n in range(2000)]
    assert len(ChatTemplate(TURNS, TOKENS).render(messages)) > 2_000_000


@pytest.mark.parametrize(
    ("source", "line"), [("a\n{% if %}", 2), ("{{ x", 1), ("a\nb\n{% endfor %}", 3), ("{% for x in y %}", 1), ("{{ x | magic }}", 1), ("x" * 2_000_000, 1)]
)
def test_a_malformed_template_has_a_line(source: str, line: int) -> None:
    """Found when it is compiled, not when somebody talks."""
    with pytest.raises(jinja2.TemplateSyntaxError) as caught:
        compile_template(source)
    assert caught.value.lineno == line


def test_deep_nesting_is_malformed() -> None:
    """A template that only a deeper stack could compile."""
    with pytest.raises(jinja2.TemplateSyntaxError):
        compile_template("{{ " + "(" * 5000 + ")" * 5000 + " }}")
    with pytest.raises(jinja2.TemplateSyntaxError):
        compile_template("{% if x %}" * 500 + "{% endif %}" * 500)


def test_the_templates_own_refusal_and_wrong_messages() -> None:
    """`raise_exception` is said in the template's words; what is no conversation is refused before it runs."""
    template = ChatTemplate(TURNS, TOKENS)
    with pytest.raises(InvalidInputError, match=r"KX546.*only users and assistants, not system"):
        template.render([{"role": "system", "content": "x"}])
    with pytest.raises(InvalidInputError, match=r"KX546.*"):
        template.render([{"role": "user", "content": None}, {"role": 5 * "x"}])
    for wrong in ([], "Hello", {"role": "user"}, [{"content": "x"}], ["x"], [{"role": 1}], [{"role": "user", "content": object()}], None):
        with pytest.raises(InvalidInputError, match="KX548"):
            template.render(wrong)  # type: ignore[arg-type]


def add_chat(directory: Path, template: str, tokens: dict[str, str] = TOKENS) -> None:
    """A chat template into an artifact with a tokenizer."""
    with runtime.load(directory, threads=1) as opened:
        manifest = opened.manifest
    path = directory / "chat_template.jinja"
    path.write_text(template, encoding="utf-8")
    file = File(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
    record = msgspec.structs.replace(manifest.tokenizer, chat=Chat(file=path.name, tokens=tokens))
    write_manifest(directory, msgspec.structs.replace(manifest, tokenizer=record, files=(*manifest.files, file)))


SIZES = Sizes(vocabulary=VOCABULARY, capacity=256)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A causal artifact with a tokenizer and without a chat template."""
    add_tokenizer(tmp_path, write_decoder(tmp_path, SIZES), {"prompt": Packer(start=(START_ID,), pad=PAD_ID, sequence_length=200)})
    return tmp_path


def test_an_answer_is_what_generate_makes_of_the_rendered_text(directory: Path) -> None:
    """One conversation gives a text, several give a list; the tokenizer's own start token is there once, others reach it as text."""
    add_chat(directory, TURNS)
    with runtime.load(directory, threads=1) as model:
        model.compile(sampler="greedy")
        prompt = model.render_chat(MESSAGES)
        assert prompt.startswith("[USER]") and "</s>" in prompt
        ids = model.tokenizer.encode([prompt])[0]  # type: ignore[union-attr]
        assert END_ID in ids and START_ID not in ids
        answer = model.chat(MESSAGES, max_length=160)
        assert isinstance(answer, str)
        assert answer == model.generate(prompt, max_length=160, strip_prompt=True)
        assert "".join(model.stream(prompt, max_length=160, strip_prompt=True)) == answer
        assert model.chat([MESSAGES, tuple(MESSAGES[:1])], max_length=160)[0] == answer
        with pytest.raises(InvalidInputError, match="KX548"):
            model.chat([])


def test_a_conversation_that_leaves_no_room_is_refused(directory: Path) -> None:
    """`generate()` would cut its end and answer nothing, as KerasHub does with long prompts."""
    add_chat(directory, TURNS)
    with runtime.load(directory, threads=1) as model:
        model.compile(sampler="greedy")
        length = 1 + len(model.tokenizer.encode([model.render_chat(MESSAGES)])[0])  # type: ignore[union-attr]
        assert model.chat(MESSAGES, max_length=length + 1, stop_token_ids=None)
        with pytest.raises(InvalidInputError, match=f"KX523.*{length} tokens, and there is room for {length - 1}"):
            model.chat(MESSAGES, max_length=length)


def test_an_encoder_gets_the_conversation(tmp_path: Path) -> None:
    """Of a seq2seq model the decoder's text is the answer."""
    packers = {"encoder": Packer(start=(START_ID,), end=(END_ID,), pad=PAD_ID, sequence_length=120), "decoder": Packer(start=(END_ID,), pad=PAD_ID, sequence_length=20)}
    add_tokenizer(tmp_path, write_encoder_decoder(tmp_path, SIZES), packers)
    add_chat(tmp_path, TURNS)
    with runtime.load(tmp_path, threads=1) as model:
        model.compile(sampler="greedy")
        assert model.chat(MESSAGES) == model.generate(model.render_chat(MESSAGES))


def test_a_base_model_has_no_chat(directory: Path) -> None:
    """Said as such, with and without the tokenizer."""
    for preprocessor in ("auto", None):
        with runtime.load(directory, preprocessor=preprocessor, threads=1) as model, pytest.raises(UnsupportedError, match="KX545"):  # type: ignore[arg-type]
            model.chat(MESSAGES)


def test_a_broken_template_in_an_artifact(directory: Path) -> None:
    """Text still works; talking says which line."""
    add_chat(directory, "a\n{% if %}")
    with runtime.load(directory, threads=1) as model:
        assert model.generate("a", max_length=4)
        with pytest.raises(InvalidInputError, match=r"KX549.*line 2"):
            model.chat(MESSAGES)


def test_the_command_line_prints_answers(directory: Path, capsys: Any) -> None:
    """`--chat`: each prompt is a user's message; streamed it is the same text; --json keeps the prompt as it was typed."""
    import json

    from click.testing import CliRunner
    from kexport.converter.cli import cli

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["generate", str(directory), *arguments, "--sampler", "greedy", "--max-length", "120"], prog_name="kexport")

    refused = run("hello", "--chat")
    assert (refused.exit_code, "KX545" in refused.stderr) == (4, True)
    add_chat(directory, TURNS)
    with runtime.load(directory, threads=1) as model:
        model.compile(sampler="greedy")
        answer = model.chat([{"role": "user", "content": "hello"}], max_length=120)
    assert run("hello", "--chat").stdout == answer + "\n"
    assert run("hello", "--chat", "--stream").stdout == answer + "\n"
    assert json.loads(run("hello", "--chat", "--json").stdout)["results"] == [{"prompt": "hello", "text": answer}]
    assert run("--token-ids", "1", "--chat").exit_code == 2
    crowded = CliRunner().invoke(cli, ["generate", str(directory), "hello", "--chat", "--max-length", "9"], prog_name="kexport")
    assert (crowded.exit_code, "KX523" in crowded.stderr, crowded.stdout) == (5, True, "")
