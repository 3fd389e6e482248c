"""Conversations as the prompt a model was trained on: the artifact's chat template, rendered in a sandbox.

Templates are Jinja programs that come with models, so they are not trusted: they see plain data only, in jinja2's immutable sandbox, and
everything that could grow (loops, macros, printed and joined text) is paid from one budget. Variables, options and functions are those with
which Hugging Face's libraries render, because templates are written for these.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from kexport.runtime.contract.errors import InvalidInputError

LARGEST_TEMPLATE = 1 << 20
BUDGET = 32_000_000  # characters that one rendering may make, and _STEP for each of its steps: some seconds at most
_LONGEST_NUMBER_BITS = 4096
_STEP = 64  # what a round of a loop, a call of a macro, or an element of a printed list costs: as much time as so many characters
_WIDEST_INDENT = 16
# What templates use. Left out: filters whose result's size is a number in the template (center, format, wordwrap), and those for web pages.
_FILTERS = (
    "abs", "batch", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last",
    "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "safe", "select", "selectattr",
    "sort", "sum", "title", "trim", "unique", "upper",
)  # fmt: skip
_NO_ROLE_HINT = 'for example [{"role": "user", "content": "Hello"}]'


class ChatTemplate:
    """A compiled template. `tokens`: the variables `bos_token`, `eos_token`, ... as they are spelled."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        """Raises jinja2.TemplateSyntaxError for a template that is none."""
        self._environment = _Environment()
        self._template = compile_template(source, self._environment)
        self._tokens = dict(tokens)

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The prompt for a conversation: `messages` are dicts with `role` and, as a rule, `content`.

        `add_generation_prompt`: end with what begins the model's answer. `variables`: further ones that this template knows, such as `tools`.
        Raises InvalidInputError: KX546 where the template refuses the conversation or fails, KX547 where it makes too much, KX548 for
        messages that are none.
        """
        given = {"messages": _plain_messages(messages), "tools": None, "documents": None, **_plain(variables, "variables")}
        self._environment.budget.refill()
        try:
            return self._template.render(**self._tokens, **given, add_generation_prompt=add_generation_prompt)
        except _BudgetSpent as error:
            hint = "it may loop without end; see chat_template.jinja in the artifact"
            raise InvalidInputError("KX547", "the chat template does more than any conversation needs", hint=hint) from error
        except _Refused as error:
            raise InvalidInputError("KX546", f"the chat template refuses this conversation: {error}") from error
        except Exception as error:  # whatever the template's expressions raise: it is a program of somebody else's
            message = f"the chat template fails on this conversation: {type(error).__name__}: {error}"
            raise InvalidInputError("KX546", message, hint="does each message have what the template expects, such as `content`?") from error


def compile_template(source: str, environment: jinja2.Environment | None = None) -> jinja2.Template:
    """The template as the sandbox runs it. Raises jinja2.TemplateSyntaxError, which knows the line."""
    if len(source) > LARGEST_TEMPLATE:
        raise jinja2.TemplateSyntaxError(f"it is longer than {LARGEST_TEMPLATE} characters", 1)
    try:
        return (environment or _Environment()).from_string(source)
    except jinja2.TemplateSyntaxError:
        raise
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:  # nested too deeply, or no Python can come of it
        raise jinja2.TemplateSyntaxError(f"it cannot be compiled: {error}", 1) from error


def _plain_messages(messages: Any) -> Any:
    plain = _plain(messages, "messages")
    if not isinstance(plain, list) or not plain:
        raise InvalidInputError("KX548", "a conversation is a list of messages", hint=_NO_ROLE_HINT)
    for number, message in enumerate(plain):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidInputError("KX548", f"message {number} is no dict with a `role`", hint=_NO_ROLE_HINT)
    return plain


def _plain(value: Any, name: str) -> Any:
    """A copy as JSON knows it: no object with methods of its own reaches a template."""
    try:
        return json.loads(json.dumps(list(value) if isinstance(value, tuple) else value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError("KX548", f"the chat's {name} hold more than text, numbers, lists and dicts: {error}") from error


class _BudgetSpent(SecurityError):
    """The template did too much."""


class _Refused(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self._left = BUDGET

    def refill(self) -> None:
        self._left = BUDGET

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise _BudgetSpent("the budget is spent")

    def pay(self, value: Any) -> Any:
        """`value`, its size paid for."""
        if isinstance(value, (str, bytes, list, tuple)):
            self.spend(len(value))
        return value

    def text(self, value: Any) -> str:
        """`str(value)`, paid for before it is made: lists may hold one list many times over."""
        pending = [value]
        while pending:
            current = pending.pop()
            if isinstance(current, str):
                self.spend(len(current))
            else:
                self.spend(_STEP)
                pending += [*current, *current.values()] if isinstance(current, dict) else current if isinstance(current, (list, tuple)) else ()
        return str(value)


class _Meter(NodeTransformer):
    """Puts a toll into every loop and macro, by the text it holds, and makes joins (`~`) pay for their result."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  (jinja2's naming)
        return self._metered(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._metered(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._metered(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _environment_call("join_paid", [nodes.List(node.nodes)], node.lineno)

    def _metered(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        toll = nodes.ExprStmt(_environment_call("toll", [nodes.Const(_STEP + text)], node.lineno), lineno=node.lineno)
        node.body.insert(0, toll)
        return node  # type: ignore[no-any-return]


def _environment_call(name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    """A call of the environment's own method, which no variable of the template can replace."""
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None, lineno=line)


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}` marks answers for training; here its body counts."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's declaration)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with Hugging Face's options, and a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        self.budget = _Budget()
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, autoescape=False, finalize=self._printed, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        self.filters = {name: self._paid(self.filters[name]) for name in _FILTERS}
        self.filters |= {"tojson": self._to_json, "indent": self._indent, "replace": self._replace, "join": self._join, "string": self.budget.text}
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace", "joiner", "cycler")}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Meter().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree  # type: ignore[no-any-return]

    def toll(self, amount: int) -> str:
        """One round of a loop, or one call of a macro."""
        self.budget.spend(amount)
        return ""

    def join_paid(self, parts: list[Any]) -> str:
        """`a ~ b`."""
        return "".join(self.budget.text(part) for part in parts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Operators whose result may be much larger than their operands: checked before, paid after."""
        if operator == "%" and isinstance(left, (str, bytes)):
            raise SecurityError("text cannot be formatted with % in a chat template")
        if operator == "*":
            self._check_repetition(left, right)
            self._check_repetition(right, left)
        if operator == "**" and _bits(left) * abs(right if isinstance(right, int) else 1) > _LONGEST_NUMBER_BITS:
            raise SecurityError("a number grows too large")
        if operator == "*" and _bits(left) + _bits(right) > _LONGEST_NUMBER_BITS:
            raise SecurityError("a number grows too large")
        return self.budget.pay(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Methods and functions: what text they make is paid; widths and counts must be of a text's size."""
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            name = function.__name__
            if name in ("format", "format_map", "translate", "expandtabs", "zfill", "ljust", "rjust", "center"):
                raise SecurityError(f"`{name}` is not there in a chat template")
            if name == "replace" and len(args) > 1:
                given = {key: value for key, value in kwargs.items() if not key.startswith("_")}  # jinja2 adds its own, such as `_loop_vars`
                return self._replace(owner, *args, **given)
            if name == "join" and args:
                return self._join(args[0], owner)
        return self.budget.pay(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        """`"{}".format` would come with its own way around `call`."""
        if isinstance(getattr(value, "__self__", None), str) and value.__name__ in ("format", "format_map"):
            raise SecurityError(f"`{value.__name__}` is not there in a chat template")
        return None

    def _check_repetition(self, sequence: Any, times: Any) -> None:
        if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(times, int):
            self.budget.spend(len(sequence) * max(times, 0))

    def _printed(self, value: Any) -> Any:
        return self.budget.text(value)

    def _paid(self, function: Any) -> Any:
        """A filter whose result is paid for. jinja2 reads from the function what it wants to be given first, so that is kept."""

        def paid(*args: Any, **kwargs: Any) -> Any:
            return self.budget.pay(function(*args, **kwargs))

        for attribute in ("jinja_pass_arg", "jinja_async_variant"):
            if hasattr(function, attribute):
                setattr(paid, attribute, getattr(function, attribute))
        return paid

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        whole, old, new = self.budget.text(text), self.budget.text(old), self.budget.text(new)
        places = whole.count(old) if count is None or count < 0 else min(whole.count(old), count)
        self.budget.spend(places * len(new))
        return whole.replace(old, new, -1 if count is None else count)

    def _join(self, values: Any, separator: Any = "", attribute: Any = None) -> str:
        parts = [self.budget.text(value if attribute is None else self.getitem(value, attribute)) for value in values]
        self.budget.spend(len(parts) * len(str(separator)))
        return str(separator).join(parts)

    def _indent(self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        margin = str(self.call_binop(None, "*", " ", width)) if isinstance(width, int) else width
        lines = self.budget.text(text).splitlines()
        self.budget.spend(len(lines) * len(margin))
        return "\n".join(margin + line if (first or number) and (line or blank) else line for number, line in enumerate(lines))

    def _to_json(
        self, value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        """JSON as it is, not escaped for web pages."""
        if isinstance(indent, int) and indent > _WIDEST_INDENT:
            raise SecurityError("such an indent is not there in a chat template")
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        pieces = []
        for piece in encoder.iterencode(value):
            self.budget.spend(_STEP + len(piece))
            pieces.append(piece)
        return "".join(pieces)


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _raise_exception(message: str) -> None:
    raise _Refused(str(message))


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)  # noqa: DTZ005  (the user's own clock, as templates expect)
