import type { Adapter, ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure } from "./api.ts";
import { type NamedText, stretchesOf } from "./documents.ts";
import { wishOf } from "./request.ts";
import { count, surpriseBeside } from "./words.ts";

const pollMs = 400;
/** In most scripts, this many characters fit the context of small models. */
const stretchCharacters = 1000;
const mostStretches = 6;
/** This many first tokens of each stretch weigh base and adapter. Only later tokens are scored. */
const evidenceTokens = 64;
const fewTokens = 200;

export const pathOf = (name: string) => `/v1/adapters/${encodeURIComponent(name)}`;

/** Throws a CallFailure. On abort, deletes the adapter and throws an AbortError. */
export async function upload(
  api: Api,
  adapter: { name: string; documents: readonly NamedText[] },
  signal: AbortSignal,
  onProgress: (builtTokens: number, tokens: number) => void,
): Promise<Adapter> {
  const path = pathOf(adapter.name);
  let made = await api.json<Adapter>("/v1/adapters", adapter, { signal });
  try {
    for (;;) {
      const { status, error, built_tokens, tokens } = made.memory!;
      if (status === "ready") return made;
      if (status === "failed") throw new CallFailure(`The server could not read the documents: ${error}`);
      onProgress(built_tokens, tokens);
      await new Promise((resolve) => setTimeout(resolve, pollMs));
      signal.throwIfAborted();
      made = await api.json<Adapter>(path, undefined, { signal });
    }
  } catch (error) {
    if (signal.aborted) await api.json(path, undefined, { method: "DELETE" });
    throw error;
  }
}

/** A sentence about the mean gain of `adapter` on a text that is not among its documents. Throws a CallFailure. */
export async function gainOn(
  { name, text }: NamedText,
  adapter: string,
  api: Api,
  characters = stretchCharacters,
): Promise<string> {
  const prompt = stretchesOf(text, characters, mostStretches);
  const body = { prompt, max_tokens: 0, echo: true, logprobs: 0, ...wishOf(adapter, evidenceTokens) };
  try {
    const { choices } = await api.json<CompletionResponse>("/v1/completions", body);
    // The first token has no score, so the list of compared tokens begins with the second.
    const scored = choices.flatMap(({ chameleon }) =>
      (chameleon as ChameleonBlock).compare!.tokens.slice(evidenceTokens - 1),
    );
    if (scored.length === 0) return `“${name}” is too short to measure the gain on.`;
    const gain = scored.reduce((sum, one) => sum + one.logprob - one.base_logprob, 0) / scored.length;
    const caution = scored.length < fewTokens ? " That is little text: take it as a hint." : "";
    return `With your text the model is ${surpriseBeside(gain, "without it")} by “${name}”, which it had not seen (${count(scored.length, "token")}).${caution}`;
  } catch (error) {
    // In some scripts, a character takes several tokens.
    const isTooLong = error instanceof CallFailure && error.code === "context_length_exceeded";
    if (!isTooLong || characters < 200) throw error;
    return gainOn({ name, text }, adapter, api, characters / 2);
  }
}
