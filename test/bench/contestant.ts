/**
 * What a contestant is: a loaded model that is measured on batches. Each lives in a child process of its own (contestant-process.ts),
 * so that its resident memory is its own and no thread of another disturbs it.
 */

export type System = "chameleon" | "node-llama-cpp";

export interface Entry {
  system: System;
  format: string;
}

/** What is measured at a time: a batch whose prompts have `context − steps` tokens and that then decodes `steps` tokens a row. */
export interface Cell {
  batch: number;
  context: number;
  steps: number;
}

export interface Measurement {
  /** Milliseconds from the prompts to the first token of every row. */
  prefillMs: number;
  /** Milliseconds of each decode step: from a token of every row to the next token of every row. */
  stepMs: number[];
  /** The largest resident memory of the process at any token, while it holds the whole batch. */
  rssBytes: number;
}

export interface Contestant {
  /** Runs the prompts [batch][tokens] and then `steps` greedy decode steps. */
  measure(prompts: number[][], steps: number): Promise<Measurement>;
  /** The base model's greedy first token of each prompt, which shows whether contestants compute the same. */
  firstIds(prompts: number[][]): Promise<number[]>;
}

/** Measures a batch. Its caller must call `token()` whenever every row has its next token. */
export class BatchMeter {
  #lastMs = performance.now();
  readonly #spans: number[] = [];
  #rssBytes = 0;

  token(): void {
    this.#spans.push(performance.now() - this.#lastMs);
    this.#rssBytes = Math.max(this.#rssBytes, process.memoryUsage.rss());
    this.#lastMs = performance.now();
  }

  result(): Measurement {
    const [prefillMs, ...stepMs] = this.#spans;
    return { prefillMs, stepMs, rssBytes: this.#rssBytes };
  }
}
