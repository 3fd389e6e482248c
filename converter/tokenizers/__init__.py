"""Keras tokenizers as files that a runtime without Keras reads, proven equal string by string."""

from kexport.converter.tokenizers import byte_pair as byte_pair
from kexport.converter.tokenizers import longest_match as longest_match
from kexport.converter.tokenizers import sentence_piece as sentence_piece
from kexport.converter.tokenizers.export import export_tokenizer, special_tokens
from kexport.converter.tokenizers.packing import read_packers
from kexport.converter.tokenizers.stop_ids import resolve_stop_token_ids
from kexport.converter.tokenizers.vendor import vendor_tokenizer_difference

__all__ = ["export_tokenizer", "read_packers", "resolve_stop_token_ids", "special_tokens", "vendor_tokenizer_difference"]
