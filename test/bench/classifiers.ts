/**
 * Classifiers of many tenants over the embedded base: one engine that answers all in one batch, beside a session for each tenant. Each side
 * is a process. Only one side computes at a time, in alternating order. Memory is resident memory, with pages of a file counted once. Linux
 * only.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AskedProcess } from "./asked-process.ts";
import type { Answered } from "./classifiers-process.ts";
import { processBytes } from "./process-memory.ts";
import { median } from "./quantile.ts";

/** Lengths of an answer. One token is a label. */
const answerTokens = [1, 16];

export async function measureClassifiers(
  adapters: number,
  options: { threads: number; rounds: number; say(line: string): void },
) {
  const { threads, rounds, say } = options;
  const folder = await mkdtemp(join(tmpdir(), "chameleon-classifiers-"));
  /** The side with one engine, then the side with as many sessions as fit into memory. */
  const sides: { process: AskedProcess; sessions: number; bytes: number }[] = [];
  type Side = (typeof sides)[number];
  try {
    for (const isTogether of [true, false]) {
      const settings = JSON.stringify({ isTogether, adapters, threads, dataDirectory: folder });
      const process = new AskedProcess(new URL("./classifiers-process.ts", import.meta.url), settings);
      const sessions = await process.ready<number>();
      sides.push({ process, sessions, bytes: processBytes(process.pid) });
    }
    const [together, apart] = sides;
    const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
    const lacking = apart.sessions < adapters ? `; ${apart.sessions} of ${adapters} sessions fit into memory` : "";
    say(
      `${adapters} classifiers: one engine ${megabytes(together.bytes)}, ${apart.sessions} sessions ${megabytes(apart.bytes)}${lacking}`,
    );
    const rows: object[] = [];
    for (const tokens of answerTokens) {
      const cell = { tokens, requests: apart.sessions };
      const ms = new Map<Side, number[]>(sides.map((side) => [side, []]));
      let equalAnswers = 0;
      for (let round = 0; round < rounds; round++) {
        const answers = new Map<Side, string[]>();
        for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
          const answered = await side.process.ask<Answered>(cell);
          ms.get(side)!.push(answered.ms);
          answers.set(side, answered.answers);
        }
        equalAnswers = answers.get(together)!.filter((answer, i) => answer === answers.get(apart)![i]).length;
      }
      const perSecond = (side: Side) => (1000 * cell.requests) / median(ms.get(side)!);
      const row = { ...cell, perSecond: perSecond(together), perSecondApart: perSecond(apart), equalAnswers };
      const ratio = row.perSecond / row.perSecondApart;
      say(
        `  answers of ${tokens}: ${row.perSecond.toFixed(1)} requests/s, sessions ${row.perSecondApart.toFixed(1)} (${ratio.toFixed(2)}x); ${equalAnswers} of ${cell.requests} answers are the same${ratio < 1 ? "  LOSES" : ""}`,
      );
      rows.push(row);
    }
    return { adapters, sides: sides.map(({ sessions, bytes }) => ({ sessions, bytes })), rows };
  } finally {
    for (const { process } of sides) process.end();
    await rm(folder, { recursive: true });
  }
}
