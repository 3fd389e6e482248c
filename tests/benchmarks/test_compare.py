"""The comparison of runtimes: its arithmetic, the void rule, what the page says, and one run of everything."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import compare
import pytest
from comparison import document as documents
from comparison import page, texts
from comparison.contestants import Contestant, contestants
from comparison.document import Conversion, Document, Work, make_document
from comparison.figures import Spread, common_start, speed_ratio, spread, steadiness
from comparison.machine import Machine
from comparison.rounds import Outcome, Result
from rivals.base import PRESET, Rival
from rivals.litert_lm import WORD, word_tokenizer
from rivals.registry import all_rivals
from visit import Visit

FAST, SLOW = 20e9, 15e9  # bytes per second
STEP_BYTES = 400_000_000
TOKENS = (5, 6, 7, 8)
WORK = Work(prompt_tokens=8, new_tokens=len(TOKENS), threads=2, rounds=7)
MACHINE = Machine("A Processor", ("x86_64", "avx2"), 2, "16384K", 24_000, "Linux", "3.11.2", 0.1, {"kexport": "0.1"})
NOTES = "\n\n## What holds it\n\nThe head.\n"


def visit(ms: float, *, bandwidth: float = FAST, tokens: tuple[int, ...] = TOKENS) -> Visit:
    """A visit that took `ms` a token."""
    return Visit(
        import_s=0.1, load_s=0.5, cold_first_token_ms=600.0, first_token_ms=500.0, ms_per_token=ms, cpu_ms_per_token=2 * ms,
        peak_rss_mb=1000.0, bandwidths=(bandwidth, bandwidth), reader="int64 or", tokens=tokens,
    )  # fmt: skip


def outcome(rival: str, target: str, *visits: Visit, error: str = "") -> Outcome:
    """A contestant's rounds."""
    contestant = Contestant(rival, target, rival, place="/somewhere/secret/model")
    return Outcome(contestant, tuple(Result(number, one, 700.0) for number, one in enumerate(visits, 1)), error)


def made(*outcomes: Outcome) -> Document:
    """Their document, of one ONNX artifact."""
    conversions = [Conversion("onnx", 500_000_000, {"write": 3.0}, STEP_BYTES)]
    return make_document(outcomes, WORK, MACHINE, conversions, parameters=125_000_000, date="2026-01-02", command="python compare.py")


@pytest.fixture
def usual() -> Document:
    """We need 21 ms, the vendor 22; the floor is 20. KerasHub was not installed."""
    return made(
        outcome("kexport", "onnx", visit(21.0), visit(23.0)),
        outcome("onnxruntime-genai", "onnx", visit(22.0), visit(22.0)),
        outcome("keras-hub-generate", PRESET, error="not installed: keras_hub"),
    )


def test_spread_has_the_median_and_both_ends() -> None:
    """The median is not the mean."""
    assert spread([1.0, 9.0, 2.0]) == Spread(2.0, 1.0, 9.0)


def test_speed_ratio_is_of_medians_and_its_ends_are_of_rounds() -> None:
    """Above 1 we are faster; rounds that only one of the two has make no pair."""
    ratio = speed_ratio({1: 20.0, 2: 25.0, 3: 50.0}, {1: 30.0, 2: 25.0})
    assert ratio == Spread(27.5 / 25.0, 1.0, 1.5)
    with pytest.raises(ValueError, match="no round"):
        speed_ratio({1: 20.0}, {2: 20.0})


@pytest.mark.parametrize(
    ("bandwidths", "is_void"),
    [
        ([{1: 100.0, 2: 114.0}, {1: 100.0, 2: 114.0}], False),
        ([{1: 100.0, 2: 116.0}, {1: 100.0, 2: 116.0}], True),
        ([{1: 100.0}, {1: 116.0}], True),
        ([{1: 100.0, 2: 80.0, 3: 100.0}, {1: 100.0, 2: 120.0, 3: 100.0}], False),
        ([{1: 100.0}, {}], False),
    ],
    ids=["steady", "rounds differ", "contestants differ", "single visits differ", "one failed"],
)
def test_void_rule(bandwidths: list[dict[int, float]], is_void: bool) -> None:
    """More than 15 % between rounds, or between what contestants had, voids a run; a single visit's outlier does not."""
    assert steadiness(bandwidths).is_void == is_void


def test_common_start() -> None:
    """Tokens up to the first that differs."""
    assert common_start([1, 2, 3], [1, 2, 4]) == 2
    assert common_start([1, 2], [1, 2, 4]) == 2
    assert common_start([], [1]) == 0


def test_share_of_the_floor_uses_the_bandwidth_around_each_visit() -> None:
    """20 ms at 20 GB/s; a slower memory has a higher floor."""
    entry = made(outcome("kexport", "onnx", visit(25.0), visit(25.0, bandwidth=SLOW))).entries[0]
    assert entry.figures is not None
    floor, share = entry.figures.floor_ms_per_token, entry.figures.share_of_floor
    assert floor is not None and (floor.min, floor.max) == pytest.approx((20.0, 400 / 15))
    assert share is not None and (share.min, share.max) == pytest.approx((0.8, 400 / 15 / 25))


def test_aims_are_judged(usual: Document) -> None:
    """20/22 of the floor is enough, the vendor's 22 against our 22 too."""
    assert [(aim.wanted, round(aim.found, 3), aim.is_reached) for aim in usual.aims] == [(0.9, 0.911, True), (0.97, 1.0, True)]
    assert [row[-1] for row in texts.aim_rows(usual)] == ["reached", "reached"]
    slow = made(outcome("kexport", "onnx", visit(30.0)), outcome("onnxruntime-genai", "onnx", visit(22.0)))
    assert [row[-1] for row in texts.aim_rows(slow)] == ["missed", "missed"]


def test_few_rounds_prove_nothing(usual: Document) -> None:
    """The same figures from fewer than seven rounds reach no aim."""
    quick = dataclasses.replace(usual, work=dataclasses.replace(WORK, rounds=6))
    assert {row[-1] for row in texts.aim_rows(quick)} == {"too few rounds"}


def test_only_vendors_of_the_fast_targets_are_aims() -> None:
    """KerasHub and the SavedModel's own loop are compared with, without a bound."""
    other = made(outcome("kexport", "savedmodel", visit(30.0)), outcome("loop", "savedmodel", visit(20.0)), outcome("keras", PRESET, visit(10.0)))
    assert len(other.ratios) == 2 and not other.aims


def test_a_rival_with_other_tokens_is_named_as_such() -> None:
    """Its arithmetic is not ours: whoever reads the ratio must know."""
    other = made(outcome("kexport", "onnx", visit(21.0)), outcome("fast", "onnx", visit(11.0, tokens=(5, 6, 1, 8))))
    assert other.aims[-1].what == "onnx: speed next to fast (gives other tokens: 2 of 4 equal)"
    assert texts.token_rows(other) == [["onnx", "kexport", "4/4"], ["onnx", "fast", "2/4"]]


def test_a_void_run_says_so_everywhere(tmp_path: Path) -> None:
    """First line of the page, and no aim counts as reached."""
    void = made(outcome("kexport", "onnx", visit(21.0), visit(21.0, bandwidth=SLOW)))
    page.write(tmp_path / "page.md", void, "")
    written = (tmp_path / "page.md").read_text()
    assert written.startswith("# Performance\n\n**VOID: the memory bandwidth varied by 33 % between rounds")
    assert {row[-1] for row in texts.aim_rows(void)} == {"void"}
    assert "reached" not in written


def test_the_page_says_all_that_is_known(usual: Document) -> None:
    """Figures, ratios, who was not measured and why, machine, date and command; no path, no plot that is not there."""
    text = page.page(usual, "performance.svg")
    for part in (
        "| onnx | kexport | 22.0 (21.0-23.0) | 44.0 (42.0-46.0) | 20.0 (20.0-20.0) | 91 % (87-95) |",
        "| onnx | onnxruntime-genai | 1.00 (0.96-1.05) |",
        "| KerasHub | keras-hub-generate | not installed: keras_hub |",
        "A Processor", "x86_64 avx2", "kexport 0.1", "2026-01-02", "    python compare.py", "![time per token](performance.svg)", "valid:",
    ):  # fmt: skip
        assert part in text, part
    assert "secret" not in text
    assert "![" not in page.page(usual, "")


def test_what_people_wrote_stays(usual: Document, tmp_path: Path) -> None:
    """The page can be made again without losing the text below the marker."""
    path = tmp_path / "page.md"
    page.write(path, usual, "")
    path.write_text(path.read_text().rstrip("\n") + NOTES)
    page.write(path, dataclasses.replace(usual, date="2027-01-01"), "")
    assert path.read_text().endswith(page.MARKER + NOTES)
    assert "2027-01-01" in path.read_text() and path.read_text().count(page.MARKER) == 1


def test_the_json_is_the_whole_document(usual: Document, tmp_path: Path) -> None:
    """Read back it is equal, and it names no place of the machine."""
    documents.write_document(tmp_path / "out.json", usual)
    assert documents.read_document(tmp_path / "out.json") == usual
    assert "secret" not in (tmp_path / "out.json").read_text()


def test_errors_lose_their_directories() -> None:
    """A failed visit's last words may hold paths."""
    assert documents.without_directories("no file '/home/me/x/model.onnx', 3/4 done") == "no file 'model.onnx', 3/4 done"


def test_nobody_ran() -> None:
    """No figures is an error with the reasons, not an empty page."""
    with pytest.raises(ValueError, match="kexport: no engine"):
        made(outcome("kexport", "onnx", error="no engine"))


def test_who_meets_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours on every target first, each vendor on its own, KerasHub last; one that cannot run is listed with the reason."""
    monkeypatch.setattr(Rival, "why_not", lambda self: "" if self.runs_on is None else "because")
    found = contestants({"onnx": tmp_path / "onnx", "toy": tmp_path / "toy", PRESET: tmp_path}, tmp_path)
    assert [(one.target, one.rival, one.why_not) for one in found] == [
        ("onnx", "kexport", ""), ("onnx", "onnxruntime-genai", "because"), ("toy", "kexport", ""),
        (PRESET, "keras-hub-generate", "because"), (PRESET, "keras-hub-generate-jit", "because"),
    ]  # fmt: skip


def test_every_rival_says_what_it_is() -> None:
    """Labels are different, and none loads a library before it is asked to."""
    rivals = all_rivals()
    assert len({rival.label for rival in rivals.values()}) == len(rivals) > 5
    code = "import sys; from rivals.registry import all_rivals; all_rivals(); print(sorted({'tensorflow', 'openvino', 'litert_lm'} & set(sys.modules)))"
    folder = str(Path(compare.__file__).parent)
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_words_of_the_made_up_tokenizer_are_ids() -> None:
    """Each id has one word, and words run together can be told apart."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(word_tokenizer(300)))
    assert tokenizer.get_vocab_size() == 300
    assert tokenizer.encode("t7 t299 t0").ids == [7, 299, 0]
    assert [int(number) for number in WORD.findall("t7t299 t0")] == [7, 299, 0]


def test_the_plot(usual: Document, tmp_path: Path) -> None:
    """The same figures give the same bytes."""
    pytest.importorskip("matplotlib")
    from comparison.plot import draw

    for name in ("one.svg", "two.svg"):
        draw(usual, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_page_in_docs_is_of_its_json() -> None:
    """Where both are kept: write it again with `python benchmarks/compare.py --from docs/performance.json --page docs/performance.md`."""
    docs = Path(compare.__file__).parents[1] / "docs"
    if not (docs / "performance.json").exists():
        pytest.skip("no measured run is kept")
    document = documents.read_document(docs / "performance.json")
    assert (docs / "performance.md").read_text(encoding="utf-8").partition(page.MARKER)[0] == page.page(document, "performance.svg")


@pytest.mark.slow
def test_one_round_of_everyone(tmp_path: Path) -> None:
    """A tiny preset goes through the whole command: every runtime that is installed gives the same tokens as KerasHub, or is named with a reason."""
    import make_models

    from tests.benchmarks.test_make_models import TINY

    preset, result = tmp_path / "preset", tmp_path / "result.json"
    make_models.build(TINY).save_to_preset(str(preset))
    options = [
        "--workdir", tmp_path / "work", "--preset", preset, "--rounds", 1, "--prompt-tokens", 20, "--new-tokens", 6, "--threads", 1,
        "--json", result, "--plot", tmp_path / "plot.svg", "--page", tmp_path / "page.md",
    ]  # fmt: skip
    command = [sys.executable, compare.__file__, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = documents.read_document(result)
    assert {entry.target for entry in document.entries if entry.is_ours} == {one.target for one in document.conversions}
    for entry in document.entries:
        assert entry.figures or entry.error.startswith("not installed"), f"{entry.label}: {entry.error}"
        assert entry.same_tokens == 6 or not entry.figures or entry.rival == "openvino-genai-default", entry.label
    for path in (result, tmp_path / "page.md"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert "kexport" in done.stdout
