"""The strings a written tokenizer must get right: hard ones by hand, the vocabulary's own, and seeded random mixtures."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

SEED = 20_240_607
RANDOM_STRINGS = 2_000
LOOK_ALIKE_STRINGS = 200
LONGEST_RANDOM = 40
LONG_RUN = 300
BYTE_STRINGS = 200
LONGEST_BYTE_STRING = 24

ORDINARY = (
    "Hello world",
    "The quick brown fox jumps over the lazy dog.",
    "I want to say that this is, after all, a perfectly ordinary sentence.",
    "It was the best of times, it was the worst of times; it was the age of wisdom.",
    "What's the time? They'll say it's half past seven, won't they?",
    "In 1984, 12345678 people paid 3.14 dollars (or 1,000,000 yen).",
    "First line\nSecond line\n\nA new paragraph.",
    "def add(x, y):\n    return x + y\n",
)
HARD = (
    "",
    " ",
    "  ",
    "\n",
    "\t",
    "a",
    " a",
    "a ",
    "  leading and trailing  ",
    "a\nb\n\n\nc\t\td \r\n e\r",
    " " * LONG_RUN,
    "\n" * LONG_RUN,
    "x" * LONG_RUN,
    "a " * LONG_RUN,
    "word" + " " * LONG_RUN + "word",
    "don't I'M they'LL we've you'Re he'D I's 'tis",
    "12345678 3.14 1,000,000 0x1F 1e-9 \u00bd \u2460\u2461\u2462 \u2167 \u0661\u0662\u0663 \u0967\u0968\u0969 \uff11\uff12\uff13",
    "na\u00efve caf\u00e9 \u2013 \u201cquotes\u201d \u2026 \ufb01 \uff21\uff22\uff23 \u338f \ufdfa",
    "e\u0301 vs \u00e9, A\u030a vs \u00c5, o\u0323\u0308\u0302, \u0344, Z\u0351\u036b\u0343\u036a\u0302\u036b",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3068\u6f22\u5b57\u3001\u304b\u306a\u3002",
    "\u4e2d\u6587\u5b57\u7b26 \ud55c\uad6d\uc5b4",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440! \u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05dc\u05d5\u05dd \u202eright to left\u202c \u200fmark",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u092a\u093e\u0920 \u0e44\u0e17\u0e22 \u1019\u103c\u1014\u103a\u1019\u102c",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f1e9\U0001f1ea \U0001f937\U0001f3fd\u200d\u2640\ufe0f \u2764\ufe0f",
    "zero\u200bwidth nb\u00a0sp thin\u2009sp \u3000wide \u202fnarrow \ufeffbom \u2028line \u2029paragraph \x85next",
    "\x00", "\x00\x01 control \x7f \x1b[0m \x0b\x0c", "NUL\x00in the middle",
    "\ufffd\ufffe\uffff \ue000 \U000e0001 \U0010ffff",
    "\u2581under\u2581score \u2581\u2581 \u0120 \u010a \u0100\u0101 <0x0A> <0xE4>",
    "<|endoftext|> <s> </s> <pad> <unk> <mask> <bos> <eos> [CLS] [PAD] <start_of_turn>user",
    "a<s>b</s>c<pad>d<unk>e<bos>f<eos>g<mask>h<|im_end|>",
    "<s", "s>", "< s >", "<S>", "</ s>", "<<s>>", "<|endoftext", "\\<s\\>",
    "def f(x):\n    if x > 0:\n        return x**2  # code\n\telse: pass\n",
    "{\"key\": [1, 2.5, null], 'other': \"\\u00e9\\n\"}",
    "https://example.org/path?query=1&other=%20#fragment user@example.org",
    "CamelCaseAndsnake_case and kebab-case ALLCAPS mIxEd",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "......", "-----", "????!!!!", "((((()))))",
)  # fmt: skip
_POOL = (
    list("abcdefghijklmnopqrstuvwxyzABCDE0123456789     \n\n\t\r.,;:!?'\"-_()[]{}<>/\\|@#$%^&*+=~`")
    + list("\u00e4\u00df\u00f1\u00e9\u0301\u0308\u4e2d\u6587\u65e5\u672c\u043a\u0438\u0430\u03b1\u0414\u0639\u05e9\u0939\u093f\u0e01\uac00")
    + [
        "\u00a0",
        "\u2009",
        "\u200b",
        "\u200d",
        "\u3000",
        "\u2581",
        "\x00",
        "\x7f",
        "\ufe0f",
        "\U0001f44d",
        "\U0001f3fd",
        "\U0001f468\u200d\U0001f469",
    ]
    + ["the", " the", " of", "ing", "'s", "'ll", "  ", "    ", "\n\n", "<s>", "</s>", "<0x41>", "<unk>"]
)


def proof_strings(special_tokens: Sequence[str], pieces: Sequence[str]) -> list[str]:
    """At least 2,000 distinct strings, always the same ones for the same arguments.

    `special_tokens`: spelled out inside text here, as a user might type them. `pieces`: a sample of the vocabulary, as text.
    """
    source = random.Random(SEED)
    strings: list[str] = [*ORDINARY, *HARD]
    strings += _special_token_strings(special_tokens)
    strings += _surrogate_strings()
    strings += _byte_strings(source)
    strings += _random_strings(source, _POOL, RANDOM_STRINGS)
    strings += _random_strings(source, [*_POOL, *special_tokens], LOOK_ALIKE_STRINGS)
    strings += _random_strings(source, [*pieces, " "], LOOK_ALIKE_STRINGS)
    return list(dict.fromkeys(strings))


def _special_token_strings(tokens: Iterable[str]) -> list[str]:
    forms = ("{0}", "a{0}b", " {0} ", "{0}{0}", "x {0}\n", "{0} y")
    return (
        [form.format(token) for token in tokens for form in forms] + [token[:-1] for token in tokens] + [token.upper() for token in tokens]
    )


def _surrogate_strings() -> list[str]:
    """Lone surrogates, as they arrive after a repair: replaced, since no tokenizer accepts them."""
    broken = ("\ud800", "a\udfffb", "\ude00\ud83d", "ok \ud83d cut")
    return [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in broken]


def _byte_strings(source: random.Random) -> list[str]:
    """Random bytes read as UTF-8 with replacement."""
    return [source.randbytes(source.randint(1, LONGEST_BYTE_STRING)).decode("utf-8", "replace") for _ in range(BYTE_STRINGS)]


def _random_strings(source: random.Random, pool: Sequence[str], count: int) -> list[str]:
    return ["".join(source.choices(pool, k=source.randint(1, LONGEST_RANDOM))) for _ in range(count)]
