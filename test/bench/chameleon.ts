/**
 * Our engine's inner loop as a contestant: the step runner over the KV arena, without the engine's plan and HTTP. Each row has gates of its
 * own, as of another centroid.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { chunkTokens } from "../../gpu-backend/config.ts";
import { preparedGraph } from "../../gpu-backend/engine/prepared-graph.ts";
import { readSmoothing } from "../../gpu-backend/engine/smoothing-file.ts";
import type { KvRow } from "../../gpu-backend/kv/arena.ts";
import { HostRunner } from "../../gpu-backend/kv/host-runner.ts";
import type { Pass, PassOutput } from "../../gpu-backend/kv/runner.ts";
import { openGgufModel } from "../../gpu-backend/models/gguf/model.ts";
import type { ConstantFile } from "../../gpu-backend/runtime/graph.ts";
import { buildServingGraph } from "../../gpu-backend/runtime/model-graph.ts";
import { openStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import { kvFormatFor, type WeightFormat } from "../../gpu-backend/runtime/products.ts";
import { smoothed } from "../../gpu-backend/runtime/smoothing.ts";
import type { StepRunner } from "../../gpu-backend/runtime/step.ts";
import { randomBank, seededRandom } from "../support/steps.ts";
import { BatchMeter, type Contestant } from "./contestant.ts";
import type { Text } from "./texts.ts";

const engineLimits = { maxSequences: 1, maxQueue: 1, stepTokens: 256, chunkTokens, kvBytes: 2 ** 28 };

/** Opens a model as a server does: from the graph's file, with a server's default context. */
export async function openChameleon(format: WeightFormat, threads: number, gguf: string): Promise<Contestant> {
  const { runner, loadMs } = await openGguf(gguf, format, threads);
  const random = seededRandom(3);
  return {
    loadMs,
    async measure(prompts, steps) {
      const gates = prompts.map(() => Float32Array.from({ length: runner.gates }, () => random()));
      const batch = new Batch(runner, prompts.length, prompts[0].length + steps);
      const meter = new BatchMeter();
      await batch.prefill(prompts, gates);
      meter.token();
      for (let step = 0; step < steps; step++) {
        await batch.decode(gates);
        meter.token();
      }
      return meter.result();
    },
    async answer(text) {
      const { ms, ids, ...own } = await answerTo(text, new HostRunner(runner, engineLimits));
      const unguessing = Object.assign(new HostRunner(runner, engineLimits), { draftCost: Number.POSITIVE_INFINITY });
      return { ms, ids, own: { ...own, plain: await answerTo(text, unguessing) } };
    },
    async firstIds(prompts) {
      const batch = new Batch(runner, prompts.length, prompts[0].length);
      await batch.prefill(
        prompts,
        prompts.map(() => new Float32Array(runner.gates)),
      );
      return batch.lastIds;
    },
  };
}

/** The engine itself answers, without HTTP. Its code is loaded after the other measurements, because it takes memory. */
async function answerTo({ promptIds, tokens }: Text, runner: HostRunner) {
  const { createEngineHarness, sequenceRequest } = await import("../support/engine-harness.ts");
  const harness = createEngineHarness({ runner, limits: engineLimits });
  const request = sequenceRequest("a", promptIds, { maxTokens: tokens, sampling: { ignore_eos: true } });
  await harness.engine.submit(null, [request]);
  while (harness.tokensOf("a").length === 0) await harness.engine.step();
  const [before, startedMs] = [harness.reports.length, performance.now()];
  await harness.finish();
  const ms = performance.now() - startedMs;
  const passes = harness.reports.length - before;
  return { ms, ids: harness.tokensOf("a"), passes, guesses: harness.engine.stats.drafts };
}

async function openGguf(path: string, format: WeightFormat, threads: number) {
  const { config, weights, file } = openGgufModel(path);
  const served = { ...config, contextTokens: Math.min(config.contextTokens, 2048) };
  const bank = randomBank(served, 64, 8, seededRandom(8));
  const smoothing = format === "int8" ? await readSmoothing(dirname(path)) : null;
  const stored = smoothing ? smoothed(served, weights, smoothing.magnitudes) : weights;
  const folder = await mkdtemp(join(tmpdir(), "bench-"));
  const kv = kvFormatFor(format);
  const build = (constants?: ConstantFile) => buildServingGraph(served, stored, bank, { format, kv, file: constants });
  const { graph } = await preparedGraph(folder, "0", build, Date.now);
  file.close();
  const startedMs = performance.now();
  const runner = await openStepRunner(graph, { config: served, bank, threads, kv });
  const loadMs = performance.now() - startedMs;
  // The session has mapped or copied the file's constants.
  await rm(folder, { recursive: true, force: true });
  return { runner, loadMs };
}

export class Batch {
  /** Not in the arena yet. */
  readonly lastIds: number[] = [];
  readonly #runner: HostRunner;
  readonly #rows: readonly KvRow[];

  /** Rows have room for `positions` from the start, as in a running server. */
  constructor(runner: StepRunner, rows: number, positions: number) {
    const limits = { maxSequences: rows, chunkTokens, kvBytes: Number.POSITIVE_INFINITY };
    this.#runner = new HostRunner(runner, limits);
    this.#rows = Array.from({ length: rows }, () => this.#runner.kv.open(positions));
    this.#runner.kv.place(this.#rows.map((kv) => ({ kv, positions })));
  }

  async prefill(prompts: number[][], gates: Float32Array[]): Promise<void> {
    for (const [row, prompt] of prompts.entries()) {
      for (let start = 0; start < prompt.length; start += chunkTokens) {
        const isLast = start + chunkTokens >= prompt.length;
        const chunk = { kv: this.#rows[row], tokens: prompt.slice(start, start + chunkTokens) };
        const output = await this.#pass("prefill", [chunk], isLast ? [gates[row]] : null);
        if (isLast) this.lastIds.push(output.topIds[0]);
      }
    }
  }

  async decode(gates: Float32Array[]): Promise<void> {
    const rows = this.lastIds.map((id, row) => ({ kv: this.#rows[row], tokens: [id] }));
    const output = await this.#pass("decode", rows, gates);
    for (let n = 0; n < this.lastIds.length; n++) this.lastIds[n] = output.topIds[n * output.topCount];
  }

  /** Without gates the head is not computed. */
  #pass(phase: Pass["phase"], rows: Pass["rows"], gates: Float32Array[] | null): Promise<PassOutput> {
    const N = gates ? rows.length : 0;
    const head = {
      gates: Float32Array.from((gates ?? []).flatMap((row) => [...row])),
      inverseTemperatures: new Float32Array(N).fill(1),
      targetIds: new Int32Array(N),
      bias: { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) },
      want: { scores: false, hidden: false },
    };
    const states = rows.slice(0, N).map(({ kv, tokens }) => ({ kv, position: kv.positions + tokens.length - 1 }));
    return this.#runner.run({ phase, rows, states, head });
  }
}
