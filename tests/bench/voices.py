"""Do words alone tell who answered? Each voice of the demo model answers the questions that were kept apart, by the likeliest token, in plain torch.

python -m tests.bench.voices
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, utils

from consilium.demo import smollm, voice_files
from consilium.demo.voice_files import RECIPE, VOICES
from tests.word_counts import WordCounts

LONGEST = 48
BAR = 0.9


def answers(folder, voice, questions):
    """Return what a voice says, its factors added into the weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tensors = load_file(voice_files.HOME / voice / voice_files.TENSORS)
    for name in tensors:
        if name.endswith(".lora_A.weight"):
            a, b = tensors[name].float(), tensors[name.replace("lora_A", "lora_B")].float()
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            delta = RECIPE.alpha / RECIPE.rank * b @ a
            model.get_submodule(module).weight.data += delta.to(torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    asked = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in questions
    ]
    tokens = tokenizer(asked, return_tensors="pt", padding=True)
    said = model.generate(**tokens, max_new_tokens=LONGEST, do_sample=False, temperature=None)
    return tokenizer.batch_decode(said[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


def main():
    """Print one answer of each voice, and how many were told apart."""
    torch.set_num_threads(1)
    utils.logging.set_verbosity_error()
    utils.logging.disable_progress_bar()
    fitted = WordCounts(
        {voice: [pair.answer for pair in voice_files.texts(voice)] for voice in VOICES}
    )
    questions, right = voice_files.kept_apart(), 0
    with tempfile.TemporaryDirectory(prefix="voices-") as aside:
        folder = smollm.make(Path(aside) / "demo")
        for voice in VOICES:
            said = answers(folder, voice, questions)
            right += sum(fitted.who(text) == voice for text in said)
            print(f"{voice}, asked {questions[0]!r}: {said[0]}")
    total = len(questions) * len(VOICES)
    print(f"{right} of {total} answers told apart (bar: {BAR:.0%})")
    return 0 if right >= BAR * total else 1


if __name__ == "__main__":
    raise SystemExit(main())
