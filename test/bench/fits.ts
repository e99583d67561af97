/**
 * Time from the request for an own adapter to the backend's answer, beside two prefills of the same examples. Then 8 tenants ask at once.
 * An example is random tokens, a cue and the cue's label. The fitter's process runs already, as within a minute after any fit.
 */
import type { Backend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { promptsOf } from "./model.ts";
import { median } from "./quantile.ts";
import { generate, makeAdapter, withBackend } from "./served.ts";

/** `target`: maximum time of a fit, divided by the time of two prefills of its examples. */
const cells = [
  { examples: 32, target: 4 },
  { examples: 128, target: 3 },
];
const promptTokens = 96;
/** `cues`: tokens before a label. `labels`: the label of each cue. */
const cues = [314, 1592, 6535];
const labels = [2811, 3912, 5013];
const tenants = 8;

interface Options {
  threads: number;
  rounds: number;
  say(line: string): void;
}

export function measureFits({ threads, rounds, say }: Options) {
  const settings = { WEIGHT_FORMAT: "int8", THREADS: `${threads}`, PREFIX_CACHE_BYTES: "0" };
  return withBackend(settings, async (backend) => {
    await make(backend, "warm", 8);
    const rows: object[] = [];
    for (const { examples, target } of cells) {
      const pairs: { prefillTwiceMs: number; readyMs: number; fitMs: number }[] = [];
      for (let round = 0; round < rounds; round++) {
        const pair = { prefillTwiceMs: 0, readyMs: 0, fitMs: 0 };
        const prefill = async () => {
          for (let i = 0; i < 2; i++) pair.prefillTwiceMs += await timed(() => prefillAll(backend, examples));
        };
        const fit = async () => {
          pair.readyMs = await timed(async () => {
            pair.fitMs = (await make(backend, "tenant", examples)).timings.fitMs;
          });
        };
        for (const work of round % 2 === 0 ? [prefill, fit] : [fit, prefill]) await work();
        pairs.push(pair);
      }
      const of = (name: keyof (typeof pairs)[number]) => median(pairs.map((pair) => pair[name]));
      const ratio = median(pairs.map(({ readyMs, prefillTwiceMs }) => readyMs / prefillTwiceMs));
      const row = { examples, prefillTwiceMs: of("prefillTwiceMs"), readyMs: of("readyMs"), fitMs: of("fitMs"), ratio };
      say(
        `own adapter of ${examples} examples: ready after ${row.readyMs.toFixed(0)} ms, of which the fit ${row.fitMs.toFixed(0)}; prefilled twice ${row.prefillTwiceMs.toFixed(0)} ms: ${ratio.toFixed(2)}x, target ${target}x${ratio > target ? "  LOSES" : ""}`,
      );
      rows.push(row);
    }
    const all = Array.from({ length: tenants }, (_, i) => timed(() => make(backend, `tenant-${i}`, cells[0].examples)));
    /** Time from each tenant's request to its answer. All requests are sent at once. */
    const togetherMs = (await Promise.all(all)).sort((a, b) => a - b);
    say(`  ${tenants} tenants at once: ready after ${togetherMs.map((ms) => ms.toFixed(0)).join(", ")} ms`);
    return { rows, togetherMs };
  });
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return performance.now() - startedMs;
}

const idsOf = (examples: number) =>
  promptsOf(examples, promptTokens).map((ids, i) => [...ids, cues[i % cues.length], labels[i % cues.length], 2]);

const make = (backend: Backend, tenant: string, examples: number) =>
  makeAdapter(backend, tenant, idsOf(examples), promptTokens + 1);

const prefillAll = (backend: Backend, examples: number) =>
  generate(
    backend,
    idsOf(examples).map((ids, i) => sequenceRequest(`${i}`, ids, { maxTokens: 1 })),
  );
