"""Writes a language model of random weights, small enough to be made in a second and to run on one core.

Usage: make_gguf.py FILE

What a server says with it means nothing; that it says it, token by token, with true counts in its usage, is what the tests need.
A published model of any use would have to be downloaded, and the smallest is a hundred times this size.
"""

import sys

import gguf
import numpy as np

WIDTH = 64
HEADS = 4
LAYERS = 2
INNER = 128
CONTEXT = 2048
# Longest piece that the vocabulary makes up: a consonant, a vowel, and a space before or not.
CONSONANTS = "bdfghklmnprstvz"
VOWELS = "aeiou"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def vocabulary():
    """Pieces, their scores and types: three for control, one for each byte, one for each character, and syllables."""
    control = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    as_bytes = [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    characters = ["\u2581", *(chr(code) for code in range(0x21, 0x7F))]
    syllables = [space + consonant + vowel for space in ("", "\u2581") for consonant in CONSONANTS for vowel in VOWELS]
    spoken = [(piece, gguf.TokenType.NORMAL) for piece in characters + syllables]
    pieces = control + as_bytes + spoken
    scores = [0.0] * (len(pieces) - len(spoken)) + [-float(rank) for rank in range(len(spoken))]
    return pieces, scores, len(control) + len(as_bytes)


def write(path):
    pieces, scores, first_spoken = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("windward-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(pieces))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_scores(scores)
    writer.add_token_types([int(kind) for _, kind in pieces])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)

    draw = np.random.default_rng(20)

    def random(rows, columns):
        return (draw.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    ones = np.ones(WIDTH, dtype=np.float32)
    output = random(len(pieces), WIDTH)
    # Never an end and never half a character: an answer is as long as the request's limit, and always text.
    output[:first_spoken] = 0
    writer.add_tensor("token_embd.weight", random(len(pieces), WIDTH))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{part}.weight", random(WIDTH, WIDTH))
        writer.add_tensor(f"blk.{layer}.ffn_gate.weight", random(INNER, WIDTH))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", random(INNER, WIDTH))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", random(WIDTH, INNER))
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
