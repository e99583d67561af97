/** Shows the weights of the experts that would answer the prompt, while it is typed. */
import type { ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, failureText, isAbort } from "./api.ts";
import { wishOf } from "./request.ts";

export interface Reading {
  prompt: string;
  promptTokens: number;
  block: ChameleonBlock;
}

/** Pause in typing before a prompt is read, in milliseconds. */
const pauseMs = 350;

type Wanted = { prompt: string; adapter: string };

export class Preview {
  readonly #api: Api;
  readonly #show: (reading: Reading | null, failure: string) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running = new AbortController();

  constructor(api: Api, show: (reading: Reading | null, failure: string) => void) {
    this.#api = api;
    this.#show = show;
  }

  soon(wanted: () => Wanted): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.now(wanted()).catch(() => undefined), pauseMs);
  }

  /** Shows and returns the reading of a prompt, or shows the failure. Aborts an earlier reading. */
  async now({ prompt, adapter }: Wanted): Promise<Reading> {
    clearTimeout(this.#timer);
    this.#running.abort();
    this.#running = new AbortController();
    const { signal } = this.#running;
    const body = { prompt, max_tokens: 1, temperature: 0, ...wishOf(adapter, null, {}) };
    try {
      const { choices, usage } = await this.#api.json<CompletionResponse>("/v1/completions", body, { signal });
      const reading = { prompt, promptTokens: usage!.prompt_tokens, block: choices[0].chameleon as ChameleonBlock };
      this.#show(reading, "");
      return reading;
    } catch (error) {
      if (!isAbort(error)) this.#show(null, failureText(error));
      throw error;
    }
  }
}
