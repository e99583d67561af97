/**
 * The models of model-config.ts and the bank of adapters in plain TypeScript with float64 accumulation: slow, obvious, and independent of
 * the graphs. Shapes: T tokens, D hidden, H heads of queries, K heads of keys and values, d head width, F feed-forward width, Q gates, V
 * vocabulary.
 */
import type { ModelConfig, Rotary } from "../../gpu-backend/runtime/model-config.ts";
import { floatsOf, type ModelWeights, weightOf } from "../../gpu-backend/runtime/model-weights.ts";
import type { Bank } from "../../gpu-backend/runtime/step.ts";

type Row = Float64Array<ArrayBuffer>;

/** Hidden states of one text after the last norm: T rows of [D]. */
export function oracleHidden(config: ModelConfig, weights: ModelWeights, tokenIds: readonly number[]): Row[] {
  const { hiddenSize: D, heads: H, kvHeads: K, headWidth: d, positions } = config;
  const read = (name: string) => floatsOf(weightOf(weights, name));
  const norm = (rows: Row[], name: string) => {
    const gain = read(`${name}.weight`);
    if (config.norm === "rms") return rows.map((row) => rmsNorm(row, gain, config.normEpsilon));
    const shift = read(`${name}.bias`);
    return rows.map((row) => layerNorm(row, gain, shift, config.normEpsilon));
  };
  const linear = (rows: Row[], name: string) => {
    const { shape } = weightOf(weights, `${name}.weight`);
    const matrix = read(`${name}.weight`);
    const bias = weights.has(`${name}.bias`) ? read(`${name}.bias`) : new Float32Array(shape[0]);
    return rows.map((row) => affine(row, matrix, bias));
  };
  /** Head h of each row, [T] of [d]. Queries and keys are normalised and rotated. */
  const headOf = (rows: Row[], h: number, normName: string | null) => {
    let heads = rows.map((row) => row.slice(h * d, (h + 1) * d));
    if (config.queryKeyNorm && normName) heads = norm(heads, normName);
    return positions === "learned" || !normName ? heads : heads.map((head, t) => rotated(head, t, positions));
  };

  const tokenRows = read("model.embed_tokens.weight");
  let states = tokenIds.map((id) => Float64Array.from(tokenRows.subarray(id * D, (id + 1) * D)));
  if (positions === "learned") {
    const positionRows = read("model.embed_positions.weight");
    states = states.map((row, t) => row.map((x, i) => x + positionRows[t * D + i]));
  }

  for (let l = 0; l < config.layers; l++) {
    const block = `model.layers.${l}`;
    const normed = norm(states, `${block}.input_layernorm`);
    const [queries, keys, values] = ["q", "k", "v"].map((part) => linear(normed, `${block}.self_attn.${part}_proj`));
    const attended = states.map(() => new Float64Array(H * d));
    for (let h = 0; h < H; h++) {
      const shared = Math.floor(h / (H / K));
      const q = headOf(queries, h, `${block}.self_attn.q_norm`);
      const k = headOf(keys, shared, `${block}.self_attn.k_norm`);
      const v = headOf(values, shared, null);
      q.forEach((query, t) => {
        const scores = Float64Array.from(k.slice(0, t + 1), (key) => dot(query, key) / Math.sqrt(d));
        softmax(scores).forEach((weight, s) => {
          for (let i = 0; i < d; i++) attended[t][h * d + i] += weight * v[s][i];
        });
      });
    }
    states = sum(states, linear(attended, `${block}.self_attn.o_proj`));
    const middle = norm(states, `${block}.post_attention_layernorm`);
    const up = linear(middle, `${block}.mlp.up_proj`);
    const inner =
      config.activation === "gelu"
        ? up.map((row) => row.map(geluNew))
        : linear(middle, `${block}.mlp.gate_proj`).map((row, t) =>
            row.map((x, i) => (x / (1 + Math.exp(-x))) * up[t][i]),
          );
    states = sum(states, linear(inner, `${block}.mlp.down_proj`));
  }
  return norm(states, "model.norm");
}

/** A head at position t: the complex numbers (x[i], x[i + d/2]) turned by t · f(i). */
function rotated(head: Row, t: number, { theta, scaling }: Rotary): Row {
  const half = head.length / 2;
  const out = new Float64Array(head.length);
  for (let i = 0; i < half; i++) {
    let frequency = theta ** (-i / half);
    if (scaling) {
      const { factor, lowFrequencyFactor: low, highFrequencyFactor: high, originalContextTokens } = scaling;
      const wavelength = (2 * Math.PI) / frequency;
      const smooth = (originalContextTokens / wavelength - low) / (high - low);
      if (wavelength > originalContextTokens / low) frequency /= factor;
      else if (wavelength > originalContextTokens / high)
        frequency = (1 - smooth) * (frequency / factor) + smooth * frequency;
    }
    const [cosine, sine] = [Math.cos(t * frequency), Math.sin(t * frequency)];
    out[i] = head[i] * cosine - head[i + half] * sine;
    out[i + half] = head[i + half] * cosine + head[i] * sine;
  }
  return out;
}

/** Logits [V] of one hidden state: h'·Wᵀ with h' = h + ((h·Aᵀ + a₀) ⊙ g)·B. */
export function oracleLogits(
  config: ModelConfig,
  weights: ModelWeights,
  hidden: Row,
  bank: Bank,
  gates: Float32Array,
): Row {
  const { hiddenSize: D, vocabularySize: V } = config;
  const head = config.tiedHead ? "model.embed_tokens.weight" : "lm_head.weight";
  const tokenRows = floatsOf(weightOf(weights, head));
  const u = Float64Array.from(gates, (gate, q) => {
    let projected = bank.a0[q];
    for (let i = 0; i < D; i++) projected += hidden[i] * bank.a[q * D + i];
    return projected * gate;
  });
  const adapted = hidden.map((x, i) => u.reduce((sum, one, q) => sum + one * bank.b[q * D + i], x));
  return Float64Array.from({ length: V }, (_, id) => {
    let logit = 0;
    for (let i = 0; i < D; i++) logit += adapted[i] * tokenRows[id * D + i];
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

/** W·x + b, W [out, in]. */
function affine(row: Row, matrix: Float32Array, bias: Float32Array): Row {
  return Float64Array.from(bias, (shift, j) => {
    let total = shift;
    for (let i = 0; i < row.length; i++) total += row[i] * matrix[j * row.length + i];
    return total;
  });
}

function dot(a: Row, b: Row): number {
  return a.reduce((total, x, i) => total + x * b[i], 0);
}

function rmsNorm(row: Row, gain: Float32Array, epsilon: number): Row {
  const scale = 1 / Math.sqrt(dot(row, row) / row.length + epsilon);
  return row.map((x, i) => x * scale * gain[i]);
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
