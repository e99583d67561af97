/** Token ids of the prompts of a request, whatever form they came in. */
import type { Prompt } from "../../shared/contracts/fields.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Artifacts } from "./artifacts.ts";

/** `param` names the request's field in messages. Throws invalid_request for an id out of the vocabulary. */
export function encodePrompts(prompts: readonly Prompt[], artifacts: Artifacts, param: string): number[][] {
  const { tokenizer, manifest } = artifacts;
  const { vocabularySize, servedAs } = manifest.model;
  return prompts.map((prompt, p) => {
    if (typeof prompt === "string") return tokenizer.encode(prompt);
    const unknown = prompt.find((id) => id >= vocabularySize);
    if (unknown === undefined) return prompt;
    const at = prompts.length > 1 ? `${param}[${p}]` : param;
    throw new ServiceError(
      "invalid_request",
      `Invalid request: ${at} holds the token id ${unknown}; the vocabulary of ${servedAs} has ${vocabularySize} ids, from 0.`,
      { param },
    );
  });
}
