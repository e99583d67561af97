/**
 * What each weight format costs in quality: the base's perplexity through the graph that serves, on the same held-out
 * windows. Without adapters, whose delta is fp32 in every format.
 */
import { formatsFor, type WeightFormat } from "../../runtime/gpt2-graph.ts";
import type { ModelFolder } from "../../runtime/model-folder.ts";
import { createStepRunner } from "../../runtime/onnx-runner.ts";
import type { Bank, StepInput, StepRunner } from "../../runtime/step.ts";
import { prefixTokens, sampleWindows, targetsOf, type Window } from "../corpus/windows.ts";
import type { Progress } from "../progress.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";

/** Windows at most: the formats differ window by window alike, so few tell enough. */
const mostWindows = 200;
const noBank: Bank = { gates: 0, a: new Float32Array(0), a0: new Float32Array(0), b: new Float32Array(0) };

export interface FormatRow {
  format: WeightFormat;
  ppl: number;
  tokens: number;
}

/** fp32 first. Throws the signal's reason when aborted. */
export async function measureFormats(
  model: ModelFolder,
  windows: readonly Window[],
  options: { threads: number; seed: number },
  progress: Progress,
  signal?: AbortSignal,
): Promise<FormatRow[]> {
  const chosen = sampleWindows(windows, mostWindows, new Random(options.seed, streams.formats));
  const tokens = chosen.reduce((sum, window) => sum + targetsOf(window).length, 0);
  const formats = formatsFor(model.config);
  progress.stage("weight formats", formats.length * chosen.length);
  const rows: FormatRow[] = [];
  for (const [index, format] of formats.entries()) {
    const runner = await createStepRunner({ ...model, bank: noBank, threads: options.threads, format });
    let loss = 0;
    for (const [done, window] of chosen.entries()) {
      signal?.throwIfAborted();
      loss += await lossOf(runner, window);
      progress.advance(index * chosen.length + done + 1, format);
    }
    await runner.release();
    rows.push({ format, ppl: Math.exp(loss / tokens), tokens });
  }
  return rows;
}

/** Summed over the window's targets, in nats. */
async function lossOf(runner: StepRunner, window: Window): Promise<number> {
  const { layers } = runner.config;
  const T = window.tokenIds.length;
  const targetIds = targetsOf(window);
  const N = targetIds.length;
  const input: StepInput = {
    sequences: 1,
    tokens: T,
    tokenIds: window.tokenIds,
    positions: Int32Array.from({ length: T }, (_, t) => t),
    pastTokens: 0,
    pastLengths: Int32Array.of(0),
    past: Array.from({ length: 2 * layers }, () => new Float32Array(0)),
    headRows: Int32Array.from({ length: N }, (_, n) => prefixTokens - 1 + n),
    gates: new Float32Array(0),
    inverseTemperatures: new Float32Array(N).fill(1),
    targetIds,
    bias: { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) },
    want: { scores: false, hidden: false },
  };
  const { logSumExp, targetScores } = await runner.run(input);
  return logSumExp.reduce((sum, x, n) => sum + x - targetScores[n], 0);
}
