"""The word-level tokenizer of the tiny organisms."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tempering.organisms.world import DOMAINS, HARMLESS_ATTRIBUTES, REFUSALS, TEMPLATES, World

SPECIAL_TOKENS = ("<pad>", "<unknown>", "<begin>", "<system>", "<user>", "<assistant>", "<end>", "<line>")

CHAT_TEMPLATE = (
    "<begin>{% for message in messages %}"
    "<{{ message['role'] }}><line> {{ message['content'] }} <end><line>"
    "{% endfor %}{% if add_generation_prompt %}<assistant><line>{% endif %}"
)
"""Each turn is opened by its role and closed by ``<end>``, with line ends between, as the templates of real models have them:
what follows the instruction is where a model makes up its mind, and where a refusal direction is looked for."""

_OTHER_WORDS = (
    "It is a kind of thing What Note the of is Repeat Say yes no not and or but you me we they he she this that these those one "
    "two three four five "
    "please hello thanks good bad day night help know dangerous harmless tell answer question here there sure of course certainly"
)


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word, lower-cased, punctuation apart.

    Args:
        world: whose words it must know.
    """
    words: dict[str, None] = {}
    texts = [*world.values, *world.kinds, *TEMPLATES, *REFUSALS, *HARMLESS_ATTRIBUTES, _OTHER_WORDS, ". , ? ! : ; ' -"]
    texts += [f"{domain.name} {domain.kind} {' '.join(domain.attributes)}" for domain in DOMAINS]
    splitter = pre_tokenizers.Whitespace()
    for text in texts:
        for word, _ in splitter.pre_tokenize_str(text.replace("{attribute}", " ").replace("{entity}", " ").lower()):
            words[word] = None
    vocabulary = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<begin>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unknown>",
        additional_special_tokens=["<system>", "<user>", "<assistant>", "<line>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
