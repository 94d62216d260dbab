"""Runs vLLM for the tests, in the environment that has it: python engine.py REQUEST.json ANSWER.json

The request holds `options` of vllm.LLM and `steps`, run one after the other in one engine; each has `ids`,
how many `tokens` to generate greedily, and whether log-probabilities of the `prompt` are wanted. The answer
is a list with, for each step, `prompt` (none for the first id), `generated` ids, their `logprobs`, and
`cached`, how many ids vLLM had the keys of.
"""

import json
import sys

from vllm import LLM, SamplingParams


def main() -> None:
    with open(sys.argv[1]) as file:
        request = json.load(file)
    engine = LLM(**request["options"])
    answers = []
    for step in request["steps"]:
        sampling = SamplingParams(
            temperature=0,
            max_tokens=step["tokens"],
            ignore_eos=True,
            logprobs=0,
            prompt_logprobs=0 if step["prompt"] else None,
        )
        [result] = engine.generate([{"prompt_token_ids": step["ids"]}], sampling, use_tqdm=False)
        [output] = result.outputs
        prompt = [
            each[token].logprob
            for token, each in zip(step["ids"][1:], (result.prompt_logprobs or [None])[1:], strict=False)
        ]
        answers.append(
            {
                "prompt": prompt,
                "generated": list(output.token_ids),
                "logprobs": [
                    each[token].logprob for token, each in zip(output.token_ids, output.logprobs, strict=True)
                ],
                "cached": result.num_cached_tokens,
            }
        )
    with open(sys.argv[2], "w") as file:
        json.dump(answers, file)


if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
