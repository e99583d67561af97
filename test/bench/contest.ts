/**
 * Measures contestants against each other: cell by cell, in rounds whose order alternates, medians over the rounds. One
 * computes at a time; the others are loaded and idle.
 */
import { type ChildProcess, fork } from "node:child_process";
import { join } from "node:path";
import type { Cell, Entry, Measurement } from "./contestant.ts";
import type { FromContestant, ToContestant } from "./contestant-process.ts";
import { median } from "./median.ts";

export interface Row extends Entry {
  batch: number;
  context: number;
  msPerStep: number;
  /** Decoded tokens of the whole batch. */
  tokensPerSecond: number;
  prefillTokensPerSecond: number;
  /** Until every row has its first token. */
  timeToFirstTokenMs: number;
  /** Resident memory of the contestant's process after the cell; the largest of the rounds. */
  rssBytes: number;
}

export interface Skipped extends Entry {
  reason: string;
}

export interface GroupResult {
  rows: Row[];
  skipped: Skipped[];
  /** Of each contestant: the base model's first tokens on the check prompts. */
  firstIds: { entry: Entry; ids: number[] }[];
}

/** Runs one group, whose first entry is ours. Contestants that fail are left out, with the reason. */
export async function runGroup(
  entries: readonly Entry[],
  cells: readonly Cell[],
  options: { rounds: number; threads: number; note: (line: string) => void },
): Promise<GroupResult> {
  const { rounds, threads, note } = options;
  const result: GroupResult = { rows: [], skipped: [], firstIds: [] };
  let running: Runner[] = [];
  const drop = (entry: Entry, error: unknown) => {
    result.skipped.push({ ...entry, reason: error instanceof Error ? error.message : String(error) });
    note(`${entry.system} ${entry.format} is left out: ${result.skipped.at(-1)?.reason}`);
    running = running.filter((runner) => runner.entry !== entry);
  };
  try {
    for (const entry of entries) {
      try {
        const runner = new Runner(entry, threads);
        running.push(runner);
        result.firstIds.push({ entry, ids: await runner.ready() });
      } catch (error) {
        drop(entry, error);
      }
    }
    for (const cell of cells) {
      const measured = new Map<Runner, { measurement: Measurement; rssBytes: number }[]>();
      for (let round = 0; round < rounds; round++) {
        for (const runner of round % 2 === 0 ? [...running] : running.toReversed()) {
          try {
            const samples = measured.get(runner) ?? [];
            samples.push(await runner.measure(cell));
            measured.set(runner, samples);
          } catch (error) {
            drop(runner.entry, error);
          }
        }
      }
      for (const runner of running) {
        const row = rowOf(runner.entry, cell, measured.get(runner) ?? []);
        result.rows.push(row);
        note(
          `${row.system} ${row.format}, batch ${row.batch}, context ${row.context}: ${row.msPerStep.toFixed(1)} ms/step`,
        );
      }
    }
  } finally {
    for (const runner of running) runner.end();
  }
  return result;
}

function rowOf(entry: Entry, cell: Cell, samples: { measurement: Measurement; rssBytes: number }[]): Row {
  const { batch, context, steps } = cell;
  const msPerStep = median(samples.flatMap(({ measurement }) => measurement.stepMs));
  const timeToFirstTokenMs = median(samples.map(({ measurement }) => measurement.prefillMs));
  return {
    ...entry,
    batch,
    context,
    msPerStep,
    tokensPerSecond: (1000 * batch) / msPerStep,
    prefillTokensPerSecond: (1000 * batch * (context - steps)) / timeToFirstTokenMs,
    timeToFirstTokenMs,
    rssBytes: Math.max(...samples.map(({ rssBytes }) => rssBytes)),
  };
}

/** A contestant's process, one question at a time. */
class Runner {
  readonly entry: Entry;
  readonly #child: ChildProcess;
  #errors = "";

  constructor(entry: Entry, threads: number) {
    this.entry = entry;
    const script = join(import.meta.dirname, "contestant-process.ts");
    this.#child = fork(script, [entry.system, entry.format, `${threads}`], {
      execArgv: ["--expose-gc"],
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    this.#child.stderr?.on("data", (chunk) => {
      this.#errors += chunk;
    });
  }

  async ready(): Promise<number[]> {
    const answer = await this.#answer();
    if (answer.type !== "ready") throw new Error(`expected ready, got ${answer.type}`);
    return answer.firstIds;
  }

  async measure(cell: Cell): Promise<{ measurement: Measurement; rssBytes: number }> {
    this.#send(cell);
    const answer = await this.#answer();
    if (answer.type !== "measured") throw new Error(`expected a measurement, got ${answer.type}`);
    return answer;
  }

  end(): void {
    if (this.#child.connected) this.#send("release");
  }

  #send(message: ToContestant): void {
    this.#child.send(message);
  }

  #answer(): Promise<FromContestant> {
    return new Promise((resolve, reject) => {
      const ended = (code: number | null, signal: string | null) => {
        this.#child.off("message", heard);
        reject(
          new Error(`its process ended with ${signal ?? code}: ${this.#errors.trim().split("\n").slice(-3).join(" ")}`),
        );
      };
      const heard = (message: FromContestant) => {
        this.#child.off("close", ended);
        resolve(message);
      };
      this.#child.once("message", heard);
      this.#child.once("close", ended);
    });
  }
}
