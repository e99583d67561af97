/**
 * The child process of one contestant: loads its model, says so, and measures what it is asked, until it is told to end.
 * Run by the contest: node --expose-gc contestant-process.ts SYSTEM FORMAT THREADS GGUF
 */
import { openChameleon } from "./chameleon.ts";
import type { Contestant, Measurement, System } from "./contestant.ts";
import { promptsOf } from "./model.ts";

export type ToContestant = { batch: number; context: number; steps: number } | "release";
export type FromContestant = { type: "ready"; firstIds: number[] } | { type: "measured"; measurement: Measurement };

/** Prompts that all contestants answer once, as a warm-up and to show that they compute the same. */
const checkPrompts = { batch: 8, tokens: 24 };

const [system, format, threads, gguf] = process.argv.slice(2);
const contestant = await open(system as System, format, Number(threads));
const firstIds = await contestant.firstIds(promptsOf(checkPrompts.batch, checkPrompts.tokens));
say({ type: "ready", firstIds });
// The contest told us to end, or has ended itself.
process.on("disconnect", () => process.exit());
process.on("message", (message: ToContestant) => {
  answer(message).catch((error: unknown) => {
    console.error(error);
    process.exit(1);
  });
});

async function open(system: System, format: string, threads: number): Promise<Contestant> {
  switch (system) {
    case "chameleon":
      return openChameleon(format as Parameters<typeof openChameleon>[0], threads, gguf);
    case "node-llama-cpp":
      return (await import("./llama/contestant.ts")).openLlama(threads, gguf);
  }
}

async function answer(message: ToContestant): Promise<void> {
  if (message === "release") {
    await contestant.release();
    process.disconnect();
    return;
  }
  const { batch, context, steps } = message;
  // What the last cell left behind is collected outside the measured time.
  globalThis.gc?.();
  say({ type: "measured", measurement: await contestant.measure(promptsOf(batch, context - steps), steps) });
}

function say(message: FromContestant): void {
  process.send?.(message);
}
