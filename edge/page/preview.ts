/** What would answer the prompt, while it is typed: its experts' weights. */
import type { ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, failureText, isAbort } from "./api.ts";
import { wishOf } from "./request.ts";

/** What the API says of a prompt. */
export interface Reading {
  prompt: string;
  promptTokens: number;
  block: ChameleonBlock;
}

/** Pause in typing after which the prompt is read, in milliseconds. */
const pauseMs = 350;

export interface Wanted {
  prompt: string;
  adapter: string;
  evidenceTokens: number | null;
}

export class Preview {
  readonly #api: Api;
  readonly #show: (reading: Reading | null, failure: string) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running = new AbortController();
  #latest: { wanted: string; reading: Promise<Reading> } | null = null;

  constructor(api: Api, show: (reading: Reading | null, failure: string) => void) {
    this.#api = api;
    this.#show = show;
  }

  /** Reads and shows what `wanted` says once typing pauses. */
  soon(wanted: () => Wanted): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.now(wanted).catch(() => undefined), pauseMs);
  }

  /** Reads and shows it now, or why not; the same wish is read once. */
  async now(wanted: () => Wanted): Promise<Reading> {
    clearTimeout(this.#timer);
    try {
      const wish = wanted();
      const name = JSON.stringify(wish);
      if (this.#latest?.wanted !== name) {
        this.#running.abort();
        this.#running = new AbortController();
        this.#latest = { wanted: name, reading: this.#read(wish, this.#running.signal) };
      }
      const { reading } = this.#latest;
      this.#show(await reading, "");
      return await reading;
    } catch (error) {
      if (isAbort(error)) throw error;
      this.#latest = null;
      this.#show(null, failureText(error));
      throw error;
    }
  }

  async #read({ prompt, adapter, evidenceTokens }: Wanted, signal: AbortSignal): Promise<Reading> {
    const body = { prompt, max_tokens: 1, temperature: 0, ...wishOf(adapter, evidenceTokens, {}) };
    const { choices, usage } = await this.#api.json<CompletionResponse>("/v1/completions", body, { signal });
    return { prompt, promptTokens: usage!.prompt_tokens, block: choices[0].chameleon as ChameleonBlock };
  }
}
