/**
 * The numerics fingerprint: two backends that have the same one continue each other's sequences bit for bit.
 *
 * It is measured, not listed. A fixed probe runs on the session that serves (a prefill, then a decode step with a plain
 * row, an adapter and the pointer, then a row of evidence), and the fingerprint is a hash of the bits that come out: keys and
 * values of all layers, hidden states, every logit, what an adapter says of a token. So it tells whatever decides bits, without anybody having to know of it: weight
 * format, device and driver, instruction set, ONNX Runtime's version and kernels, the graph, the weights. A list of
 * features would miss some, and would part backends that agree: two processors of different instruction sets, or two
 * releases of ONNX Runtime, often compute the same bits. Thread counts do not change bits, so they do not change it.
 *
 * Device and weight format stand in front of the hash, so that a reader of a log sees why two differ. Not measured: the
 * directions of pooled adapters, which take the kernels that are measured, prompts longer than the probe's, and a chunk of a prompt
 * after others.
 */
import { createHash } from "node:crypto";
import type { WeightFormat } from "./gpt2-graph.ts";
import type { Device } from "./session.ts";
import {
  type MixedInput,
  minimumPrefillTokens,
  noPlainRows,
  noTokens,
  type RowOutput,
  type StepInput,
  type StepOutput,
  type StepRunner,
} from "./step.ts";
import { sampleOf } from "./vocabulary-sample.ts";

/** Longer than any vector register, and no multiple of one; beyond 128, kernels sum in blocks. */
const promptTokens = 141;
const hashDigits = 16;

/** Runs the probe and returns the fingerprint, such as `cpu-int8-0123456789abcdef`. */
export async function measureNumerics(
  runner: StepRunner,
  { device, format }: { device: Device; format: WeightFormat },
): Promise<string> {
  const hash = createHash("sha256");
  const prefill = prefillOf(runner);
  const prefilled = await runner.run(prefill);
  const decoded = await runner.run(decodeOf(runner, prefill, prefilled));
  const weighed = await runner.run(evidenceOf(runner, prefill, prefilled));
  for (const output of [prefilled, decoded]) addBits(output, (bits) => hash.update(bits));
  hash.update(bytesOf(weighed.mixed!.adapterTargets));
  return `${device}-${format}-${hash.digest("hex").slice(0, hashDigits)}`;
}

/** A prompt without a past; the head is computed at its last position. */
function prefillOf(runner: StepRunner): StepInput {
  const { vocabularySize, contextTokens, layers } = runner.config;
  const T = Math.min(promptTokens, contextTokens - 1);
  return {
    ...{ sequences: 1, tokens: T, pastTokens: 0 },
    tokenIds: Int32Array.from({ length: T }, (_, i) => (i * i * 31 + 7 * i) % vocabularySize),
    positions: Int32Array.from({ length: T }, (_, i) => i),
    pastLengths: Int32Array.of(0),
    past: Array.from({ length: 2 * layers }, () => new Float32Array(0)),
    headRows: Int32Array.of(T - 1),
    ...plainRow(runner),
  };
}

/** The next token, its past being what the prefill gave: one row under an adapter, and once more as a mixture. */
function decodeOf(runner: StepRunner, prefill: StepInput, { present, topIds }: StepOutput): StepInput {
  const { layers } = runner.config;
  const P = prefill.tokens;
  const pair = (i: number) => pairOf(runner, prefill, present, i);
  return {
    ...{ sequences: 1, tokens: 1, pastTokens: P },
    tokenIds: topIds.slice(0, 1),
    positions: Int32Array.of(P),
    pastLengths: Int32Array.of(P),
    past: Array.from({ length: 2 * layers }, (_, i) => pair(i)),
    headRows: Int32Array.of(0),
    plainRows: Int32Array.of(0),
    ...plainRow(runner),
    mixed: mixedRow(runner, prefill.tokenIds, pair(2 * layers)),
  };
}

/** One array of `present`; with one sequence it is what a past array is: [1, H, P, d]. */
function pairOf({ config }: StepRunner, { tokens }: StepInput, present: Float32Array, i: number): Float32Array {
  return present.slice(i * tokens * config.hiddenSize, (i + 1) * tokens * config.hiddenSize);
}

/** The head alone, over one state of the prompt: what an adapter says of tokens that are looked at in each way. */
function evidenceOf(runner: StepRunner, prefill: StepInput, { present }: StepOutput): StepInput {
  const { layers, hiddenSize, vocabularySize } = runner.config;
  const rare = sampleOf(vocabularySize)?.ranges[1][0] ?? 0;
  const targetIds = Int32Array.of(1, rare, vocabularySize - 1);
  const X = targetIds.length;
  const keys = pairOf(runner, prefill, present, 2 * layers);
  const queries = new Int32Array(minimumPrefillTokens);
  return {
    ...noTokens(prefill.tokens),
    ...noPlainRows(),
    // Of no position in particular: heads follow each other in it as in a state.
    fedStates: pairOf(runner, prefill, present, 2 * layers + 1).slice(0, hiddenSize),
    want: { scores: false, hidden: false },
    mixed: {
      ...{ rows: new Int32Array(X), adapters: 1, gates: gatesOf(X * runner.gates), targetIds },
      adapterBias: { ...noBias, adapters: new Int32Array(0) },
      evidence: { keys, count: 1, positions: prefill.tokens, queries, answers: new Int32Array(X) },
    },
  };
}

function plainRow({ gates }: StepRunner) {
  return {
    gates: gatesOf(gates),
    inverseTemperatures: Float32Array.of(1.25),
    targetIds: Int32Array.of(0),
    bias: noBias,
    want: { scores: true, hidden: true },
  };
}

function mixedRow({ gates }: StepRunner, promptIds: Int32Array, keys: Float32Array): MixedInput {
  const P = promptIds.length;
  return {
    rows: Int32Array.of(0),
    adapters: 1,
    gates: gatesOf(gates),
    adapterBias: { ...noBias, adapters: new Int32Array(0) },
    targetIds: Int32Array.of(0),
    mixture: {
      baseWeights: Float32Array.of(0.25),
      adapterWeights: Float32Array.of(0.5),
      inverseTemperatures: Float32Array.of(1.25),
      bias: noBias,
      pointer: {
        ...{ keys, count: 1, positions: P, lengths: Int32Array.of(P - 1) },
        ...{ sharpness: Float32Array.of(20), sentinels: Float32Array.of(0.01), odds: Float32Array.of(1 / 3) },
        queries: Int32Array.of(0),
        answers: Int32Array.of(0),
        ids: Int32Array.from(promptIds, (_, i) => promptIds[Math.min(i + 1, P - 1)]),
        weights: Float32Array.of(0.25),
      },
    },
  };
}

const noBias = { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) };

/** Of no adapter in particular. */
function gatesOf(count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, q) => ((q * 37) % 64) / 32 - 1);
}

function addBits({ present, hidden, mixed, ...plain }: StepOutput, add: (bits: Uint8Array) => void): void {
  const addRows = ({ scores, topIds, logSumExp, scaledLogSumExp }: RowOutput) => {
    for (const values of [scores!, topIds, logSumExp, scaledLogSumExp]) add(bytesOf(values));
    add(bytesOf(inJavaScript(scores!)));
  };
  add(bytesOf(present));
  add(bytesOf(hidden!));
  addRows(plain);
  if (!mixed) return;
  add(bytesOf(mixed.baseTargets));
  add(bytesOf(mixed.adapterTargets));
  addRows(mixed.rows!);
}

/** Exponentials and logarithms, which the engine takes of scores, are the JavaScript engine's. */
function inJavaScript(scores: Float32Array): Float64Array {
  return Float64Array.from(scores, (score) => Math.log(1 + Math.exp(score / 1.25)));
}

function bytesOf(values: Float32Array | Float64Array | Int32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
