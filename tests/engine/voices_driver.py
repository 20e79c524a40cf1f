"""The demo model with its voices in one vLLM; writes what they said as JSON. Run by test_voices.py in a process of its own, because a process holds one engine.

python -m tests.engine.voices_driver FOLDER QUESTIONS
"""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from consilium.demo import smollm, voice_files
from consilium.lora_router import sources

LONGEST = 40
WORKER = "consilium.engine.backends.vllm_cpu_worker.Worker"
"""Ours: vLLM's own answers plain questions of a mixed batch with the last slot's adapter."""


def main() -> None:
    """Ask every voice the first of the questions that were kept apart, and the plain model too, all in one batch."""
    folder, questions = Path(sys.argv[1]), voice_files.kept_apart()[: int(sys.argv[2])]
    engine = LLM(
        str(smollm.make(folder / "demo")),
        enable_lora=True,
        max_loras=len(voice_files.VOICES),
        max_lora_rank=8,
        max_model_len=256,
        max_num_seqs=32,
        enforce_eager=True,
        kv_cache_memory_bytes=256 << 20,
        disable_log_stats=True,
        worker_cls=WORKER,
    )
    voices = {
        voice: LoRARequest(voice, number, str(sources.fetched(f"demo:{voice}", folder)))
        for number, voice in enumerate(voice_files.VOICES, 1)
    }
    asked = [(voice, question) for voice in [*voices, ""] for question in questions]
    said = engine.chat(
        [[{"role": "user", "content": question}] for _, question in asked],
        SamplingParams(temperature=0, max_tokens=LONGEST),
        lora_request=[voices.get(voice) for voice, _ in asked],
        use_tqdm=False,
    )
    found = [
        {"voice": voice, "question": question, "text": answer.outputs[0].text}
        for (voice, question), answer in zip(asked, said, strict=True)
    ]
    (folder / "said.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
