/**
 * How soon an own adapter is ready when it is served: from the request to the backend until its answer, which is the adapter. This is
 * compared with prefilling the same examples twice, and then measured for 8 tenants at once. An example is random tokens, a cue, and
 * the cue's label: a task that can be learnt, so that a fit takes its steps. The fitter's process already runs, as within a minute
 * after any fit.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { adapterAnswerSchema } from "../../shared/contracts/inference.ts";
import { type Backend, framesOf, startBackend } from "../support/backend-process.ts";
import { embeddedBase } from "../support/embedded-base.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { promptsOf } from "./model.ts";
import { median } from "./quantile.ts";

/** `target`: the most time that an adapter of `examples` may take, as a multiple of prefilling all of them twice. */
const cells = [
  { examples: 32, target: 4 },
  { examples: 128, target: 3 },
];
const promptTokens = 96;
/** Tokens before the label, and the label that belongs to each. */
const cues = [314, 1592, 6535];
const labels = [2811, 3912, 5013];
const tenants = 8;

export interface FitsFigures {
  rows: { examples: number; prefillTwiceMs: number; readyMs: number; fitMs: number; ratio: number }[];
  /** Milliseconds from the requests of 8 tenants at once, with 32 examples each, to each answer. */
  togetherMs: number[];
}

export async function measureFits(options: {
  threads: number;
  rounds: number;
  say(line: string): void;
}): Promise<FitsFigures> {
  const { threads, rounds, say } = options;
  const folder = await mkdtemp(join(tmpdir(), "chameleon-fits-"));
  const environment = { WEIGHT_FORMAT: "int8", THREADS: `${threads}`, PREFIX_CACHE_BYTES: "0" };
  const backend = await startBackend({ ...environment, MODEL_DIR: embeddedBase, DATA_DIR: folder });
  const timed = async (work: () => Promise<unknown>) => {
    const startedMs = performance.now();
    await work();
    return performance.now() - startedMs;
  };
  try {
    await makeAdapter(backend, "warm", 8);
    const rows: FitsFigures["rows"] = [];
    for (const { examples, target } of cells) {
      const pairs: { prefillTwiceMs: number; readyMs: number; fitMs: number }[] = [];
      for (let round = 0; round < rounds; round++) {
        const pair = { prefillTwiceMs: 0, readyMs: 0, fitMs: 0 };
        const prefill = async () => {
          pair.prefillTwiceMs =
            (await timed(() => prefillAll(backend, examples))) + (await timed(() => prefillAll(backend, examples)));
        };
        const make = async () => {
          pair.readyMs = await timed(async () => {
            pair.fitMs = (await makeAdapter(backend, "tenant", examples)).timings.fitMs;
          });
        };
        for (const work of round % 2 === 0 ? [prefill, make] : [make, prefill]) await work();
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
    const all = Array.from({ length: tenants }, (_, i) =>
      timed(() => makeAdapter(backend, `tenant-${i}`, cells[0].examples)),
    );
    const togetherMs = (await Promise.all(all)).sort((a, b) => a - b);
    say(`  ${tenants} tenants at once: ready after ${togetherMs.map((ms) => ms.toFixed(0)).join(", ")} ms`);
    return { rows, togetherMs };
  } finally {
    backend.child.kill();
    await backend.exited;
    await rm(folder, { recursive: true });
  }
}

const idsOf = (examples: number) =>
  promptsOf(examples, promptTokens).map((ids, i) => [...ids, cues[i % cues.length], labels[i % cues.length], 2]);

async function prefillAll(backend: Backend, examples: number): Promise<void> {
  const sequences = idsOf(examples).map((ids, i) => sequenceRequest(`${i}`, ids, { maxTokens: 1 }));
  for await (const frame of framesOf(await backend.post("/v1/batches", backend.batch(null, sequences)))) {
    if (frame.type === "error") throw new Error(frame.message);
  }
}

async function makeAdapter(backend: Backend, tenant: string, examples: number) {
  const response = await backend.post("/v1/adapters", {
    ...{ version: 3, manifestHash: backend.manifestHash, tenant },
    examples: idsOf(examples).map((ids) => ({ ids, from: promptTokens + 1 })),
  });
  if (!response.ok) throw new Error(await response.text());
  return adapterAnswerSchema.parse(await response.json());
}
