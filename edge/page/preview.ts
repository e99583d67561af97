/** Shows the weights of the experts that would answer the prompt, while the user types it. */
import type { ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, failureText, isAbort } from "./api.ts";
import { wishOf } from "./request.ts";

export interface Reading {
  prompt: string;
  promptTokens: number;
  block: ChameleonBlock;
}

const pauseMs = 350;

type Wanted = { prompt: string; adapter: string };

export function startPreview(api: Api, show: (reading: Reading | null, failure: string) => void) {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let running = new AbortController();

  async function now({ prompt, adapter }: Wanted): Promise<Reading> {
    clearTimeout(timer);
    running.abort();
    running = new AbortController();
    const { signal } = running;
    const body = { prompt, max_tokens: 1, temperature: 0, ...wishOf(adapter, null, {}) };
    try {
      const { choices, usage } = await api.json<CompletionResponse>("/v1/completions", body, { signal });
      const reading = { prompt, promptTokens: usage!.prompt_tokens, block: choices[0].chameleon as ChameleonBlock };
      show(reading, "");
      return reading;
    } catch (error) {
      if (!isAbort(error)) show(null, failureText(error));
      throw error;
    }
  }

  function soon(wanted: () => Wanted): void {
    clearTimeout(timer);
    timer = setTimeout(() => void now(wanted()).catch(() => undefined), pauseMs);
  }
  return { now, soon };
}
