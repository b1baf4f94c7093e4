"""Tokenizers of few words or of single letters, each with the habits of a kind that models come with."""

WORDS = [
    "a",
    "the",
    "of",
    "benign",
    "malignant",
    "tissue",
    "gland",
    "left",
    "right",
    "breast",
    "mass",
    "with",
    "severe",
]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]


def wordpieces():
    """Return a tokenizer like BERT's, of few words and all letters."""
    from transformers import BertTokenizer

    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "!", *WORDS[1:], *LETTERS, *(f"##{c}" for c in LETTERS)]
    return BertTokenizer(vocab={word: i for i, word in enumerate(vocab)}, model_max_length=32)


def byte_pairs():
    """Return a tokenizer like CLIP's, of all bytes and without merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    vocab = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(vocab)}, merges=[], model_max_length=32)


def sentence_pieces():
    """Return a tokenizer like SigLIP's: it ends with ``</s>``, pads with it too, and gives no attention mask."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", "</s>", *WORDS])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=16,
        model_input_names=["input_ids"],
    )


def lowered_pieces():
    """Return a tokenizer like SigLIP 2's: of lower-case letters, without merges; it ends with ``<eos>``."""
    from tokenizers import processors
    from transformers import Siglip2Tokenizer

    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", ",", "!", *LETTERS]
    words = Siglip2Tokenizer(vocab={word: i for i, word in enumerate(letters)}, merges=[], model_max_length=16)
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return words


def byte_words(*special):
    """Return a tokenizer like Qwen's: a token a byte, without merges, and special ones."""
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    letters = ["<pad>", *sorted(ByteLevel.alphabet())]
    words = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(letters)}, merges=[]))
    words.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(special),
        model_max_length=384,
    )
