/**
 * A contestant is a loaded model that is measured on batches. Each has a process of its own (contestant-process.ts), so that resident
 * memory and threads are its own.
 */
import type { Text } from "./texts.ts";

export type System = "chameleon" | "node-llama-cpp";

export interface Entry {
  system: System;
  format: string;
}

/** A batch whose prompts have `context − steps` tokens, and that then decodes `steps` tokens a row. */
export interface Cell {
  batch: number;
  context: number;
  steps: number;
}

/** `ms`: time from an answer's first token to its last. */
export interface Answer {
  ms: number;
  ids: number[];
  /** Of ours: passes, guesses of next tokens, and the same answer without guesses. */
  own?: {
    passes: number;
    guesses: { checked: number; accepted: number };
    plain: { ms: number; ids: number[]; passes: number };
  };
}

/** What a contestant's process says first. `ids`: see Contestant.firstIds. */
export interface Loaded {
  ids: number[];
  loadMs: number;
}

export interface Measurement {
  prefillMs: number;
  stepMs: number[];
  rssBytes: number;
}

export interface Contestant {
  /** Time to load the model; ours from its prepared graph, as a server's second start. */
  readonly loadMs: number;
  /** Runs the prompts [batch][tokens], then `steps` greedy decode steps. */
  measure(prompts: number[][], steps: number): Promise<Measurement>;
  /** Answers greedily with `tokens` tokens. */
  answer(text: Text): Promise<Answer>;
  /** Greedy first token of each prompt, which shows whether contestants compute the same. */
  firstIds(prompts: number[][]): Promise<number[]>;
}

/** The caller must call `token()` whenever every row has its next token. */
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
