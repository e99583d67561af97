/**
 * Our engine's inner loop as a contestant: the step runner over the KV arena, prefilled in chunks and decoded a token
 * a row, every row with the gates of another centroid. Not here: the plan, HTTP.
 */
import { chunkTokens } from "../../gpu-backend/config.ts";
import { KvArena } from "../../gpu-backend/kv/arena.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/gpt2-graph.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { StepOutput, StepRunner } from "../../gpu-backend/runtime/step.ts";
import { seededRandom } from "../support/steps.ts";
import { BatchMeter, type Contestant } from "./contestant.ts";
import { gpt2Bank, gpt2Config, gpt2Weights } from "./model.ts";

export async function openChameleon(format: WeightFormat, threads: number): Promise<Contestant> {
  const weights = await gpt2Weights();
  const runner = await createStepRunner({ config: gpt2Config, weights, bank: gpt2Bank(), threads, format });
  const random = seededRandom(3);
  return {
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
    async firstIds(prompts) {
      const batch = new Batch(runner, prompts.length, prompts[0].length);
      await batch.prefill(
        prompts,
        prompts.map(() => new Float32Array(runner.gates)),
      );
      return batch.lastIds;
    },
    release: () => runner.release(),
  };
}

/** Rows that run together, greedily. */
export class Batch {
  /** The last token of each row: not in the arena yet. */
  readonly lastIds: number[] = [];
  readonly #runner: StepRunner;
  readonly #arena: KvArena;

  /** With room for `positions` of each row from the start, as a running server has it. */
  constructor(runner: StepRunner, rows: number, positions: number) {
    const { layers, heads, hiddenSize, contextTokens } = runner.config;
    const headWidth = hiddenSize / heads;
    this.#runner = runner;
    this.#arena = new KvArena({ arrays: 2 * layers + 1, heads, headWidth, contextTokens, maximumRows: rows });
    for (let row = 0; row < rows; row++) this.#arena.open(positions);
  }

  /** Chunk by chunk, one prompt a pass, as the engine does. */
  async prefill(prompts: number[][], gates: Float32Array[]): Promise<void> {
    for (const [row, prompt] of prompts.entries()) {
      for (let start = 0; start < prompt.length; start += chunkTokens) {
        const isLast = start + chunkTokens >= prompt.length;
        const output = await this.#step(row, [prompt.slice(start, start + chunkTokens)], isLast ? [gates[row]] : null);
        if (isLast) this.lastIds.push(output.topIds[0]);
      }
    }
  }

  /** One token for every row. */
  async decode(gates: Float32Array[]): Promise<void> {
    const output = await this.#step(
      0,
      this.lastIds.map((id) => [id]),
      gates,
    );
    for (let n = 0; n < this.lastIds.length; n++) this.lastIds[n] = output.topIds[n * output.topCount];
  }

  /** A phase over rows [first, first + chunks.length), all chunks of one length T; without gates the head is not computed. */
  async #step(first: number, chunks: number[][], gates: Float32Array[] | null): Promise<StepOutput> {
    const S = chunks.length;
    const T = chunks[0].length;
    const N = gates ? S : 0;
    const feed = this.#arena.feed(first, S);
    const stepGates = new Float32Array(N * this.#runner.gates);
    gates?.forEach((row, n) => {
      stepGates.set(row, n * this.#runner.gates);
    });
    const output = await this.#runner.run({
      sequences: S,
      tokens: T,
      tokenIds: Int32Array.from(chunks.flat()),
      positions: Int32Array.from(chunks.flatMap((chunk, s) => chunk.map((_, t) => feed.pastLengths[s] + t))),
      ...feed,
      headRows: Int32Array.from({ length: N }, (_, n) => n * T + T - 1),
      gates: stepGates,
      inverseTemperatures: new Float32Array(N).fill(1),
      targetIds: new Int32Array(N),
      bias: { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) },
      want: { scores: false, hidden: false },
    });
    this.#arena.append(
      first,
      chunks.map((chunk) => chunk.length),
      output.present,
      T,
    );
    return output;
  }
}
