"""`kexport.json`: what an artifact is, as strict records. Written by the converter, read by every runtime.

Unknown keys and unknown format versions are refused. Shapes are tuples of fixed sizes and dim names (`batch`, `sequence`, `total`,
`capacity`, `encoder_sequence`). The JSON Schema in docs/ is generated from these classes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FORMAT_VERSION = 1
FILE_NAME = "kexport.json"

Task = Literal["causal-lm", "seq2seq-lm", "backbone"]
STATE_KINDS = ("convolution", "recurrent")  # kinds of cache slots that are states


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of all records: immutable, strict about unknown keys."""


class Producer(Record, frozen=True, kw_only=True):
    """Which kexport made the artifact, with which libraries (name -> version)."""

    kexport: str
    libraries: dict[str, str] = {}


class Source(Record, frozen=True, kw_only=True):
    """The original: the handle the user gave, its class and config, and a digest of its weights."""

    handle: str
    class_name: str
    config: dict[str, Any] = {}
    parameter_count: int = 0
    weight_digest: str = ""


class Dtype(Record, frozen=True, kw_only=True):
    """How weights are stored, what the graph computes in, and the dtype the oracle ran in."""

    stored: str = "float32"
    compute: str = "float32"
    oracle: str = "float32"


class TensorSpec(Record, frozen=True, kw_only=True):
    """One input or output: its name in the file, dtype, and shape of sizes and dim names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Signature(Record, frozen=True, kw_only=True):
    """One callable of the artifact and how an engine must call it.

    `data`: the file of its weights where `file` does not name it itself (OpenVINO); empty: the one that the library looks for beside `file`.
    `sequence_lengths`: the fixed lengths (buckets) it takes; empty means any length. A signature over whole rows has the names `batch` and `sequence` in
    its shapes all the same; the file has one of one row, `<name>_<length>`, for each length.
    `returns_logits`: `last` = [batch, 1, vocabulary] of each row's last real token; `all` = every position; `none`.
    `max_batch_with_past`: how many rows may take several new tokens over a non-empty cache in one call; None = any number.
    `weight_bytes`: bytes of weights that every call reads: all but the tables that only rows are taken from, and of experts that are read
    only where a token takes them the share that one token takes; 0 = unknown.
    `max_sequence`: how many tokens a row one call takes at most (a recurrent layer's parallel form has such a bound); None = any number.
    """

    name: str
    file: str
    data: str = ""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sequence_lengths: tuple[int, ...] = ()
    returns_logits: Literal["last", "all", "none"] = "none"
    max_batch_with_past: int | None = None
    max_sequence: int | None = None
    padding_side: Literal["right", "left"] = "right"
    weight_bytes: int = 0


class CacheSlot(Record, frozen=True, kw_only=True):
    """One cache: a key and a value tensor of one or more layers, or a state (kinds `convolution` and `recurrent`).

    A state is one tensor of a fixed `shape` (without the batch axis), zeros before the first token. It takes every token of a call: no
    padding may stand in one, and nothing of it can be taken back. `inputs` and `outputs` are the tensor names, key first. `window`: keys that stay visible, the token itself included; None = all.
    `layout` names the axes of the stored tensors. `head_dim` is the model's; the stored one may be padded (see the signature's shape).
    """

    name: str
    kind: Literal["self", "cross", "convolution", "recurrent"]
    num_key_value_heads: int
    head_dim: int
    value_head_dim: int
    dtype: str
    layout: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shape: tuple[int, ...] = ()
    window: int | None = None
    shared_with: str | None = None


class Cache(Record, frozen=True, kw_only=True):
    """All slots, which slots each decoder layer reads, and how large they get.

    `capacity`: the longest sequence (prompt and new tokens together) this artifact serves;
    `encoder_capacity`: the longest encoder prompt, 0 = no bound. `bytes_per_token`: over all self slots, one row. `state_bytes`: all
    states of one row, whatever its length.
    """

    slots: tuple[CacheSlot, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()
    capacity: int = 0
    encoder_capacity: int = 0
    bytes_per_token: int = 0
    state_bytes: int = 0

    @property
    def has_states(self) -> bool:
        """Whether rows keep states beside keys and values, or instead of them."""
        return any(slot.kind in STATE_KINDS for slot in self.slots)

    @property
    def bytes_at_capacity(self) -> int:
        """All self caches and states of one row that is full."""
        return self.bytes_per_token * self.capacity + self.state_bytes


class Packer(Record, frozen=True, kw_only=True):
    """How ids become one padded row: `start` ids, the prompt's ids (cut on the right), `end` ids, then `pad` on `padding_side`.

    Of split prompts (`Generation.prompt`) this is the row in front of the buffer, and prompts are cut on the left.
    """

    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    pad: int = 0
    sequence_length: int = 1024
    padding_side: Literal["right", "left"] = "right"


class PieceDecoder(Record, frozen=True, kw_only=True):
    """How SentencePiece turns ids into text where the file's own decoder differs (broken UTF-8, unknown ids, leading spaces).

    `byte_ids`: id -> byte value, as parallel tuples `byte_ids` and 0..255 (empty: no byte pieces). `control_ids` print nothing,
    `unknown_id` prints `unknown_surface`. `leading_space`: what happens to the space that the first pieces may start with.
    See runtime/piece_decoder.py.
    """

    control_ids: tuple[int, ...] = ()
    unknown_id: int = 0
    unknown_surface: str = " \u2047 "
    byte_ids: tuple[int, ...] = ()
    leading_space: Literal["keep", "strip-one", "strip-all"] = "keep"


class Chat(Record, frozen=True, kw_only=True):
    """How a conversation becomes a prompt: the template's file (Jinja), and the special tokens it names, as they are spelled."""

    file: str
    tokens: dict[str, str] = {}


class Tokenizer(Record, frozen=True, kw_only=True):
    """The tokenizer file and the policy around it.

    `kind`: `tokenizers` (Hugging Face tokenizer.json), `sentencepiece`, or `longest_match` (a vocabulary of byte strings, RWKV's).
    `stripped_ids`: dropped before decoding to text, as KerasHub does.
    `packers`: `prompt` for causal models; `encoder` and `decoder` for seq2seq.
    `fixture`: file with (text, ids) pairs made by the original tokenizer; `proven_strings`: how many strings were compared at conversion.
    `piece_decoder`: set where ids become text by SentencePiece's rules: in place of a tokenizer.json's own decoder, or, beside a model file,
    for streams, which must know what text is certain.
    `chat`: None for a model without a chat template.
    """

    kind: Literal["tokenizers", "sentencepiece", "longest_match"]
    file: str
    vocabulary_size: int
    packers: dict[str, Packer]
    stripped_ids: tuple[int, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    special_tokens: dict[str, int] = {}
    fixture: str = ""
    proven_strings: int = 0
    piece_decoder: PieceDecoder | None = None
    chat: Chat | None = None


class ImageSteps(Record, frozen=True, kw_only=True):
    """How an image of any size becomes pixel values: brought to the model's size, then `* scale + offset` per channel (one number: all channels).

    `aspect`: what is done to an image whose sides have another ratio: `crop` cuts, `pad` adds zeros, `stretch` distorts.
    """

    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    aspect: Literal["crop", "pad", "stretch"] = "crop"
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()


class Images(Record, frozen=True, kw_only=True):
    """What images an artifact takes beside text, by its signatures `vision` and `prefill_images`.

    `height`, `width`, `channels`: of pixel values. `tokens`: the embeddings that one image becomes, and the ids that stand for it in a row. The rest
    comes from the original's preprocessor and is empty without one. `most`: images of one prompt. `marker`: what stands for an image in a text, and
    `replacement` what is written there instead before the text becomes ids (empty: not known, such texts are refused); `placeholder_id`: the id whose embeddings are the image's.
    """

    height: int
    width: int
    channels: int = 3
    tokens: int
    most: int = 0
    marker: str = ""
    replacement: str = ""
    placeholder_id: int | None = None
    steps: ImageSteps | None = None


class Rng(Record, frozen=True, kw_only=True):
    """What KerasHub's seeded draws depend on: `tf_cpu` or `xla` kernels, and the number of intra-op threads (`tf_cpu`, batch > 1)."""

    mode: Literal["tf_cpu", "xla"] = "tf_cpu"
    threads: int = 1


class Generation(Record, frozen=True, kw_only=True):
    """Defaults of the original's `generate()`: its sampler (class name and config), length, and resolved `auto` stop ids (None: no tokenizer).

    `schedule`: `rows` where rows may run at their own pace, `lock_step` where the model sees KerasHub's literal schedule (recurrent states).
    `prefill`: `prompt`, or `buffer` where the original's result depends on its prefill of the whole padded buffer. `prompt`: `whole`, or
    `split` where all but the prompt's last token are an input of their own and lengths count new tokens (runtime/prompt_forms.py).
    `upstream_fix`: what the artifact does right that the original's `generate()` does wrong; empty: it gives what `generate()` gives.
    """

    sampler: dict[str, Any] = msgspec.field(default_factory=lambda: {"class_name": "TopKSampler", "config": {"k": 5}})
    max_length: int = 1024
    stop_token_ids: tuple[int, ...] | None = None
    vocabulary_size: int = 0
    rng: Rng = Rng()
    schedule: Literal["rows", "lock_step"] = "rows"
    prefill: Literal["prompt", "buffer"] = "prompt"
    prompt: Literal["whole", "split"] = "whole"
    upstream_fix: str = ""


class Memory(Record, frozen=True, kw_only=True):
    """Bytes: the weights, all caches and states of one row at capacity, and the peak to expect when serving one row."""

    weights: int = 0
    cache_per_token: int = 0
    cache_at_capacity: int = 0
    expected_peak: int = 0


class ParityCase(Record, frozen=True, kw_only=True):
    """One compared run: the token ids fed (input name -> rows), the tokens the original gave, and what the artifact gave.

    `sampler`: class name and config, with its seed; empty for greedy. `near_ties`: differing tokens where the original's own top-2 gap lies within the rule's bound. `near_steps`: the same of a
    seeded draw, where it lies that near to a step of the original's distribution. `max_logit_share`: the largest logit difference as a share of the
    spread of the original's logits at that step. `smallest_gap`: the smallest top-2 logit gap of the original over all steps, of a seeded case the
    smallest distance of a draw from another outcome, in logits. `texts` and `expected_texts`: prompts and results of a case run on text.
    """

    name: str
    inputs: dict[str, list[list[int]]]
    expected: list[list[int]]
    max_length: int
    stop_token_ids: tuple[int, ...] | None = None
    tokens_compared: int = 0
    tokens_equal: int = 0
    near_ties: int = 0
    near_steps: int = 0
    max_logit_difference: float = 0.0
    max_logit_share: float = 0.0
    smallest_gap: float = 0.0
    texts: list[str] = []
    expected_texts: list[str] = []
    sampler: dict[str, Any] = {}


class Certificate(Record, frozen=True, kw_only=True):
    """The proof: what was compared with which oracle, on which machine, and the verdict."""

    verdict: Literal["proven", "proven-steps", "not-verified"] = "not-verified"
    steps: int = 0
    oracle: str = ""
    cases: tuple[ParityCase, ...] = ()
    tokens_compared: int = 0
    tokens_equal: int = 0
    near_ties: int = 0
    near_steps: int = 0
    max_logit_difference: dict[str, float] = {}
    bounds: dict[str, float] = {}
    versions: dict[str, str] = {}
    cpu_features: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class VendorRuntime(Record, frozen=True, kw_only=True):
    """Whether a vendor's own runtime runs the artifact unmodified, and if not, why."""

    name: str
    accepted: bool
    reason: str = ""


class Fusion(Record, frozen=True, kw_only=True):
    """How one attention or recurrent layer was rendered: the target's form, fused or not, and why.

    `fusable`: the target has a fused form for what the layer does; where it has none, the reason stands in the target's table of such forms.
    """

    layer: str
    form: str
    fused: bool
    reason: str = ""
    fusable: bool = True


class Experts(Record, frozen=True, kw_only=True):
    """How one mixture of experts was rendered: the target's form, and why not a better one.

    `count` experts, of which each token takes `taken`. `sparse`: a decode step reads the weights of the experts that are taken, no others.
    """

    layer: str
    form: str
    count: int
    taken: int
    sparse: bool
    reason: str = ""


class AdapterStep(Record, frozen=True, kw_only=True):
    """One step of the way from an update in its parameter's own shape to its place in a stored tensor.

    `kind`: `transpose` by the permutation `numbers`, `reshape` to the sizes `numbers`, `pad` with zeros: before and after each axis in turn.
    """

    kind: Literal["transpose", "reshape", "pad"]
    numbers: tuple[int, ...]


class AdapterPart(Record, frozen=True, kw_only=True):
    """What an adapter adds to a stored tensor for one parameter: `scale * (a @ b)`, brought to the tensor's shape by `steps`.

    `a` [..., rank] and `b` [rank, out] are the names of float32 tensors in the adapter's file.
    """

    a: str
    b: str
    scale: float
    steps: tuple[AdapterStep, ...] = ()


class AdapterTensor(Record, frozen=True, kw_only=True):
    """A stored tensor that an adapter changes: `name` in the model file `file`, kept in `dtype` and `shape`; its bytes stand in the file
    `data` from `offset` on. `parts` are added to it.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: str
    offset: int
    parts: tuple[AdapterPart, ...]


class Adapter(Record, frozen=True, kw_only=True):
    """A LoRA adapter that came from a file: the file's name and digest, its rank, and alpha (updates are scaled by alpha / rank).

    `mode` `merge`: it is part of the weights. `separate`: the weights are the base model's; the adapter is `file`, changes `tensors`, can be
    chosen by its `name`, and has a certificate of its own.
    """

    name: str
    source: str
    digest: str
    rank: int
    alpha: float
    mode: Literal["merge", "separate"] = "merge"
    file: str = ""
    tensors: tuple[AdapterTensor, ...] = ()
    parity: Certificate = Certificate()


class File(Record, frozen=True, kw_only=True):
    """One file of the artifact, path relative to it."""

    path: str
    bytes: int
    sha256: str


class Manifest(Record, frozen=True, kw_only=True):
    """The whole of `kexport.json`."""

    format_version: int = FORMAT_VERSION
    producer: Producer
    source: Source
    task: Task
    target: str
    dtype: Dtype = Dtype()
    quantization: dict[str, Any] = {}
    signatures: tuple[Signature, ...] = ()
    cache: Cache = Cache()
    tokenizer: Tokenizer | None = None
    images: Images | None = None
    generation: Generation = Generation()
    memory: Memory = Memory()
    parity: Certificate = Certificate()
    adapters: tuple[Adapter, ...] = ()
    fusions: tuple[Fusion, ...] = ()
    experts: tuple[Experts, ...] = ()
    ops: dict[str, int] = {}
    runtimes: tuple[VendorRuntime, ...] = ()
    files: tuple[File, ...] = ()

    def signature(self, name: str) -> Signature | None:
        """The signature called `name`, or None."""
        return next((s for s in self.signatures if s.name == name), None)

    def separate_adapters(self) -> dict[str, Adapter]:
        """The adapters that can be chosen at run time, by name."""
        return {adapter.name: adapter for adapter in self.adapters if adapter.mode == "separate"}
