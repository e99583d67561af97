/**
 * GPT-2 and the gated bank's delta in plain TypeScript with float64 accumulation: slow, obvious, and independent of
 * the graphs. Shapes: T tokens, D hidden, H heads, d head width, Q gates, V vocabulary.
 */

import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import type { Bank } from "../../gpu-backend/runtime/step.ts";
import { type TensorFile, tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";

type Row = Float64Array<ArrayBuffer>;

/** Final hidden states, after the last layer norm, of one text from position 0: T rows of [D]. */
export function oracleHidden(config: ModelConfig, weights: TensorFile, tokenIds: readonly number[]): Row[] {
  const { hiddenSize: D, heads: H, normEpsilon } = config;
  const d = D / H;
  const read = (name: string) => toFloat32(tensorOf(weights, name));
  const tokenRows = read("wte.weight");
  const positionRows = read("wpe.weight");
  let states = tokenIds.map((id, t) =>
    Float64Array.from({ length: D }, (_, i) => tokenRows[id * D + i] + positionRows[t * D + i]),
  );

  const normed = (rows: Row[], name: string) => {
    const gain = read(`${name}.weight`);
    const shift = read(`${name}.bias`);
    return rows.map((row) => layerNorm(row, gain, shift, normEpsilon));
  };
  const linear = (rows: Row[], name: string) => {
    const kernel = read(`${name}.weight`);
    const bias = read(`${name}.bias`);
    return rows.map((row) => affine(row, kernel, bias));
  };

  for (let l = 0; l < config.layers; l++) {
    const qkv = linear(normed(states, `h.${l}.ln_1`), `h.${l}.attn.c_attn`); // T × [3D]
    const mixed = states.map(() => new Float64Array(D));
    for (let h = 0; h < H; h++) {
      for (let t = 0; t < states.length; t++) {
        const scores = new Float64Array(t + 1);
        for (let s = 0; s <= t; s++) {
          for (let i = 0; i < d; i++) scores[s] += qkv[t][h * d + i] * qkv[s][D + h * d + i];
          scores[s] /= Math.sqrt(d);
        }
        const attention = softmax(scores);
        for (let s = 0; s <= t; s++) {
          for (let i = 0; i < d; i++) mixed[t][h * d + i] += attention[s] * qkv[s][2 * D + h * d + i];
        }
      }
    }
    states = sum(states, linear(mixed, `h.${l}.attn.c_proj`));
    const inner = linear(normed(states, `h.${l}.ln_2`), `h.${l}.mlp.c_fc`).map((row) => row.map(geluNew));
    states = sum(states, linear(inner, `h.${l}.mlp.c_proj`));
  }
  return normed(states, "ln_f");
}

/** Logits [V] of one hidden state: h·Wᵀ + ((h·Aᵀ + a₀) ⊙ g)·B. */
export function oracleLogits(
  config: ModelConfig,
  weights: TensorFile,
  hidden: Row,
  bank: Bank,
  gates: Float32Array,
): Row {
  const { hiddenSize: D, vocabularySize: V } = config;
  const tokenRows = toFloat32(tensorOf(weights, "wte.weight"));
  const u = Float64Array.from(gates, (gate, q) => {
    let projected = bank.a0[q];
    for (let i = 0; i < D; i++) projected += hidden[i] * bank.a[q * D + i];
    return projected * gate;
  });
  return Float64Array.from({ length: V }, (_, id) => {
    let logit = 0;
    for (let i = 0; i < D; i++) logit += hidden[i] * tokenRows[id * D + i];
    for (let q = 0; q < u.length; q++) logit += u[q] * bank.b[q * V + id];
    return logit;
  });
}

/** log Σ exp. */
export function oracleLogSumExp(logits: ArrayLike<number>): number {
  const highest = Array.from(logits).reduce((a, b) => Math.max(a, b));
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += Math.exp(logits[i] - highest);
  return highest + Math.log(total);
}

function affine(row: Row, kernel: Float32Array, bias: Float32Array): Row {
  const out = Float64Array.from(bias);
  for (let i = 0; i < row.length; i++) {
    for (let j = 0; j < out.length; j++) out[j] += row[i] * kernel[i * out.length + j];
  }
  return out;
}

function layerNorm(row: Row, gain: Float32Array, shift: Float32Array, epsilon: number): Row {
  const mean = row.reduce((a, b) => a + b) / row.length;
  const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / row.length;
  return row.map((x, i) => ((x - mean) / Math.sqrt(variance + epsilon)) * gain[i] + shift[i]);
}

function softmax(scores: Row): Row {
  const total = oracleLogSumExp(scores);
  return scores.map((score) => Math.exp(score - total));
}

function geluNew(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

function sum(a: Row[], b: Row[]): Row[] {
  return a.map((row, t) => row.map((x, i) => x + b[t][i]));
}
