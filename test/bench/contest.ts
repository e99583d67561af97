/**
 * Measures contestants in rounds of alternating order, and reports medians over the rounds. A cell is a size of batch with a context. One
 * contestant computes at a time, while the others are loaded and idle.
 */
import { AskedProcess } from "./asked-process.ts";
import type { Answer, Cell, Entry, Loaded, Measurement } from "./contestant.ts";
import { median } from "./quantile.ts";
import type { Text } from "./texts.ts";

export type Row = ReturnType<typeof rowOf>;
export type TextRow = ReturnType<typeof textRowOf>;

/** A cell that was left out. Without `batch` and `context`: the contestant was left out of all cells. */
export interface Skipped extends Entry {
  batch?: number;
  context?: number;
  reason: string;
}

export interface GroupResult {
  rows: Row[];
  texts: TextRow[];
  skipped: Skipped[];
  /** `ids`: first tokens of the contestant's base model on the check prompts. */
  loaded: (Loaded & { entry: Entry })[];
}

/** Our contestant is the first of `entries`. A cell in which a contestant fails is left out, with the reason. */
export async function runGroup(
  entries: readonly Entry[],
  cells: readonly Cell[],
  options: { rounds: number; threads: number; gguf: string; texts?: readonly Text[]; note: (line: string) => void },
): Promise<GroupResult> {
  const { rounds, threads, gguf, note } = options;
  const result: GroupResult = { rows: [], texts: [], skipped: [], loaded: [] };
  let running: Runner[] = [];
  const skip = (skipped: Skipped) => {
    result.skipped.push(skipped);
    note(skippedLine(skipped));
  };
  try {
    for (const entry of entries) {
      const runner = new Runner(entry, threads, gguf);
      try {
        result.loaded.push({ entry, ...(await runner.start()) });
        running.push(runner);
      } catch (error) {
        skip({ ...entry, reason: messageOf(error) });
      }
    }
    for (const cell of cells) {
      const samples = new Map(running.map((runner) => [runner, [] as Measurement[]]));
      for (let round = 0; round < rounds; round++) {
        for (const runner of round % 2 === 0 ? [...samples.keys()] : [...samples.keys()].reverse()) {
          try {
            samples.get(runner)!.push(await runner.measure(cell));
          } catch (error) {
            skip({ ...runner.entry, batch: cell.batch, context: cell.context, reason: messageOf(error) });
            samples.delete(runner);
            // The process has ended. The next cell may be smaller, so the process is started again.
            await runner.start().catch(() => {
              running = running.filter((other) => other !== runner);
            });
          }
        }
      }
      for (const [runner, own] of samples) {
        const row = rowOf(runner.entry, cell, own);
        result.rows.push(row);
        const { system, format, batch, context, msPerStep } = row;
        note(`${system} ${format}, batch ${batch}, context ${context}: ${msPerStep.toFixed(1)} ms/step`);
      }
    }
    const others = running.slice(1);
    for (const text of running[0]?.entry === entries[0] ? (options.texts ?? []) : []) {
      const answers = Array.from({ length: rounds }, () => [] as Answer[]);
      for (const [round, answered] of answers.entries()) {
        const order = [...running.keys()];
        for (const i of round % 2 === 0 ? order : order.reverse()) answered[i] = await running[i].answer(text);
      }
      result.texts.push(textRowOf(text.name, others, answers));
    }
  } finally {
    for (const runner of running) runner.end();
  }
  return result;
}

export function skippedLine({ system, format, batch, context, reason }: Skipped): string {
  const cell = batch === undefined ? "" : `, batch ${batch}, context ${context}`;
  return `${system} ${format}${cell}: not measured: ${reason}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function rowOf(entry: Entry, cell: Cell, samples: Measurement[]) {
  const { batch, context, steps } = cell;
  const stepMs = samples.flatMap((sample) => sample.stepMs);
  const msPerStep = median(stepMs);
  const timeToFirstTokenMs = median(samples.map(({ prefillMs }) => prefillMs));
  return {
    ...entry,
    batch,
    context,
    msPerStep,
    leastMsPerStep: Math.min(...stepMs),
    tokensPerSecond: (1000 * batch) / msPerStep,
    prefillTokensPerSecond: (1000 * batch * (context - steps)) / timeToFirstTokenMs,
    timeToFirstTokenMs,
    leastTimeToFirstTokenMs: Math.min(...samples.map(({ prefillMs }) => prefillMs)),
    rssBytes: Math.max(...samples.map(({ rssBytes }) => rssBytes)),
  };
}

/** `answers[round][contestant]`, ours first. Times are medians over the rounds. */
function textRowOf(name: string, others: readonly Runner[], answers: readonly Answer[][]) {
  const [{ ids, own }] = answers[0];
  const { passes, guesses, plain } = own!;
  return {
    name,
    ms: median(answers.map(([{ ms }]) => ms)),
    unguessedMs: median(answers.map(([ours]) => ours.own!.plain.ms)),
    sameText: `${ids}` === `${plain.ids}`,
    passes: [passes, plain.passes],
    guesses,
    peers: others.map(({ entry }, i) => ({ entry, ms: median(answers.map((round) => round[i + 1].ms)) })),
  };
}

class Runner {
  readonly entry: Entry;
  readonly #args: string[];
  #process: AskedProcess | null = null;

  constructor(entry: Entry, threads: number, gguf: string) {
    this.entry = entry;
    this.#args = [entry.system, entry.format, `${threads}`, gguf];
  }

  start(): Promise<Loaded> {
    this.#process = new AskedProcess(new URL("./contestant-process.ts", import.meta.url), ...this.#args);
    return this.#process.ready();
  }

  measure(cell: Cell): Promise<Measurement> {
    return this.#process!.ask(cell);
  }

  answer(text: Text): Promise<Answer> {
    return this.#process!.ask(text);
  }

  end(): void {
    this.#process?.end();
  }
}
